"""Random changes to training images, as a function of (seed, epoch, step, row)."""

from dataclasses import dataclass
from math import pi
from typing import TYPE_CHECKING

import numpy as np

from experiments.config.data_schema import AugmentationConfig, DataConfig, LinearData
from experiments.training.randomness import uniform_bits

if TYPE_CHECKING:
    import tensorflow as tf


AUGMENTATION_STREAM = 0xFFFFFFFF  # where the counter of a dropout mask has the number of the layer


@dataclass(frozen=True)
class Augmenter:
    """Rotates, scales, shifts and distorts each image at random; pixels from outside the image are background (0).

    Elastic distortions follow Simard, Steinkraus and Platt, "Best practices for convolutional neural networks", 2003:
    every pixel is moved by a random field, uniform in [-1, 1] before it is smoothed by a Gaussian.
    """

    config: AugmentationConfig  # the largest changes
    shape: tuple[int, ...]  # of an image: height and width (and channels)

    def __call__(
        self, images: "tf.Tensor", seed: "tf.Tensor", epoch: "tf.Tensor", step: "tf.Tensor", first_row: "tf.Tensor"
    ) -> "tf.Tensor":
        """Return the changed images, float32 [rows, height, width] or [rows, height, width, channels].

        `seed`, `epoch` and `step` are uint32 scalars, `first_row` the index of the first image in the global batch.
        """
        import tensorflow as tf

        height, width, *_ = self.shape
        rows, numbers = tf.shape(images)[0], 4 + (2 * height * width if self.config.elastic else 0)
        counter = tf.stack([seed, tf.constant(AUGMENTATION_STREAM, tf.uint32), epoch, step])
        bits = uniform_bits(counter, rows, numbers, first_row)
        drawn = tf.cast(tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.int32), tf.float32)
        drawn = drawn * 2**-23 - 1  # uniform in [-1, 1)
        y, x = self._places(drawn)
        flat = tf.reshape(images, [rows, height * width, -1])
        top, left = tf.floor(y), tf.floor(x)
        result = tf.zeros_like(flat)
        for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
            for column, right in ((left, 1 - (x - left)), (left + 1, x - left)):
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                place = tf.cast(tf.where(inside, row * width + column, tf.zeros_like(row)), tf.int32)
                share = tf.where(inside, down * right, tf.zeros_like(row))
                result += share[..., None] * tf.gather(flat, place, batch_dims=1)
        return tf.reshape(result, tf.shape(images))

    def _places(self, drawn: "tf.Tensor") -> tuple["tf.Tensor", "tf.Tensor"]:
        """Return where each pixel is taken from: row and column, each float32 [rows, height * width]."""
        import tensorflow as tf

        config, (height, width, *_) = self.config, self.shape
        angle = drawn[:, 0:1] * (config.rotation * pi / 180)
        size = 1 + drawn[:, 1:2] * config.scale
        y, x = np.divmod(np.arange(height * width, dtype=np.float32), np.float32(width))
        y, x = y - (height - 1) / 2 - drawn[:, 2:3] * config.shift, x - (width - 1) / 2 - drawn[:, 3:4] * config.shift
        cosine, sine = tf.cos(angle) / size, tf.sin(angle) / size
        y, x = cosine * y - sine * x + (height - 1) / 2, sine * y + cosine * x + (width - 1) / 2
        if config.elastic:
            fields = tf.reshape(drawn[:, 4:], [-1, 2, height, width])
            down, across = (tf.constant(_gaussian_matrix(length, config.smoothness)) for length in (height, width))
            moves = config.elastic * (down @ fields @ tf.transpose(across))
            moves = tf.reshape(moves, [-1, 2, height * width])
            y, x = y + moves[:, 0], x + moves[:, 1]
        return y, x


def build_augmenter(config: DataConfig) -> Augmenter | None:
    """Return the augmenter of a dataset's config, None if nothing is to be changed."""
    if isinstance(config, LinearData) or not config.augmentation:
        return None
    return Augmenter(config.augmentation, tuple(config.shape))


def _gaussian_matrix(length: int, deviation: float) -> np.ndarray:
    """Return the matrix that smooths a vector, padded with zeros, by a Gaussian: float32 [length, length]."""
    places = np.arange(-length, length + 1)
    kernel = np.exp(-((places / deviation) ** 2) / 2)
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    return (kernel / kernel.sum())[distance + length].astype(np.float32)
