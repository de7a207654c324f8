"""From a config to a Keras model, or from a file: a model's `name` picks its builder, the other keys are the arguments.

Every model takes raw inputs (pixels as stored) and scales them itself, so that a logged model is complete.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config.data_schema import LinearData
from experiments.config.facts import network_input_shape
from experiments.config.keras_table import SCALED_TANH, keras_table, split_named
from experiments.config.model_schema import LayersConfig
from experiments.config.schema import Config
from experiments.errors import ConfigError, StoreError
from experiments.profiling import span

if TYPE_CHECKING:
    import keras


@span("building the network")
def build_network(config: Config) -> "keras.Sequential":
    """Build the network of a config from stock Keras layers, with its initial weights drawn from `config.seed`.

    It maps raw inputs [batch, *data.shape] to class probabilities [batch, classes], or to one number [batch, 1].
    Raise a ConfigError if the layers do not fit each other or the data, or Keras rejects an argument.
    """
    import keras

    keras.utils.set_random_seed(config.seed)
    precision = config.training.mixed_precision
    keras.config.set_dtype_policy(f"mixed_{precision}" if precision else "float32")
    keys = {field.name for field in dataclasses.fields(config.model)} - {"name", "weights", "continue_"}
    with _keras_errors(f"model={config.model.name} cannot be built:"):
        layers = NETWORK_BUILDERS[config.model.name](config, **{key: getattr(config.model, key) for key in keys})
    model = keras.Sequential([keras.Input(config.data.shape), *_scaling_layers(config)], name=config.model.name)
    received = tuple(network_input_shape(config.data))
    parts = [layer if isinstance(layer, list) else [layer] for layer in layers]
    for number, layer in ((number, layer) for number, part in enumerate(parts) for layer in part):
        with _layer_errors(config, number, type(layer).__name__, f"it receives the shape {received}"):
            model.add(layer)
        received = model.output_shape[1:]
    _check_network(model, config)
    return model


def set_initial_weights(model: "keras.Model", weights: Sequence[np.ndarray], key: str) -> None:
    """Give a model the weights that the setting `key` asks for; raise a ConfigError if their shapes do not fit."""
    given, expected = ([tuple(value.shape) for value in values] for values in (weights, model.weights))
    if given != expected:
        raise ConfigError(
            f"{key} does not fit: its weights have the shapes {_show_shapes(given)}, but this network needs"
            f" {_show_shapes(expected)}. Use the data and model settings of that run: python scripts/compare.py"
            f" {key.partition('=')[2]}"
        )
    model.set_weights(weights)


def load_keras_model(file: Path, run_id: str) -> "keras.Model":
    """Load the model from a run's `.keras` file, or raise a StoreError."""
    import keras

    try:
        return keras.saving.load_model(file, compile=False)
    except Exception as error:  # Keras raises exceptions of many types
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise StoreError(f"The model of run {run_id} cannot be loaded: {reason}") from None


def _show_shapes(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) or "1" for shape in shapes) or "none"


