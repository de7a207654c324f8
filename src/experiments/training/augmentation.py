"""Random changes to training images, as a function of (seed, epoch, step, row)."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config.data_schema import AugmentationConfig, DataConfig, LinearData
from experiments.config.keras_table import split_named
from experiments.config.own_code import call_own
from experiments.config.registry import OwnFunction, own_functions
from experiments.errors import ConfigError
from experiments.training.randomness import OWN_AUGMENTATION_STREAM, drawing, uniform_bits

if TYPE_CHECKING:
    import tensorflow as tf


AUGMENTATION_STREAM = 0xFFFFFFFF  # where the counter of a dropout mask has the number of the layer
WHOLE_PIXEL_STREAM = 0xFFFFFFFE  # the same for flips, crops and colours
GREY_SHARES = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


@dataclass(frozen=True)
class Augmenter:
    """Rotates, scales, shifts and distorts each image at random; pixels from outside the image are background (0).

    Then flips it, cuts it out of a frame of background, changes its colours, and calls functions of the user's own.

    Elastic distortions follow Simard, Steinkraus and Platt, "Best practices for convolutional neural networks", 2003:
    every pixel is moved by a random field, uniform in [-1, 1] before it is smoothed by a Gaussian.
    """

    config: AugmentationConfig  # the largest changes
    shape: tuple[int, ...]  # of an image: height and width (and channels)
    pixel_max: int  # largest value of a pixel

    def __call__(
        self, images: "tf.Tensor", seed: "tf.Tensor", epoch: "tf.Tensor", step: "tf.Tensor", first_row: "tf.Tensor"
    ) -> "tf.Tensor":
        """Return the changed images, float32 [rows, height, width] or [rows, height, width, channels].

        `seed`, `epoch` and `step` are uint32 scalars, `first_row` the index of the first image in the global batch.
        """
        import tensorflow as tf

        def draw(stream: int, numbers: int) -> tf.Tensor:
            counter = tf.stack([seed, tf.constant(stream, tf.uint32), epoch, step])
            bits = uniform_bits(counter, tf.shape(images)[0], numbers, first_row)
            drawn = tf.cast(tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.int32), tf.float32)
            return drawn * 2**-23 - 1  # uniform in [-1, 1)

        config, (height, width, *_) = self.config, self.shape
        if config.moves:
            images = self._move(images, draw(AUGMENTATION_STREAM, 4 + (2 * height * width if config.elastic else 0)))
        if config.flip or config.crop or config.color:
            drawn = draw(WHOLE_PIXEL_STREAM, 6)
            images = self._flip_and_crop(images, drawn[:, :3]) if config.flip or config.crop else images
            images = self._change_colors(images, 1 + config.color * drawn[:, 3:]) if config.color else images
        with drawing(OWN_AUGMENTATION_STREAM, tf.stack([seed, epoch, step]), first_row):
            for value in config.own:
                name, arguments = split_named(value, "augmentation")
                images = self._call_own(own_functions("augmentation")[name], images, arguments)
        return images

    def _call_own(self, own: OwnFunction, images: "tf.Tensor", arguments: Mapping[str, Any]) -> "tf.Tensor":
        """Return what a function of the user's own makes of images, or raise a ConfigError if they are no longer."""
        import tensorflow as tf

        changed = call_own(own, images, **arguments)
        if not isinstance(changed, tf.Tensor) or changed.dtype != tf.float32 or changed.shape[1:] != images.shape[1:]:
            is_tensor = isinstance(changed, tf.Tensor)
            found = f"{changed.dtype.name} {changed.shape}" if is_tensor else type(changed).__name__
            raise ConfigError(f"{own.file}: {own.name} returned {found}; expected float32 {images.shape}, as given.")
        return changed

    def _move(self, images: "tf.Tensor", drawn: "tf.Tensor") -> "tf.Tensor":
        """Return images whose pixels are interpolated between those at the places that `_places` draws."""
        import tensorflow as tf

        height, width, *_ = self.shape
        rows = tf.shape(images)[0]
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

    def _flip_and_crop(self, images: "tf.Tensor", drawn: "tf.Tensor") -> "tf.Tensor":
        """Mirror the images whose first number is negative, and move each by the whole pixels of the other two."""
        import tensorflow as tf

        height, width, *_ = self.shape
        places = 2 * self.config.crop + 1
        y, x = (tf.constant(axis, tf.int32) for axis in np.divmod(np.arange(height * width), width))
        moves = tf.cast(tf.floor((drawn[:, 1:] + 1) / 2 * places), tf.int32) - self.config.crop
        row = y + moves[:, 0:1]
        column = tf.where(drawn[:, 0:1] < 0, width - 1 - x, x) if self.config.flip else x
        column = column + moves[:, 1:2]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        flat = tf.reshape(images, [tf.shape(images)[0], height * width, -1])
        taken = tf.gather(flat, tf.where(inside, row * width + column, 0), batch_dims=1)
        return tf.reshape(tf.where(inside[..., None], taken, 0.0), tf.shape(images))

    def _change_colors(self, images: "tf.Tensor", factors: "tf.Tensor") -> "tf.Tensor":
        """Multiply the brightness, the distance from the image's mean grey, and that from the pixel's own grey."""
        import tensorflow as tf

        pixels = tf.reshape(images, [tf.shape(images)[0], self.shape[0] * self.shape[1], *(self.shape[2:] or (1,))])
        shares = GREY_SHARES if pixels.shape[-1] == 3 else (1.0,)
        brightness, contrast, saturation = (factors[:, None, number : number + 1] for number in range(3))

        def greys(pixels: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(pixels * tf.constant(shares), -1, keepdims=True)

        pixels = tf.clip_by_value(pixels * brightness, 0.0, float(self.pixel_max))
        mean = tf.reduce_mean(greys(pixels), 1, keepdims=True)
        pixels = tf.clip_by_value(mean + (pixels - mean) * contrast, 0.0, float(self.pixel_max))
        if len(shares) == 3:
            grey = greys(pixels)
            pixels = tf.clip_by_value(grey + (pixels - grey) * saturation, 0.0, float(self.pixel_max))
        return tf.reshape(pixels, tf.shape(images))

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
    return Augmenter(config.augmentation, tuple(config.shape), config.pixel_max)


def _gaussian_matrix(length: int, deviation: float) -> np.ndarray:
    """Return the matrix that smooths a vector, padded with zeros, by a Gaussian: float32 [length, length]."""
    places = np.arange(-length, length + 1)
    kernel = np.exp(-((places / deviation) ** 2) / 2)
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    return (kernel / kernel.sum())[distance + length].astype(np.float32)
