"""From a config to a Keras model, or from a file: a model's `name` picks its builder, the other keys are the arguments.

Every model takes raw inputs (pixels as stored) and scales them itself, so that a logged model is complete.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config.data_schema import LinearData
from experiments.config.facts import OutputLayer, network_input_shape, output_layer
from experiments.config.keras_table import SCALED_TANH, keras_table, split_named
from experiments.config.model_schema import LayersConfig, MlpConfig, StartConfig
from experiments.config.own_code import call_own
from experiments.config.registry import own_functions
from experiments.config.schema import Config
from experiments.errors import ConfigError, StoreError
from experiments.profiling import span
from experiments.training.randomness import refuse_unrepeatable

if TYPE_CHECKING:
    import keras


@span("building the network")
def build_network(config: Config) -> "keras.Model":
    """Build the network of a config from stock Keras layers, with its initial weights drawn from `config.seed`.

    It maps raw inputs [batch, *data.shape] to class probabilities [batch, classes], or to one number [batch, 1].
    Raise a ConfigError if the layers do not fit each other or the data, or Keras rejects an argument.
    """
    import keras

    keras.utils.set_random_seed(config.seed)
    precision = config.training.mixed_precision
    keras.config.set_dtype_policy(f"mixed_{precision}" if precision else "float32")
    keys = {field.name for field in dataclasses.fields(config.model)}
    keys -= {field.name for field in dataclasses.fields(StartConfig)}
    inputs, outputs = keras.Input(config.data.shape), output_layer(config)
    with _keras_errors(f"model={config.model.name} cannot be built:"):
        scaled = _connect(inputs, _scaling_layers(config), "layer {} of the scaling")
        arguments = {key: getattr(config.model, key) for key in keys}
        own = own_functions("model").get(config.model.name)
        build = partial(call_own, own) if own else NETWORK_BUILDERS[config.model.name]
        model = keras.Model(inputs, build(scaled, outputs, **arguments), name=config.model.name)
    _check_network(model, config, outputs)
    if own:
        refuse_unrepeatable(model)
        _refuse_unloadable(model)
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


def load_keras_model(file: Path, run_id: str, config: Config) -> "keras.Model":
    """Load the model from a run's `.keras` file, or raise a StoreError; the user's own layers are those of `config`."""
    import keras

    if config.model.name in own_functions("model"):
        build_network(config)  # which defines its layers
    try:
        return keras.saving.load_model(file, compile=False)
    except Exception as error:  # Keras raises exceptions of many types
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise StoreError(f"The model of run {run_id} cannot be loaded: {reason}") from None


def _refuse_unloadable(model: "keras.Model") -> None:
    """Raise a ConfigError if Keras could not load a model of the user's own from its file."""
    import keras

    try:
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    except Exception as error:  # Keras raises exceptions of many types
        raise ConfigError(
            f"model={model.name} could not be loaded from its file again. Decorate each layer of your own with"
            " @keras.saving.register_keras_serializable(), and return all arguments of its constructor from get_config."
        ) from error


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


def _layer_errors(place: str, layer: str, context: str) -> AbstractContextManager[None]:
    return _keras_errors(f"{place} ({layer}) does not fit: {context};")


def _connect(inputs: "keras.KerasTensor", layers: Sequence["keras.Layer"], place: str) -> "keras.KerasTensor":
    """Return the output of layers one after the other; `place`, with {} for a number, says in messages where one is."""
    values = inputs
    for number, layer in enumerate(layers):
        received = tuple(getattr(values, "shape", ())[1:])
        with _layer_errors(place.format(number), type(layer).__name__, f"it receives the shape {received}"):
            values = layer(values)
    return values


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


def mlp(inputs: "keras.KerasTensor", outputs: OutputLayer, input_dropout: float, **dense: Any) -> "keras.KerasTensor":
    """Build Flatten and Dropout, then the dense layers."""
    import keras

    layers = [keras.layers.Flatten(), *_dropout_layers(input_dropout), *_dense_layers(outputs, **dense)]
    return _connect(inputs, layers, "layer {} of model=mlp")


def cnn(
    inputs: "keras.KerasTensor",
    outputs: OutputLayer,
    filters: list[int],
    kernel_size: int,
    pool_size: int,
    padding: str,
    units: list[int],
    activation: str,
    dropout: float,
    batch_normalization: bool,
    **kernel: Any,
) -> "keras.KerasTensor":
    """Build Conv2D - activation - MaxPooling2D for each of `filters`, then Flatten, Dropout and dense layers."""
    import keras

    layers = image_layers(inputs)
    for count in filters:
        size = {"filters": count, "kernel_size": kernel_size, "padding": padding}
        layers += _with_activation(keras.layers.Conv2D, activation, batch_normalization, **size, **kernel)
        layers += [keras.layers.MaxPooling2D(pool_size)] if pool_size > 1 else []
    layers += [keras.layers.Flatten(), *_dropout_layers(dropout)]
    layers += _dense_layers(outputs, units, activation, dropout, batch_normalization, **kernel)
    return _connect(inputs, layers, "layer {} of model=cnn")


