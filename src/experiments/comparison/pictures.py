"""Find the digit in a user's picture, and convert it to an image like MNIST's.

The conversion follows LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998,
section III-A: the digit is scaled to fit 20 x 20 pixels, keeping its aspect ratio, with grey levels from the scaling,
and placed in 28 x 28 pixels with its centre of mass in the middle.
"""

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


SIZE = 28  # pixels of an image
BOX = 20  # pixels of the digit in it
WORKING_SIZE = 400  # pixels: larger pictures are scaled down to it
MOST_PIXELS = 100_000_000
LEAST_CONTRAST = 24  # of 255 grey levels, between ink and paper
SPECK = 0.03  # of the largest piece of ink; anything smaller is dirt
THIN = 2.0  # pixels in the box; MNIST's strokes are 2 to 3 wide, and thinner ones would fade when scaled


class PictureError(UserError):
    """A file that is not a picture of a digit, or cannot be read."""


def read_picture(file: Path) -> np.ndarray:
    """Return the digit in a PNG or JPEG file of any size and colour, dark on light or light on dark.

    It is uint8 [28, 28], light on dark like MNIST's images; a PictureError says if there is no such file or digit.
    """
    ink = _find_ink(_picture_colours(_open_picture(file)))
    if ink is None:
        raise PictureError(
            f"{file} shows nothing: expected one digit, dark on light or light on dark, with a contrast of at least"
            f" {LEAST_CONTRAST} of 255 grey levels to its surroundings."
        )
    return _like_mnist(ink)


def _open_picture(file: Path) -> "Image":
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit only warns, without saying what is allowed
    try:
        image = Image.open(file, formats=("PNG", "JPEG"))
        if image.width * image.height > MOST_PIXELS:
            size = f"{image.width} x {image.height} pixels, more than {MOST_PIXELS:,}"
            raise PictureError(f"{file} is too large: it has {size}. Use a smaller copy.")
        try:
            return ImageOps.exif_transpose(image)
        except struct.error:  # damaged EXIF data
            return image
    except (FileNotFoundError, IsADirectoryError):
        raise PictureError(f"{file} is not a file. Expected a PNG or JPEG picture of a digit.") from None
    except UnidentifiedImageError:
        raise PictureError(f"{file} is not a PNG or JPEG picture.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow's errors for a damaged file
        raise PictureError(f"{file} cannot be read: {error}.") from None


def _picture_colours(image: "Image") -> np.ndarray:
    """Return float64 [height, width, 3] from 0 to 255, no side longer than WORKING_SIZE.

    What is transparent becomes black or white, whichever is further from the opaque part.
    """
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip rather than scale
        image = Image.fromarray((np.asarray(image, np.float64) / 257).clip(0, 255).astype(np.uint8))
    image = image.convert("RGBA")
    image.thumbnail((WORKING_SIZE, WORKING_SIZE), Image.Resampling.BOX)
    pixels = np.asarray(image, np.float64)
    colours, opacity = pixels[..., :3], pixels[..., 3:] / 255
    dark = (colours * opacity).sum() < 127.5 * 3 * opacity.sum()
    return colours * opacity + (255 if dark else 0) * (1 - opacity)


def _find_ink(picture: np.ndarray) -> np.ndarray | None:
    """Return how much of each pixel is ink, from 0 to 1, float64 [height, width]; None if there is none.

    Ink is what differs from the paper in any colour, lighter or darker.
    """
    from scipy import ndimage

    difference = np.abs(picture - _paper_colour(picture)).max(2)
    noise = 4 * 1.4826 * np.median(difference)  # of the paper, which is most of the picture
    edge = _otsu_threshold(difference)
    found = difference > max(edge, noise)
    if not found.any() or np.median(difference[found]) < LEAST_CONTRAST:
        return None
    pieces, _ = ndimage.label(found, np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    kept = np.isin(pieces, 1 + np.flatnonzero(sizes >= SPECK * sizes.max()))
    full = np.median(difference[kept])
    near = ndimage.binary_dilation(kept, iterations=2 + max(picture.shape) // 100)  # include the soft edges of strokes
    faintest = min(noise, edge) + 0.05 * full
    return np.where(near, ((difference - faintest) / (full - faintest)).clip(0, 1), 0)


def _paper_colour(picture: np.ndarray) -> np.ndarray:
    """Return the colour of the paper at each pixel, lit unevenly: a quadratic surface fitted to what is not ink."""
    sample = picture[:: 1 + picture.shape[0] // 60, :: 1 + picture.shape[1] // 60]
    terms, pixels = _quadratic_terms(*sample.shape[:2]), sample.reshape(-1, 3)
    border = np.abs(terms[:, 1:3]).max(1) > 0.9
    ground = np.broadcast_to(np.median(pixels[border], axis=0), pixels.shape)
    coefficients = np.concatenate([ground[:1], np.zeros((5, 3))])
    for _ in range(6):
        difference = np.abs(pixels - ground).max(1)
        paper = difference <= max(3 * np.median(difference), LEAST_CONTRAST / 2)
        if np.count_nonzero(paper) < 0.3 * len(pixels):
            break
        coefficients = np.linalg.lstsq(terms[paper], pixels[paper], rcond=None)[0]
        ground = terms @ coefficients
    return (_quadratic_terms(*picture.shape[:2]) @ coefficients).reshape(picture.shape)


def _quadratic_terms(height: int, width: int) -> np.ndarray:
    """Return the terms of a quadratic surface at each pixel, float64 [height * width, 6]; x and y go from -1 to 1."""
    y, x = (axis.ravel() for axis in np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j])
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _otsu_threshold(values: np.ndarray) -> float:
    """Return the threshold between the two groups of values that differ the most (Otsu 1979)."""
    counts, edges = np.histogram(values, 256)
    middles = (edges[1:] + edges[:-1]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(middles[np.nanargmax(between)]) if np.isfinite(between).any() else 0.0


def _like_mnist(ink: np.ndarray) -> np.ndarray:
    from PIL import Image
    from scipy import ndimage

    rows, columns = (np.flatnonzero((ink > 0.5).any(axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    solid = ink > 0.5
    edge = np.count_nonzero(solid & ~ndimage.binary_erosion(solid))
    per_pixel = max(ink.shape) / BOX
    thickness = 2 * np.count_nonzero(solid) / edge / per_pixel
    if thickness < THIN and per_pixel > 1:
        more = round((THIN - thickness) * per_pixel / 2)
        ink = ndimage.grey_dilation(np.pad(ink, more), size=2 * more + 1)
    height, width = (max(1, round(side * BOX / max(ink.shape))) for side in ink.shape)
    scaled = Image.fromarray(ink.astype(np.float32)).resize((width, height), Image.Resampling.LANCZOS)
    digit = np.asarray(scaled).clip(0, 1)
    digit = digit / digit.max()
    image = np.zeros((SIZE, SIZE))
    centre = ndimage.center_of_mass(digit)
    top, left = np.clip(np.rint(SIZE / 2 - np.array(centre)).astype(int), 0, SIZE - np.array(digit.shape))
    image[top : top + height, left : left + width] = digit
    return np.rint(255 * image).astype(np.uint8)
