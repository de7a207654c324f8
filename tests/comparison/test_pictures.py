"""Pictures of digits: whatever their size, colours and light, the digit looks as in MNIST."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from experiments.comparison.pictures import PictureError, read_picture


@pytest.fixture(scope="module")
def digit(mnist: Path) -> np.ndarray:
    """Return a 7 from MNIST, uint8 [28, 28], which looks different when turned or mirrored."""
    from experiments.config.composition import compose_job
    from experiments.data.datasets import load_dataset

    return load_dataset(compose_job([]).data, 0).test.inputs[0]


def enlarged(digit: np.ndarray, side: int = 280) -> Image.Image:
    """Light on dark."""
    return Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)


def dark_on_light(digit: np.ndarray, side: int = 280) -> Image.Image:
    return Image.fromarray(255 - np.asarray(enlarged(digit, side)))


def off_centre(digit: np.ndarray) -> Image.Image:
    page = Image.new("L", (900, 500), 255)
    page.paste(dark_on_light(digit, 150), (700, 20))
    return page


def red_on_green(digit: np.ndarray) -> Image.Image:
    """Return a digit that differs from its paper only in hue."""
    mask = np.asarray(enlarged(digit), float)[..., None] / 255
    return Image.fromarray((mask * [200, 60, 30] + (1 - mask) * [40, 130, 60]).astype(np.uint8))


def black_on_nothing(digit: np.ndarray) -> Image.Image:
    image = Image.new("RGBA", (280, 280), (0, 0, 0, 0))
    image.putalpha(enlarged(digit))
    return image


def white_on_nothing(digit: np.ndarray) -> Image.Image:
    image = Image.new("RGBA", (280, 280), (255, 255, 255, 0))
    image.putalpha(enlarged(digit))
    return image


def with_a_palette(digit: np.ndarray) -> Image.Image:
    return dark_on_light(digit).convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)


def sixteen_bits(digit: np.ndarray) -> Image.Image:
    return Image.fromarray(np.asarray(enlarged(digit)).astype(np.uint16) * 257)


def with_specks(digit: np.ndarray) -> Image.Image:
    image = off_centre(digit)
    for x, y in ((10, 480), (300, 30), (880, 490)):
        ImageDraw.Draw(image).rectangle((x, y, x + 5, y + 5), fill=0)
    return image


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def read(content: bytes, folder: Path) -> np.ndarray:
    file = folder / "picture"  # the name says nothing about the format
    file.write_bytes(content)
    return read_picture(file)


def assert_like(seen: np.ndarray, digit: np.ndarray) -> None:
    """Assert that the digit is the same but for soft edges and a shift of at most one pixel."""
    assert (seen.shape, seen.dtype) == ((28, 28), np.uint8)
    steps = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    moved = [np.roll(seen, step, (0, 1)).ravel() for step in steps]
    assert max(np.corrcoef(each, digit.ravel())[0, 1] for each in moved) > 0.93
    assert abs(seen.mean() - digit.mean()) < 6


@pytest.mark.parametrize(
    "draw",
    [
        Image.fromarray,
        enlarged,
        dark_on_light,
        off_centre,
        red_on_green,
        black_on_nothing,
        white_on_nothing,
        with_a_palette,
        sixteen_bits,
        with_specks,
    ],
    ids=lambda draw: draw.__name__,
)
def test_digit_is_found_whatever_the_picture(
    draw: Callable[[np.ndarray], Image.Image], digit: np.ndarray, tmp_path: Path
) -> None:
    assert_like(read(png(draw(digit)), tmp_path), digit)


def test_digit_is_found_in_a_noisy_photo_in_uneven_light(digit: np.ndarray, tmp_path: Path) -> None:
    mask = np.zeros((600, 800))
    mask[150:450, 250:550] = np.asarray(enlarged(digit, 300), float) / 255
    y, x = np.mgrid[-1:1:600j, -1:1:800j]
    light = 190 * (1 - 0.25 * (x**2 + y**2) + 0.2 * x) + np.random.default_rng(0).normal(0, 5, mask.shape)
    photo = np.stack([light * (1 - mask) + 60 * mask, light * (1 - mask) + 60 * mask, 0.8 * light * (1 - mask)], 2)
    stream = io.BytesIO()
    Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=80)
    assert_like(read(stream.getvalue(), tmp_path), digit)


def test_picture_is_turned_as_its_exif_data_says(digit: np.ndarray, tmp_path: Path) -> None:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # turn by 90 degrees to the right to see it upright
    dark_on_light(digit).rotate(90).save(stream, "JPEG", exif=exif)
    assert_like(read(stream.getvalue(), tmp_path), digit)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_is_ignored(digit: np.ndarray, tmp_path: Path) -> None:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    dark_on_light(digit).save(stream, "JPEG", exif=exif.tobytes()[:-8])
    assert_like(read(stream.getvalue(), tmp_path), digit)


def test_faint_digit_is_found_among_dark_specks(digit: np.ndarray, tmp_path: Path) -> None:
    picture = np.full((200, 200), 255, np.uint8)
    picture[80:120, 80:120] = 135
    for row in range(2, 198, 10):
        picture[row : row + 5, 2:7] = picture[row : row + 5, 20:25] = picture[row : row + 5, 190:195] = 0
    picture[2:7, 30:180:10] = 0
    found = read(png(Image.fromarray(picture)), tmp_path)
    assert found.max() == 255


def test_digit_is_20_pixels_long_with_its_mass_in_the_middle(tmp_path: Path) -> None:
    page = Image.new("L", (300, 200), 255)
    ImageDraw.Draw(page).rectangle((20, 40, 59, 139), fill=0)  # a bar, 40 wide and 100 high
    seen = read(png(page), tmp_path)
    assert np.argwhere(seen > 127).min(0).tolist() == [4, 10]
    assert np.argwhere(seen > 127).max(0).tolist() == [23, 17]
    assert (seen[5:23, 11:17] == 255).all()


def test_thin_strokes_do_not_fade(tmp_path: Path) -> None:
    page = Image.new("L", (400, 400), 255)
    ImageDraw.Draw(page).line([(100, 60), (300, 60), (180, 340)], fill=0, width=3)
    seen = read(png(page), tmp_path)
    assert np.count_nonzero(seen.max(1) > 200) >= 19


def bomb(side: int) -> bytes:
    """Return a PNG of a few bytes that claims to be `side` pixels high and wide."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", " is not a PNG or JPEG picture."),
        (b"GIF89a", " is not a PNG or JPEG picture."),
        (bomb(60_000), " is too large: it has 60000 x 60000 pixels, more than 100,000,000. Use a smaller"),
        (bomb(11_000), " is too large: it has 11000 x 11000 pixels, "),
        (bomb(9_900), " cannot be read: "),
        (png(Image.new("RGB", (300, 300), "red"))[:200], " cannot be read: "),
        (
            png(Image.new("L", (50, 50), 200)),
            " shows nothing: expected one digit, dark on light or light on dark, with",
        ),
        (png(Image.new("L", (1, 1))), " shows nothing: "),
        (png(Image.new("RGBA", (50, 50), (0, 0, 0, 0))), " shows nothing: "),
    ],
    ids=["empty", "GIF", "bomb", "too large", "large", "cut off", "grey", "one pixel", "transparent"],
)
@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")  # it would be a second line
def test_file_that_shows_no_digit_is_refused_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(PictureError) as caught:
        read(content, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'picture'}{message}")
    assert "\n" not in str(caught.value)


def test_missing_file_is_reported(tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "none.png"):
        with pytest.raises(PictureError, match=r"is not a file\. Expected a PNG or JPEG picture of a digit"):
            read_picture(file)
