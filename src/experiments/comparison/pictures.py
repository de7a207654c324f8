"""Find the digits in a user's picture, and convert each to an image like MNIST's.

The conversion follows LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998,
section III-A: the digit is scaled to fit 20 x 20 pixels, keeping its aspect ratio, with grey levels from the scaling,
and placed in 28 x 28 pixels with its centre of mass in the middle.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.data.picture_files import PictureError, opened_picture

if TYPE_CHECKING:
    from PIL.Image import Image


SIZE = 28  # pixels of an image
BOX = 20  # pixels of the digit in it
WORKING_SIZE = 400  # pixels: larger pictures are scaled down to it
LEAST_CONTRAST = 24  # of 255 grey levels, between ink and paper
SPECK = 0.03  # of the largest piece of ink; anything smaller is dirt
MOST_PIECES = 100  # of ink; more are a text or a photo
FRAMED = 0.25  # of a frame's longer side: the least that the largest piece within it has
LINE = 0.04  # of a line's length: its largest width
BROKEN = 0.05  # of the longer side of a piece: the largest gap to another part of its digit
DETACHED = 0.25  # the same for a part that is above, below or less than half as long, such as the bar of a 5
FILLED = 0.9  # of each side of the box around a digit: more than any digit fills
WIDE = 1.5  # width of a digit by its height, at most
THIN = 2.0  # pixels in the box; MNIST's strokes are 2 to 3 wide, and thinner ones would fade when scaled


@dataclass(frozen=True)
class ReadPicture:
    """What a picture shows."""

    digits: list[np.ndarray]  # uint8 [28, 28] each, light on dark like MNIST's images, in reading order
    remarks: list[str]  # what speaks against its being one digit


def read_picture(file: Path) -> ReadPicture:
    """Read the digits in a picture of any size and colour, dark on light or light on dark.

    Raise a PictureError if there is no such file or digit.
    """
    found = _find_digits(_picture_colours(_open_picture(file)), file)
    if not found.digits:
        raise PictureError(
            f"{file} shows nothing: expected one digit, dark on light or light on dark, with a contrast of at least"
            f" {LEAST_CONTRAST} of 255 grey levels to its surroundings."
        )
    return ReadPicture([_like_mnist(ink) for ink in found.digits], found.remarks)


def _open_picture(file: Path) -> "Image":
    from PIL import ImageOps

    with opened_picture(file) as image:
        _read_low_bytes(image, file)
        try:
            return ImageOps.exif_transpose(image)
        except struct.error:  # damaged EXIF data
            return image.copy()


def _read_low_bytes(image: "Image", file: Path) -> None:
    """Scale the colours and opacity of a 16-bit PNG by their range, as cameras use 8, 10, 12, ... of the bits.

    Pillow keeps the high byte of each. (Grey ones without opacity it reads whole.)
    """
    from PIL.PngImagePlugin import PngImageFile

    kind = str(image.tile[0].args) if isinstance(image, PngImageFile) else ""
    low_kind = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}.get(kind)
    if low_kind is None or np.asarray(image)[..., :3].max() > 127:
        return
    with PngImageFile(file) as again:
        again.tile = [again.tile[0]._replace(args=low_kind)]
        high, low = np.asarray(image), np.asarray(again)
    if kind == "LA;16B":  # read as four bytes
        low = low[..., [1, 1, 1, 3]]
    channels = []
    for part in (slice(0, 3), slice(3, None)):
        bits = int(high[..., part].max(initial=0)).bit_length()
        channels.append(high[..., part] << (8 - bits) | low[..., part] >> bits)
    image.frombytes(np.concatenate(channels, 2).tobytes())


def _picture_colours(image: "Image") -> np.ndarray:
    """Return float64 [height, width, 3] from 0 to 255, no side longer than WORKING_SIZE.

    What is transparent becomes black or white, whichever is further from the opaque part.
    """
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip rather than scale
        values = np.asarray(image).clip(0, 65535).astype(np.uint16)
        largest = 2 ** max(8, int(values.max()).bit_length()) - 1  # of the camera's 8, 10, 12, ... bits
        image = Image.fromarray((np.arange(65536) * (255 / largest)).clip(0, 255).astype(np.uint8)[values])
    if image.mode in ("L", "RGB") and "transparency" not in image.info:  # the next steps take less memory
        image = image.reduce(max(1, max(image.size) // (2 * WORKING_SIZE)))
    image = image.convert("RGBA")
    image.thumbnail((WORKING_SIZE, WORKING_SIZE), Image.Resampling.BOX)
    pixels = np.asarray(image, np.float64)
    colours, opacity = pixels[..., :3], pixels[..., 3:] / 255
    dark = (colours * opacity).sum() < 127.5 * 3 * opacity.sum()
    return colours * opacity + (255 if dark else 0) * (1 - opacity)


def _find_digits(picture: np.ndarray, file: Path) -> ReadPicture:
    """Return how much of each pixel is ink, from 0 to 1, as a float64 [height, width] for each digit.

    Ink is what differs from the paper in any colour, lighter or darker.
    """
    from scipy import ndimage

    difference = np.abs(picture - _paper_colour(picture)).max(2)
    noise = 4 * 1.4826 * np.median(difference)  # of the paper, which is most of the picture
    edge = _otsu_threshold(difference)
    found = difference > max(edge, noise)
    if not found.any() or np.median(difference[found]) < LEAST_CONTRAST:
        return ReadPicture([], [])
    pieces, _ = ndimage.label(found, np.ones((3, 3)))
    remarks = _remove_frames(pieces)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    kept = np.flatnonzero(sizes >= SPECK * sizes.max())
    if len(kept) > MOST_PIECES:
        raise PictureError(f"{file} shows {len(kept)} pieces of ink, more than {MOST_PIECES}. Cut out the digits.")
    masks = [np.isin(pieces, group) for group in _group_pieces(pieces, kept)]
    if len(masks) > 1:
        remarks.insert(0, f"{len(masks)} pieces of ink were found, and each is classified")
    if any(mask[side].any() for mask in masks for side in (0, -1, (..., 0), (..., -1))):
        remarks.append("the ink touches the border, so that a part may be missing")
    if any(map(_fills_a_box, masks)):
        remarks.append("the ink fills all four sides of a box; a frame that touches the digit is read as part of it")
    if any(width > WIDE * height for height, width in map(_extent, masks)):
        remarks.append("the ink is much wider than a digit; digits that touch each other are read as one")
    return ReadPicture([_soft_ink(difference, pieces, mask, min(noise, edge)) for mask in masks], remarks)


def _fills_a_box(mask: np.ndarray) -> bool:
    """Return whether the ink lines its box, rather than fill it: the outer tenth of each side has ink along FILLED."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, side // 10) for side in box.shape)
    sides = box[:height].any(0), box[-height:].any(0), box[:, :width].any(1), box[:, -width:].any(1)
    return min(side.mean() for side in sides) >= FILLED > box.mean()