@contextmanager
def _keras_errors(problem: str) -> Iterator[None]:
    """Raise a ConfigError with the first paragraph of Keras's message, without colours and TensorFlow's node names."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # Keras raises exceptions of many types
        text = re.sub(r"\x1b\[\d+m|\{\{.*?\}\}|Exception encountered when calling \S+\.", "", str(error))
        reason = " ".join((text.strip().split("\n\n")[0] or type(error).__name__).split())
        raise ConfigError(f"{problem} Keras says: {reason}") from None


def _layer_errors(config: Config, number: int, layer: str, context: str) -> AbstractContextManager[None]:
    written = isinstance(config.model, LayersConfig)
    place = f"model.layers[{number}]" if written else f"layer {number} of model={config.model.name}"
    return _keras_errors(f"{place} ({layer}) does not fit: {context};")


def _scaling_layers(config: Config) -> list["keras.Layer"]:
    """Return the layers that pad raw pixels with background, then scale them by mean and deviation."""
    import keras

    data = config.data
    if isinstance(data, LinearData):
        return []
    layers = []
    if data.padding:
        height, width, *channels = data.shape
        layers = [
            keras.layers.Reshape((height, width, *(channels or [1]))),
            keras.layers.ZeroPadding2D(data.padding),
            keras.layers.Reshape(network_input_shape(data)),
        ]
    if isinstance(data.mean, list) or isinstance(data.standard_deviation, list):
        pairs = list(zip(*np.broadcast_arrays(data.mean, data.standard_deviation), strict=True))
        scales = [float(1 / (data.pixel_max * deviation)) for _, deviation in pairs]
        return [*layers, keras.layers.Rescaling(scales, offset=[float(0.0 - mean / sd) for mean, sd in pairs])]
    scale = 1 / (data.pixel_max * data.standard_deviation)
    return [*layers, keras.layers.Rescaling(scale, offset=0.0 - data.mean / data.standard_deviation)]


def mlp_layers(config: Config, input_dropout: float, **dense: Any) -> list["keras.Layer"]:
    """Build Flatten and Dropout, then the dense layers."""
    import keras

    return [keras.layers.Flatten(), *_dropout_layers(input_dropout), *_dense_layers(config, **dense)]


def cnn_layers(
    config: Config,
    filters: list[int],
    kernel_size: int,
    pool_size: int,
    padding: str,
    units: list[int],
    activation: str,
    dropout: float,
    batch_normalization: bool,
    **kernel: Any,
) -> list["keras.Layer"]:
    """Build Conv2D - activation - MaxPooling2D for each of `filters`, then Flatten, Dropout and dense layers."""
    import keras

    shape = network_input_shape(config.data)
    layers = [keras.layers.Reshape((*shape, 1))] if len(shape) == 2 else []
    for count in filters:
        size = {"filters": count, "kernel_size": kernel_size, "padding": padding}
        layers += _with_activation(keras.layers.Conv2D, activation, batch_normalization, **size, **kernel)
        layers += [keras.layers.MaxPooling2D(pool_size)] if pool_size > 1 else []
    layers += [keras.layers.Flatten(), *_dropout_layers(dropout)]
    return [*layers, *_dense_layers(config, units, activation, dropout, batch_normalization, **kernel)]


def _dense_layers(
    config: Config,
    units: list[int],
    activation: str,
    dropout: float,
    batch_normalization: bool,
    output_activation: str | None = None,
    **kernel: Any,
) -> list["keras.Layer"]:
    """Build Dense - activation - Dropout for each of `units`, then the output layer."""
    import keras

    layers = []
    for width in units:
        layers += _with_activation(keras.layers.Dense, activation, batch_normalization, units=width, **kernel)
        layers += _dropout_layers(dropout)
    outputs, usual = (1, "linear") if isinstance(config.data, LinearData) else (config.data.classes, "softmax")
    last = {"units": outputs, "dtype": "float32", **kernel}
    return [*layers, *_with_activation(keras.layers.Dense, output_activation or usual, False, **last)]


def neuron_layers(config: Config, activation: str, kernel_initializer: Any) -> list["keras.Layer"]:
    """Build one dense unit: activation(weight * x + bias)."""
    import keras

    return _with_activation(keras.layers.Dense, activation, False, units=1, kernel_initializer=kernel_initializer)


def written_layers(config: Config, layers: list[Any]) -> list[list["keras.Layer"]]:
    """Build the layers listed in the config: for each entry one layer, except for scaled_tanh, which takes several."""
    import keras

    built = []
    for number, value in enumerate(layers):
        name, arguments = split_named(value, "layer")
        with _layer_errors(config, number, name, "its arguments are wrong"):
            arguments = _with_keras_objects(arguments)
            # Half-precision probabilities would not add up to 1.
            precision = {"dtype": "float32"} if number == len(layers) - 1 else {}
            scaled_tanh = arguments.get("activation") == SCALED_TANH
            if scaled_tanh:
                del arguments["activation"]
            bare = scaled_tanh and name == "Activation"
            layer = [] if bare else [getattr(keras.layers, name)(**arguments, **precision)]
            built.append([*layer, *_scaled_tanh_layers(**precision)] if scaled_tanh else layer)
    return built


NETWORK_BUILDERS: dict[str, Any] = {
    "mlp": mlp_layers,
    "cnn": cnn_layers,
    "neuron": neuron_layers,
    "layers": written_layers,
}


def _with_keras_objects(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Build a layer's initializers, regularizers and constraints: names, or {name: {argument: value}}."""
    import keras

    built = dict(arguments)
    for key, value in arguments.items():
        kind = f"{key.rpartition('_')[2]}s"
        if kind in ("initializers", "regularizers", "constraints") and value is not None:
            name, given = split_named(value, kind)
            assert name in keras_table()[kind], f"{name} passed the schema but is not in Keras's table of {kind}"
            built[key] = getattr(getattr(keras, kind), name)(**given)
    return built


