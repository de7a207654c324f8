"""All randomness of training, as a function of (seed, epoch, step) and never of call order."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config.keras_table import REFUSED_LAYERS
from experiments.config.registry import current_draw
from experiments.errors import ConfigError

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


# Where the counter of a dropout mask has the number of the layer: what layers and augmentations of the user's own draw.
LAYER_STREAM = 0x40000000
OWN_AUGMENTATION_STREAM = 0x50000000
ORDER_STREAM = 1  # second word of the generator's seed; data/datasets.py has its own


def epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """Return the order of the training examples in an epoch: a permutation, int32 [examples]."""
    return np.random.default_rng([seed, ORDER_STREAM, epoch]).permutation(examples).astype(np.int32)


def uniform_bits(
    counter: "tf.Tensor", rows: "tf.Tensor", columns: int, first_row: "tf.Tensor | int" = 0
) -> "tf.Tensor":
    """Return uniform random bits, uint32 [rows, columns], as a function of (counter, row, column) alone.

    They are the same with and without XLA, and for any slice of the rows, unlike TensorFlow's stateless generators.
    `counter`, uint32 [k], identifies the draw; `first_row` is the index of the first row within the whole batch.
    """
    import tensorflow as tf

    key = tf.constant(0x9E3779B9, tf.uint32)
    for word in tf.unstack(counter):
        key = _mix_bits(key + word * tf.constant(0x85EBCA6B, tf.uint32))
    row = tf.cast(first_row + tf.range(rows), tf.uint32)[:, None]
    cell = row * tf.constant(columns, tf.uint32) + tf.cast(tf.range(columns), tf.uint32)[None]
    return _mix_bits(_mix_bits(cell + key) + key)


def _mix_bits(h: "tf.Tensor") -> "tf.Tensor":
    """Return lowbias32 of each word, an integer hash with little bias (C. Wellons, hash-prospector, 2018)."""
    import tensorflow as tf

    for shift, multiplier in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        h = tf.bitwise.bitwise_xor(h, tf.bitwise.right_shift(h, tf.constant(shift, tf.uint32)))
        h = h * tf.constant(multiplier, tf.uint32)
    return tf.bitwise.bitwise_xor(h, tf.bitwise.right_shift(h, tf.constant(15, tf.uint32)))


@contextmanager
def drawing(stream: int, words: "tf.Tensor | tf.Variable", first_row: "tf.Tensor | int" = 0) -> Iterator[None]:
    """Let `experiments.random` draw as a function of `words`, uint32 [3]: seed, epoch and step.

    The first draw is of this stream, the next of the one that follows. `first_row` is the index of the first row within
    the global batch.
    """
    import tensorflow as tf

    streams = count(stream)

    def uniform(rows: "tf.Tensor", shape: tuple[int, ...]) -> "tf.Tensor":
        counter = tf.stack([words[0], tf.constant(next(streams), tf.uint32), words[1], words[2]])
        bits = uniform_bits(counter, rows, prod(shape), first_row)
        whole = tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.int32)
        return tf.reshape(tf.cast(whole, tf.float32) * 2**-24, [-1, *shape])

    before, current_draw.uniform = current_draw.uniform, uniform
    try:
        yield
    finally:
        current_draw.uniform = before


class MaskDraw(threading.local):
    """What a dropout mask is drawn from; per thread, as each replica is traced in its own thread."""

    counter: "tf.Tensor"  # uint32 [4]: seed, layer, epoch and step
    threshold: "tf.Tensor"  # uint32: rate * 2**32
    scale: "tf.Tensor"  # 1 / (1 - rate)
    first_row: "tf.Tensor | int" = 0  # index of the first row within the global batch


def with_counter_dropout(
    model: "keras.Model", synchronized: bool = False, block_pooling: bool = False
) -> tuple["keras.Model", list[Any]]:
    """Return a twin of a model, sharing its weights, with masks as a function of a counter, and its dropout layers.

    The loop sets the `draw` of each layer before each training call. With `synchronized`, batch normalization uses the
    batches of all replicas. With `block_pooling`, the gradients of layers that pool blocks add in a fixed order, which
    XLA's own do not on a GPU.
    """
    import keras

    dropouts: list[Any] = []

    @functools.cache  # a layer that is called twice stays one layer
    def replace(layer: Any) -> Any:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = synchronized
        if block_pooling and pools_blocks(layer):
            return _block_max_pooling()(layer)
        if not isinstance(layer, keras.layers.Dropout):  # SpatialDropout1D to 3D are subclasses
            return layer
        dropouts.append(_counter_dropout()(layer))
        return dropouts[-1]

    return keras.models.clone_model(model, clone_function=replace), dropouts


def refuse_other_randomness(model: "keras.Model") -> None:
    """Raise a ConfigError if a layer would draw random numbers in the order of its calls, so that no run is repeatable.

    Dropout layers of the model itself, not of another one within it, become functions of a counter; recurrent layers
    draw none at rate 0.
    """
    import keras

    for layer in model.layers:
        draws = len(layer.variables) > len(layer.weights)  # the rest are states of random generators
        rates = [getattr(layer, name, None) for name in ("dropout", "recurrent_dropout")]
        if draws and not isinstance(layer, keras.layers.Dropout) and rates != [0, 0]:
            raise ConfigError(
                f"model={model.name}: layer {layer.name!r} ({type(layer).__name__}) is refused:"
                f" {REFUSED_LAYERS['random'][0]}"
            )


def pools_blocks(layer: "keras.layers.Layer") -> bool:
    """Return whether a layer takes the maximum of blocks of pixels that neither overlap nor stand out of the image."""
    import keras

    if type(layer) is not keras.layers.MaxPooling2D or layer.data_format != "channels_last":
        return False
    sides = zip(layer.input.shape[1:3], layer.pool_size, strict=True)
    fits = layer.padding == "valid" or all(side % block == 0 for side, block in sides)
    return tuple(layer.strides) == tuple(layer.pool_size) and fits


def _block_max_pooling() -> Any:
    import keras
    import tensorflow as tf

    class BlockMaxPooling(keras.layers.Layer):
        """Maximum of blocks as a reduction; equal pixels share its gradient, of which Keras's goes to the first."""

        def __init__(self, layer: Any) -> None:
            super().__init__(name=layer.name)
            self.block = layer.pool_size

        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            (height, width, channels), (down, across) = inputs.shape[1:], self.block
            rows, columns = height // down, width // across
            whole = inputs[:, : rows * down, : columns * across]
            return tf.reduce_max(tf.reshape(whole, [-1, rows, down, columns, across, channels]), [2, 4])

    return BlockMaxPooling