def _remove_frames(pieces: np.ndarray) -> list[str]:
    """Remove from the labelled pieces those around others and lines across the picture; say what was removed."""
    from scipy import ndimage

    boxes = ndimage.find_objects(pieces)
    sides = [max(_box_size(box)) for box in boxes]
    frames, lines = [], []
    for number, box in enumerate(boxes, 1):
        own = pieces[box] == number
        (height, width), side = own.shape, sides[number - 1]
        across = height >= 0.95 * pieces.shape[0] or width >= 0.95 * pieces.shape[1]
        inside = set(np.unique(pieces[box][ndimage.binary_fill_holes(own)])) - {0, number}
        if any(sides[other - 1] >= FRAMED * side for other in inside):
            frames.append(number)
        elif across and min(height, width) <= LINE * side and len(boxes) > 1:
            lines.append(number)
    if len(frames) + len(lines) == len(boxes):  # the lines are all there is
        lines = []
    pieces[np.isin(pieces, frames + lines)] = 0
    said = {"a frame around the ink was left out": frames, "a line across the picture was left out": lines}
    return [remark for remark, left_out in said.items() if left_out]


def _group_pieces(pieces: np.ndarray, kept: np.ndarray) -> list[list[int]]:
    """Group the labels of the pieces that make a digit together, such as the bar of a 5 with the rest of it."""
    from scipy import ndimage

    boxes = ndimage.find_objects(pieces)
    sides = {label: max(_box_size(boxes[label - 1])) for label in map(int, kept)}
    groups: list[list[int]] = []
    for label in sorted(sides, key=lambda each: -sides[each]):
        # Pixels between this piece and each place.
        gap = ndimage.distance_transform_edt(pieces != label) - 1 if groups else pieces
        near = []
        for group in groups:
            side = sides[group[0]]
            beside = sides[label] >= side / 2 and not _are_stacked(boxes[label - 1], boxes[group[0] - 1])
            largest_gap = (BROKEN if beside else DETACHED) * side
            distance = gap[np.isin(pieces, group)].min()
            near += [(distance, group)] if distance <= largest_gap else []
        if near:
            min(near, key=lambda each: each[0])[1].append(label)
        else:
            groups.append([label])
    return _in_reading_order(pieces, groups)


def _in_reading_order(pieces: np.ndarray, groups: list[list[int]]) -> list[list[int]]:
    """Return the groups row by row, each row from left to right."""
    places = [(*np.argwhere(np.isin(pieces, group)).mean(0), group) for group in groups]
    height = max(_extent(np.isin(pieces, group))[0] for group in groups)
    rows: list[list[tuple[float, float, list[int]]]] = []
    for place in sorted(places, key=lambda each: each[0]):
        if not rows or place[0] - rows[-1][0][0] > height / 2:
            rows.append([])
        rows[-1].append(place)
    return [group for row in rows for _, _, group in sorted(row, key=lambda each: each[1])]


def _are_stacked(box: tuple[slice, ...], other: tuple[slice, ...]) -> bool:
    """Return whether half of the narrower box or more is above or below the other: digits rather stand side by side."""
    shared = min(box[1].stop, other[1].stop) - max(box[1].start, other[1].start)
    return shared >= min(_box_size(box)[1], _box_size(other)[1]) / 2


def _box_size(box: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(axis.stop - axis.start for axis in box)


def _extent(mask: np.ndarray) -> tuple[int, int]:
    """Return the height and width of what is marked, in pixels."""
    height, width = (int(np.ptp(np.flatnonzero(mask.any(axis)))) + 1 for axis in (1, 0))
    return height, width


def _soft_ink(difference: np.ndarray, pieces: np.ndarray, mask: np.ndarray, noise: float) -> np.ndarray:
    """Return how much of each pixel is ink, for one digit, with the soft edges of its strokes."""
    from scipy import ndimage

    full = np.median(difference[mask])
    near = ndimage.binary_dilation(mask, iterations=2 + max(mask.shape) // 100) & (mask | (pieces == 0))
    faintest = noise + 0.05 * full
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