def _with_activation(layer: Any, activation: str, batch_normalization: bool, **arguments: Any) -> list["keras.Layer"]:
    """Build a layer with its activation, and with batch normalization between the two if wanted."""
    import keras

    arguments = _with_keras_objects(arguments)
    if activation != SCALED_TANH and not batch_normalization:
        return [layer(activation=activation, **arguments)]
    precision = {key: value for key, value in arguments.items() if key == "dtype"}
    squash = _scaled_tanh_layers(**precision) if activation == SCALED_TANH else [keras.layers.Activation(activation)]
    if not batch_normalization:
        return [layer(**arguments), *squash]
    return [layer(use_bias=False, **arguments), keras.layers.BatchNormalization(), *squash]


def _scaled_tanh_layers(**precision: Any) -> list["keras.Layer"]:
    """Build 1.7159 tanh(2/3 x), which maps 1 to 1 (LeCun, Bottou, Orr, Müller, "Efficient BackProp", 1998)."""
    import keras

    return [
        keras.layers.Rescaling(2 / 3, **precision),
        keras.layers.Activation("tanh", **precision),
        keras.layers.Rescaling(1.7159, **precision),
    ]


def _dropout_layers(rate: float) -> list["keras.Layer"]:
    import keras

    return [keras.layers.Dropout(rate)] if rate else []


def _check_network(model: "keras.Sequential", config: Config) -> None:
    """Check the output shape and, on the smallest to the largest input, that the first step works and the loss fits."""
    data = config.data
    classes, largest, dtype = (
        (1, 1, "float32") if isinstance(data, LinearData) else (data.classes, data.pixel_max, "uint8")
    )
    if model.output_shape != (None, classes):
        raise ConfigError(
            f"model.layers end in the shape {model.output_shape}, data={data.name} needs {(None, classes)}. End with"
            f" {{Dense: {{units: {classes}{', activation: softmax' if classes > 1 else ''}}}}}, after Flatten"
        )
    ramp = np.linspace(0, largest, 2 * prod(data.shape)).astype(dtype)
    with _keras_errors(f"model={config.model.name} does not run:"):
        outputs = model(ramp.reshape(2, *data.shape)).numpy()
        for variable in model.trainable_variables:
            for function in filter(None, (variable.regularizer, variable.constraint)):
                function(variable)
    sums = outputs.sum(axis=1)
    if "crossentropy" in config.training.loss and (outputs.min() < 0 or abs(sums - 1).max() > 1e-3):
        given, softmax = "model.output_activation ends", "Leave it null"
        if isinstance(config.model, LayersConfig):
            given = "model.layers end"
            softmax = f"End with {{Dense: {{units: {classes}, activation: softmax}}}}"
        raise ConfigError(
            f"{given} in values that are not probabilities: for one image they add up to {sums[0]:.3g}, not 1."
            f" {softmax}, or choose training.loss=mean_squared_error"
        )
