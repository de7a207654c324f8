"""Builders of networks from stock Keras layers: from the input tensor and the keys of the config to the output tensor.

All layers are made by name from Keras's own, so a config can run no code.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from experiments.config.facts import OutputLayer
from experiments.config.keras_table import RESIDUAL, SCALED_TANH, keras_table, residual_layers, split_named
from experiments.errors import ConfigError

if TYPE_CHECKING:
    import keras


def mlp(inputs: "keras.KerasTensor", outputs: OutputLayer, input_dropout: float, **dense: Any) -> "keras.KerasTensor":
    """Build Flatten and Dropout, then the dense layers."""
    import keras

    layers = [keras.layers.Flatten(), *_dropout_layers(input_dropout), *_dense_layers(outputs, **dense)]
    return connect_layers(inputs, layers, "layer {} of model=mlp")


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
    return connect_layers(inputs, layers, "layer {} of model=cnn")


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
    return connect_layers(inputs, layers, "layer {} of model=neuron")


def written_layers(inputs: "keras.KerasTensor", outputs: OutputLayer, layers: list[Any]) -> "keras.KerasTensor":
    """Build the layers listed in the config, one after the other; the last is in full precision."""
    # Half-precision probabilities would not add up to 1.
    values = _written_sequence(inputs, layers[:-1], "model.layers[{}]")
    return _written_layer(values, layers[-1], f"model.layers[{len(layers) - 1}]", dtype="float32")


def _written_sequence(inputs: "keras.KerasTensor", layers: list[Any], place: str) -> "keras.KerasTensor":
    values = inputs
    for number, value in enumerate(layers):
        values = _written_layer(values, value, place.format(number))
    return values


def _written_layer(inputs: "keras.KerasTensor", value: Any, place: str, **precision: str) -> "keras.KerasTensor":
    """Build one entry of the list: one layer, several for scaled_tanh, or a block with a shortcut around it."""
    import keras

    if block := residual_layers(value):
        values = _written_sequence(inputs, block, f"{place}.{RESIDUAL}[{{}}]")
        return keras.layers.Add(**precision)([_shortcut(inputs, values, place), values])
    name, arguments = split_named(value, "layer")
    with _layer_errors(place, name, "its arguments are wrong"):
        arguments = build_keras_objects(arguments)
        scaled_tanh = arguments.get("activation") == SCALED_TANH
        if scaled_tanh:
            del arguments["activation"]
        bare = scaled_tanh and name == "Activation"
        layers = [] if bare else [getattr(keras.layers, name)(**arguments, **precision)]
        layers += _scaled_tanh_layers(**precision) if scaled_tanh else []
    return connect_layers(inputs, layers, place)


def _shortcut(inputs: "keras.KerasTensor", values: "keras.KerasTensor", place: str) -> "keras.KerasTensor":
    """Return the input of a block as it is added to the output: a linear projection of it where the shapes differ.

    That is a convolution of size 1, with strides, or a dense layer for vectors (He et al. 2016, equation 2).
    """
    import keras

    given, wanted = tuple(inputs.shape[1:]), tuple(getattr(values, "shape", ())[1:])
    if given == wanted:
        return inputs
    kinds = {1: "Dense", 2: "Conv1D", 3: "Conv2D", 4: "Conv3D"}
    strides = [-(-size // smaller) for size, smaller in zip(given[:-1], wanted[:-1], strict=False)]
    reached = [-(-size // stride) for size, stride in zip(given[:-1], strides, strict=False)]
    if len(given) != len(wanted) or reached != list(wanted[:-1]) or len(given) not in kinds:
        raise ConfigError(
            f"{place} ({RESIDUAL}) does not fit: it receives the shape {given}, and its layers return {wanted}. Its"
            " layers must keep the number of dimensions, and the sizes or a whole fraction of them, such as half"
        )
    size = {"kernel_size": 1, "strides": strides, "padding": "same"} if strides else {}
    return getattr(keras.layers, kinds[len(given)])(wanted[-1], use_bias=False, **size)(inputs)


def build_keras_objects(arguments: Mapping[str, Any]) -> dict[str, Any]:
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

    arguments = build_keras_objects(arguments)
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


@contextmanager
def keras_errors(problem: str) -> Iterator[None]:
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
    return keras_errors(f"{place} ({layer}) does not fit: {context};")


def connect_layers(inputs: "keras.KerasTensor", layers: Sequence["keras.Layer"], place: str) -> "keras.KerasTensor":
    """Return the output of layers one after the other; `place`, with {} for a number, says in messages where one is."""
    values = inputs
    for number, layer in enumerate(layers):
        received = tuple(getattr(values, "shape", ())[1:])
        with _layer_errors(place.format(number), type(layer).__name__, f"it receives the shape {received}"):
            values = layer(values)
    return values
