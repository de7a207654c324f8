"""Residual networks for small images (He et al., "Deep residual learning for image recognition", CVPR 2016)."""

from typing import TYPE_CHECKING, Any

from experiments.config.facts import OutputLayer
from experiments.training.network_builders import build_keras_objects, image_layers

if TYPE_CHECKING:
    import keras


STAGE_FILTERS = (16, 32, 64)


def resnet(inputs: "keras.KerasTensor", outputs: OutputLayer, depth: int, **kernel: Any) -> "keras.KerasTensor":
    """Build the network of section 4.2: 6n + 2 layers with weights, in three stages of n blocks each.

    The first block of the second and third stage halves the image and doubles the filters. Its shortcut takes every
    second pixel, and zeros for the new filters, so that no shortcut has weights (option A).
    """
    import keras

    values = inputs
    for layer in image_layers(inputs):
        values = layer(values)
    values = _convolution(values, STAGE_FILTERS[0], 1, "stem", **kernel)
    values = keras.layers.Activation("relu", name="stem_relu")(values)
    for stage, filters in enumerate(STAGE_FILTERS, 1):
        for block in range(1, (depth - 2) // 6 + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            values = _block(values, filters, strides, f"stage{stage}_block{block}", **kernel)
    values = keras.layers.GlobalAveragePooling2D(name="pool")(values)
    last = {"activation": outputs.activation, "dtype": "float32", **build_keras_objects(kernel)}
    return keras.layers.Dense(outputs.units, name="output", **last)(values)


def _block(inputs: "keras.KerasTensor", filters: int, strides: int, name: str, **kernel: Any) -> "keras.KerasTensor":
    """Build two convolutions with a shortcut around them."""
    import keras

    values = _convolution(inputs, filters, strides, f"{name}_1", **kernel)
    values = keras.layers.Activation("relu", name=f"{name}_1_relu")(values)
    values = _convolution(values, filters, 1, f"{name}_2", **kernel)
    shortcut = inputs
    if strides > 1:
        # Zero padding of the last axis, which is the width to a layer that takes the channels to come first.
        zeros = (filters - inputs.shape[-1]) // 2
        every_second = keras.layers.AveragePooling2D(1, strides, name=f"{name}_every_second")
        padding = {"padding": ((0, 0), (zeros, zeros)), "data_format": "channels_first"}
        shortcut = keras.layers.ZeroPadding2D(**padding, name=f"{name}_zeros")(every_second(inputs))
    values = keras.layers.Add(name=f"{name}_add")([shortcut, values])
    return keras.layers.Activation("relu", name=f"{name}_relu")(values)


def _convolution(
    inputs: "keras.KerasTensor", filters: int, strides: int, name: str, **kernel: Any
) -> "keras.KerasTensor":
    """Build a convolution of size 3 with batch normalization; with strides, its centres are those of the shortcut."""
    import keras

    values, padding = inputs, "same"
    if strides > 1:  # where "same" would pad at one side only
        values, padding = keras.layers.ZeroPadding2D(1, name=f"{name}_border")(inputs), "valid"
    size = {"filters": filters, "kernel_size": 3, "strides": strides, "padding": padding, "use_bias": False}
    values = keras.layers.Conv2D(**size, name=f"{name}_conv", **build_keras_objects(kernel))(values)
    return keras.layers.BatchNormalization(name=f"{name}_norm")(values)
