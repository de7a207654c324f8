"""Pictures of digits: whatever their size, colours and light, the digit looks as in MNIST."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from experiments.comparison.pictures import read_picture
from experiments.data.picture_files import PictureError


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


def with_fewer_bits(bits: int) -> Callable[[np.ndarray], Image.Image]:
    def draw(digit: np.ndarray) -> Image.Image:
        return Image.fromarray((np.asarray(enlarged(digit)) * ((2**bits - 1) / 255)).astype(np.uint16))

    draw.__name__ = f"{bits} bits"
    return draw


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
    found = read_picture(file)
    assert found.remarks == []
    (seen,) = found.digits
    return seen


def remarks_on(image: Image.Image, folder: Path) -> tuple[int, list[str]]:
    """Return how many digits are found in an image, and what is remarked on them."""
    (folder / "picture").write_bytes(png(image))
    found = read_picture(folder / "picture")
    return len(found.digits), found.remarks


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
        with_fewer_bits(12),
        with_fewer_bits(10),
        with_fewer_bits(8),
        with_specks,
    ],
    ids=lambda draw: draw.__name__,
)
def test_digit_is_found_whatever_the_picture(
    draw: Callable[[np.ndarray], Image.Image], digit: np.ndarray, tmp_path: Path
) -> None:
    assert_like(read(png(draw(digit)), tmp_path), digit)


def sixteen_bit_png(digit: np.ndarray, bits: int, kind: int) -> bytes:
    """Return a PNG of 16 bits a channel that uses fewer, which Pillow cannot write; kinds have colours or opacity."""
    grey = (255 - np.asarray(enlarged(digit))) * ((2**bits - 1) / 255)
    opacity = np.full_like(grey, 2**bits - 1)
    values = np.dstack({2: [grey] * 3, 4: [grey, opacity], 6: [grey, grey, grey, opacity]}[kind]).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in values)
    return png_of(struct.pack(">IIBBBBB", *grey.shape, 16, kind, 0, 0, 0), lines)


@pytest.mark.parametrize("kind", [2, 4, 6], ids=["colours", "grey with opacity", "colours with opacity"])
@pytest.mark.parametrize("bits", [16, 12, 8])
def test_sixteen_bits_of_colour_or_opacity_are_read_by_their_range(
    bits: int, kind: int, digit: np.ndarray, tmp_path: Path
) -> None:
    assert_like(read(sixteen_bit_png(digit, bits, kind), tmp_path), digit)


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
    return png_of(struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0), b"\0")


def png_of(header: bytes, lines: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def large_gif() -> bytes:
    """Return a GIF of a few bytes that claims to be 65,535 pixels high and wide."""
    stream = io.BytesIO()
    Image.new("L", (1, 1)).save(stream, "GIF")
    return stream.getvalue()[:6] + b"\xff" * 4 + stream.getvalue()[10:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", " is not a PNG, JPEG, WebP, BMP or GIF picture."),
        (b"%PDF-1.7", " is not a PNG, JPEG, WebP, BMP or GIF picture."),
        (b"GIF89a", " is not a PNG, JPEG, WebP, BMP or GIF picture."),
        (large_gif(), " is too large: it has 65535 x 65535 pixels, more than 100,000,000. Use a smaller copy."),
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
    ids=[
        "empty",
        "PDF",
        "GIF",
        "large GIF",
        "bomb",
        "too large",
        "large",
        "cut off",
        "grey",
        "one pixel",
        "transparent",
    ],
)
@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")  # it would be a second line
def test_file_that_shows_no_digit_is_refused_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(PictureError) as caught:
        read(content, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'picture'}{message}")
    assert "\n" not in str(caught.value)


def test_only_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for file in (tmp_path, tmp_path / "none.png", tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(PictureError, match=r"is not a file\. Expected a picture: PNG, JPEG, WebP, BMP"):
            read_picture(file)


@pytest.mark.parametrize("form", ["WEBP", "BMP", "GIF"])
def test_other_formats_are_read(form: str, digit: np.ndarray, tmp_path: Path) -> None:
    stream = io.BytesIO()
    blank = Image.new("L", (280, 280), 255)
    further = {"save_all": True, "append_images": [blank]} if form != "BMP" else {}  # frames after the first
    dark_on_light(digit).save(stream, form, **further)
    assert_like(read(stream.getvalue(), tmp_path), digit)


# --- more or less than one digit -------------------------------------------------------------------------------------


def page(*digits: tuple[np.ndarray, int, int], size: tuple[int, int] = (900, 900)) -> Image.Image:
    """Return digits of 200 pixels, each at its place (left, top), dark on light."""
    paper = Image.new("L", size, 255)
    for digit, left, top in digits:
        paper.paste(dark_on_light(digit, 200), (left, top))
    return paper


def test_each_of_several_digits_is_read_in_reading_order(digit: np.ndarray, tmp_path: Path) -> None:
    turned = np.ascontiguousarray(digit[::-1])
    (tmp_path / "sheet.png").write_bytes(png(page((turned, 500, 40), (digit, 100, 30), (digit, 300, 600))))
    found = read_picture(tmp_path / "sheet.png")
    assert found.remarks == ["3 pieces of ink were found, and each is classified"]
    for seen, drawn in zip(found.digits, (digit, turned, digit), strict=True):
        assert_like(seen, drawn)
    nine = page(*((digit, left, top) for left in (50, 350, 650) for top in (50, 350, 650)))
    assert remarks_on(nine, tmp_path) == (9, ["9 pieces of ink were found, and each is classified"])


def test_parts_of_one_digit_are_kept_together(digit: np.ndarray, tmp_path: Path) -> None:
    paper = Image.new("L", (400, 400), 255)
    draw = ImageDraw.Draw(paper)
    draw.line([(150, 100), (150, 190), (240, 220), (230, 300), (140, 310)], fill=0, width=22)
    draw.line([(180, 100), (260, 95)], fill=0, width=22)  # the bar of the 5, which does not touch it
    assert remarks_on(paper, tmp_path) == (1, [])
    broken = dark_on_light(digit, 280)
    ImageDraw.Draw(broken).rectangle((0, 150, 280, 154), fill=255)
    assert remarks_on(broken, tmp_path) == (1, [])


@pytest.mark.parametrize("frame", ["rectangle", "ellipse"])
def test_frame_around_a_digit_is_left_out_and_reported(frame: str, digit: np.ndarray, tmp_path: Path) -> None:
    paper = page((digit, 350, 350))
    getattr(ImageDraw.Draw(paper), frame)((250, 250, 650, 650), outline=0, width=12)
    (tmp_path / "framed.png").write_bytes(png(paper))
    found = read_picture(tmp_path / "framed.png")
    assert found.remarks == ["a frame around the ink was left out"]
    assert_like(found.digits[0], digit)


def test_frame_that_touches_its_digit_is_reported(digit: np.ndarray, tmp_path: Path) -> None:
    told = "the ink fills all four sides of a box; a frame that touches the digit is read as part of it"
    paper = page((digit, 350, 350))
    ImageDraw.Draw(paper).rectangle((250, 250, 650, 650), outline=0, width=12)
    ImageDraw.Draw(paper).line((450, 450, 450, 650), fill=0, width=16)  # a stroke too long
    assert remarks_on(paper, tmp_path) == (1, [told])
    assert remarks_on(paper.rotate(4, fillcolor=255), tmp_path) == (1, [told])
    zero = Image.new("L", (300, 300), 255)
    ImageDraw.Draw(zero).ellipse((60, 20, 240, 280), outline=0, width=20)
    assert remarks_on(zero, tmp_path) == (1, [])


def test_line_across_the_picture_is_left_out_and_reported(digit: np.ndarray, tmp_path: Path) -> None:
    paper = page((digit, 350, 350))
    ImageDraw.Draw(paper).line((0, 700, 900, 700), fill=0, width=8)
    assert remarks_on(paper, tmp_path) == (1, ["a line across the picture was left out"])


def test_ink_that_touches_the_border_is_reported(digit: np.ndarray, tmp_path: Path) -> None:
    touching = (1, ["the ink touches the border, so that a part may be missing"])
    whole = dark_on_light(digit)
    rows, columns = (np.flatnonzero((np.asarray(whole) < 100).any(axis)) for axis in (1, 0))
    assert remarks_on(whole.crop((0, rows[0], 280, 280)), tmp_path) == touching
    assert remarks_on(whole.crop((columns[0], 0, 280, 280)), tmp_path) == touching
    cut_off = whole.crop((0, 0, 280, rows[-1] - 20))
    assert remarks_on(cut_off, tmp_path) == touching


def test_digits_that_touch_each_other_are_reported(digit: np.ndarray, tmp_path: Path) -> None:
    paper = page((digit, 100, 300), (digit, 300, 300))
    ImageDraw.Draw(paper).line((160, 400, 440, 400), fill=0, width=20)
    count, remarks = remarks_on(paper, tmp_path)
    assert (count, remarks) == (1, ["the ink is much wider than a digit; digits that touch each other are read as one"])


def test_text_is_refused(tmp_path: Path) -> None:
    paper = Image.new("L", (400, 400), 255)
    for n in range(144):
        ImageDraw.Draw(paper).rectangle(
            (n % 12 * 33 + 5, n // 12 * 33 + 5, n % 12 * 33 + 12, n // 12 * 33 + 20), fill=0
        )
    (tmp_path / "picture").write_bytes(png(paper))
    with pytest.raises(PictureError, match=r"shows 144 pieces of ink, more than 100\. Cut out the digits\."):
        read_picture(tmp_path / "picture")
