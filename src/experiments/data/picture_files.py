"""Read pictures of all the usual formats: opened with their size bounded, and brought to one size and colour."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from experiments.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


MOST_PIXELS = 100_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
FORMATS_IN_WORDS = "PNG, JPEG, WebP, BMP or GIF"
ORIENTATION_TAG = 0x0112  # of EXIF
TURNED = (5, 6, 7, 8)  # orientations in which rows are columns


class PictureError(DataError):
    """A file that is not a picture, or cannot be read."""


class PictureStyle(NamedTuple):
    """How pictures become arrays of one shape."""

    size: tuple[int, int] | None  # height and width, None: as they are
    fit: Literal["crop", "pad"]
    color: bool


@contextmanager
def opened_picture(file: Path) -> "Iterator[Image]":
    """Open a picture, of which only the header is read; a PictureError says what is wrong with it, also later."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit only warns, without saying what is allowed
    if not file.is_file():  # reading a pipe could wait for ever
        raise PictureError(f"{file} is not a file. Expected a picture: {FORMATS_IN_WORDS}.")
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                size = f"{image.width} x {image.height} pixels, more than {MOST_PIXELS:,}"
                raise PictureError(f"{file} is too large: it has {size}. Use a smaller copy.")
            yield image
    except UnidentifiedImageError:
        raise PictureError(f"{file} is not a {FORMATS_IN_WORDS} picture.") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:  # Pillow's, for damage
        raise PictureError(f"{file} cannot be read: {error}.") from None


def picture_facts(file: Path) -> tuple[int, int, bool]:
    """Return height and width of a picture, as it is shown, and whether it is stored in colour; from its header."""
    with opened_picture(file) as image:
        height, width = image.height, image.width
        if _orientation(image) in TURNED:
            height, width = width, height
        if image.mode in ("P", "PA"):
            palette = np.array(image.getpalette() or [0] * 3).reshape(-1, 3)
            return height, width, bool((palette != palette[:, :1]).any())
        return height, width, image.mode not in ("1", "L", "LA", "La", "F") and not image.mode.startswith("I")


def read_picture_array(file: Path, style: PictureStyle) -> np.ndarray:
    """Return a picture as uint8 [height, width], or [height, width, 3] in colour; its first frame if it has several.

    It is turned as its EXIF data says, transparent parts become black, and scaling is antialiased.
    """
    from PIL import ImageOps

    with opened_picture(file) as image:
        orientation = _orientation(image)
        if style.size and image.format == "JPEG":  # decode half, a quarter or an eighth of it if enough
            image.draft(image.mode, style.size if orientation in TURNED else style.size[::-1])
        shown, mode = _flat_colours(image), "RGB" if style.color else "L"
        shown = shown if shown.mode == mode else shown.convert(mode)
        if orientation != 1:
            shown.getexif()[ORIENTATION_TAG] = orientation
            shown = ImageOps.exif_transpose(shown)
        if style.size and (shown.height, shown.width) != style.size:
            shown = _fit(shown, *style.size, style.fit)
        return np.asarray(shown)


def _orientation(image: "Image") -> int:
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except (struct.error, SyntaxError, TypeError, ValueError):  # damaged EXIF data
        return 1


def _flat_colours(image: "Image") -> "Image":
    """Return an image without transparency, in 8 bits."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip rather than scale
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    return image


def _fit(image: "Image", height: int, width: int, fit: str) -> "Image":
    """Scale an image, keeping its proportions, and cut off or fill up what is too much or too little, on both sides."""
    from PIL import Image

    ratios = width / image.width, height / image.height
    if fit == "crop":
        kept = width / max(ratios), height / max(ratios)
        left, top = (image.width - kept[0]) / 2, (image.height - kept[1]) / 2
        box = (max(0, left), max(0, top), min(image.width, left + kept[0]), min(image.height, top + kept[1]))
        return image.resize((width, height), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
    inner = max(1, round(image.width * min(ratios))), max(1, round(image.height * min(ratios)))
    page = Image.new(image.mode, (width, height))
    scaled = image.resize(inner, Image.Resampling.BILINEAR, reducing_gap=2.0)
    page.paste(scaled, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return page