def image_layers(inputs: "keras.KerasTensor") -> list["keras.Layer"]:
    """Build what gives grey images a channel axis; nothing for images that have one."""
    import keras

    return [keras.layers.Reshape((*inputs.shape[1:], 1))] if len(inputs.shape) == 3 else []


def _dense_layers(
    outputs: OutputLayer,
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
    last = {"units": outputs.units, "dtype": "float32", **kernel}
    return [*layers, *_with_activation(keras.layers.Dense, output_activation or outputs.activation, False, **last)]


def neuron(
    inputs: "keras.KerasTensor", outputs: OutputLayer, activation: str, kernel_initializer: Any
) -> "keras.KerasTensor":
    """Build one dense unit: activation(weight * x + bias)."""
    import keras

    unit = {"units": outputs.units, "kernel_initializer": kernel_initializer}
    layers = _with_activation(keras.layers.Dense, activation, False, **unit)
    return _connect(inputs, layers, "layer {} of model=neuron")


def written_layers(inputs: "keras.KerasTensor", outputs: OutputLayer, layers: list[Any]) -> "keras.KerasTensor":
    """Build the layers listed in the config, one after the other; the last is in full precision."""
    values = inputs
    for number, value in enumerate(layers):
        # Half-precision probabilities would not add up to 1.
        precision = {"dtype": "float32"} if number == len(layers) - 1 else {}
        values = _written_layer(values, value, f"model.layers[{number}]", **precision)
    return values


def _written_layer(inputs: "keras.KerasTensor", value: Any, place: str, **precision: str) -> "keras.KerasTensor":
    """Build one entry of the list: one layer, or several for scaled_tanh."""
    import keras

    name, arguments = split_named(value, "layer")
    with _layer_errors(place, name, "its arguments are wrong"):
        arguments = _with_keras_objects(arguments)
        scaled_tanh = arguments.get("activation") == SCALED_TANH
        if scaled_tanh:
            del arguments["activation"]
        bare = scaled_tanh and name == "Activation"
        layers = [] if bare else [getattr(keras.layers, name)(**arguments, **precision)]
        layers += _scaled_tanh_layers(**precision) if scaled_tanh else []
    return _connect(inputs, layers, place)


# Each builds a network from inputs as they leave the scaling, and returns its output; `outputs` describes the last
# layer, and the other arguments are the keys of the config.
NETWORK_BUILDERS: dict[str, Any] = {
    "mlp": mlp,
    "cnn": cnn,
    "neuron": neuron,
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


def _check_network(model: "keras.Model", config: Config, wanted: OutputLayer) -> None:
    """Check the output shape and, on the smallest to the largest input, that the first step works and the loss fits."""
    data, units = config.data, wanted.units
    ends, fix = f"model={config.model.name} ends", "Correct its builder"
    if isinstance(config.model, LayersConfig):
        activation = "" if wanted.activation == "linear" else f", activation: {wanted.activation}"
        ends, fix = "model.layers end", f"End with {{Dense: {{units: {units}{activation}}}}}"
    if model.output_shape != (None, units):
        after = ", after Flatten" if isinstance(config.model, LayersConfig) else ""
        raise ConfigError(
            f"{ends} in the shape {model.output_shape}, data={data.name} needs {(None, units)}. {fix}{after}"
        )
    largest, dtype = (1, "float32") if isinstance(data, LinearData) else (data.pixel_max, "uint8")
    ramp = np.linspace(0, largest, 2 * prod(data.shape)).astype(dtype)
    with _keras_errors(f"model={config.model.name} does not run:"):
        outputs = model(ramp.reshape(2, *data.shape)).numpy()
        for variable in model.trainable_variables:
            for function in filter(None, (variable.regularizer, variable.constraint)):
                function(variable)
    sums = outputs.sum(axis=1)
    excess = abs(sums - 1).max() if units > 1 else outputs.max() - 1
    if "crossentropy" in config.training.loss and (outputs.min() < 0 or excess > 1e-3):
        if isinstance(config.model, MlpConfig):
            ends, fix = "model.output_activation ends", "Leave it null"
        wrong = f"they add up to {sums[0]:.3g}, not 1" if units > 1 else "it is not between 0 and 1"
        raise ConfigError(
            f"{ends} in values that are not probabilities: for one image {wrong}. {fix}, or choose"
            " training.loss=mean_squared_error"
        )