def _counter_dropout() -> Any:
    import keras
    import tensorflow as tf

    class CounterDropout(keras.layers.Layer):
        """Dropout with a mask that is a function of (counter, row, column) alone."""

        def __init__(self, layer: Any) -> None:
            super().__init__(name=layer.name)
            self.supports_masking = True  # as in Keras: the layers after it receive the mask
            self.rate, self.draw = layer.rate, MaskDraw()
            self.drops_whole_channels = type(layer) is not keras.layers.Dropout
            self.channels_axis = 1 if getattr(layer, "data_format", "") == "channels_first" else -1
            self.noise_shape = layer.noise_shape  # None, or with 1 for axes along which the mask is the same

        def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
            if not training:
                return inputs
            shape = list(inputs.shape)
            if self.drops_whole_channels:
                channels, shape = shape[self.channels_axis], [1] * len(shape)
                shape[self.channels_axis] = channels
            elif self.noise_shape:
                shape = [size or given for size, given in zip(self.noise_shape, shape, strict=True)]
            draw = self.draw
            bits = uniform_bits(draw.counter, tf.shape(inputs)[0], prod(shape[1:]), draw.first_row)
            keep = tf.reshape(bits >= draw.threshold, [-1, *shape[1:]])
            return tf.where(keep, inputs * tf.cast(draw.scale, inputs.dtype), tf.zeros((), inputs.dtype))

    return CounterDropout
