"""Folders of the user's own pictures: classes and splits, sizes and colours, the cache, and what is refused."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from composed import job
from mnist_files import refusal
from PIL import Image

from experiments.config import found_facts
from experiments.config.data_schema import DataConfig
from experiments.data import picture_cache
from experiments.data.datasets import Dataset, load_dataset
from experiments.data.picture_files import PictureStyle, picture_facts, read_picture_array

GREEN, RED, BLUE = (0, 200, 0), (200, 0, 0), (0, 0, 200)
COLOURS = {"ant": GREEN, "bee": RED, "cat": BLUE}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "outputs"
    monkeypatch.setattr(picture_cache, "PICTURE_FOLDER", folder)
    monkeypatch.setattr(found_facts, "known_facts", {})
    return folder


def draw(folder: Path, count: int = 10, suffix: str = "png", size: tuple[int, int] = (6, 4)) -> Path:
    """Draw pictures of three classes, width x height `size`, each of its own shade."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            shade = tuple(channel + number for channel in colour)
            Image.new("RGB", size, shade).save(folder / name / f"{number:02}.{suffix}")
    return folder


def config(folder: Path, *overrides: str) -> DataConfig:
    return job("data=images", f"data.path={folder}", "training.batch_size=1", *overrides).data


def load(folder: Path, *overrides: str, seed: int = 0) -> Dataset:
    return load_dataset(config(folder, *overrides), seed)


def shades(images: np.ndarray) -> list[tuple[int, ...]]:
    return sorted(tuple(map(int, image[0, 0])) for image in images)


# --- splits ----------------------------------------------------------------------------------------------------------


def test_folders_are_classes_and_the_test_set_is_the_same_in_every_run(tmp_path: Path) -> None:
    folder = draw(tmp_path / "own")
    dataset = load(folder)
    assert dataset.class_names == ("ant", "bee", "cat")
    assert [len(split.targets) for split in (dataset.train, dataset.validation, dataset.test)] == [22, 2, 6]
    assert np.bincount(dataset.test.targets).tolist() == [2, 2, 2]
    assert dataset.train.inputs.shape == (22, 4, 6, 3)
    for split in (dataset.train, dataset.validation, dataset.test):
        for image, label in zip(split.inputs, split.targets, strict=True):
            assert image[0, 0].argmax() == COLOURS[dataset.class_names[label]].index(200)
    other = load(folder, seed=1)
    np.testing.assert_array_equal(other.test.inputs, dataset.test.inputs)
    assert other.digest == dataset.digest
    assert shades(other.validation.inputs) != shades(dataset.validation.inputs)
    assert load(folder, "data.split_seed=1").digest != dataset.digest
    # The first examples are of all classes, though the folders are read one by one.
    assert len(set(dataset.train.targets[:8])) == 3


def test_train_test_and_val_may_stand_above_the_classes(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("test", 2), ("val", 3)):
        draw(tmp_path / "own" / split, count)
    for seed in (0, 1):
        dataset = load(tmp_path / "own", seed=seed)
        assert [len(split.targets) for split in (dataset.train, dataset.validation, dataset.test)] == [18, 9, 6]
        assert shades(dataset.validation.inputs) == sorted(
            tuple(c + n for c in colour) for colour in COLOURS.values() for n in range(3)
        )
    assert len(load(tmp_path / "own", "data.validation=0").train.targets) == 27
    assert "9 validation examples of its own, but the config has data.validation=4" in refusal(
        lambda: load(tmp_path / "own", "data.validation=4")
    )


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    folder = draw(tmp_path / "own")
    (folder / "ant").rename(folder / "train")
    assert load(folder).class_names == ("bee", "cat", "train")


def test_other_files_are_ignored_and_named_and_hidden_ones_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = draw(tmp_path / "own")
    for name in ("list.csv", "ant/b.txt", "ant/a.txt", "bee/x.mov", ".git", "ant/.DS_Store", "ant/._0.png"):
        (folder / name).write_bytes(b"")
    (folder / ".cache").mkdir()
    config(folder)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Ignoring 4 files that are not pictures: list.csv, ant/a.txt, ant/b.txt, ..."
    assert said[1].startswith(f"Reading 30 pictures of {folder} into {tmp_path}/outputs (only once)")


# --- pictures --------------------------------------------------------------------------------------------------------


def saved(tmp_path: Path, image: Image.Image, suffix: str = "png", **options: object) -> Path:
    file = tmp_path / f"picture.{suffix}"
    image.save(file, **options)
    return file


def halves(left: int, right: int, size: tuple[int, int] = (40, 20)) -> Image.Image:
    """A grey image, bright on one side."""
    image = Image.new("L", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp"])
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    file = saved(tmp_path, halves(50, 200).convert("RGB"), suffix)
    array = read_picture_array(file, PictureStyle(None, "crop", True))
    assert (array.shape, array.dtype) == ((20, 40, 3), np.uint8)
    np.testing.assert_allclose(array[10, [5, 35], 0], [50, 200], atol=3)
    height, width, has_color = picture_facts(file)
    assert (height, width, has_color) == (20, 40, suffix != "gif")  # whose palette is grey


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (4, 4), (255, 255, 255, 0)), 0),
        (Image.new("LA", (4, 4), (200, 255)), 200),
        (Image.fromarray(np.full((4, 4), 257 * 77, np.uint16)), 77),
        (Image.new("1", (4, 4), 1), 255),
    ],
)
def test_transparency_is_black_and_bits_are_scaled(tmp_path: Path, image: Image.Image, expected: int) -> None:
    file = saved(tmp_path, image)
    assert read_picture_array(file, PictureStyle(None, "crop", False)).tolist() == [[expected] * 4] * 4


def test_a_photo_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    file = saved(tmp_path, halves(0, 255, (160, 80)), "jpg", exif=exif)
    assert picture_facts(file) == (160, 80, False)
    array = read_picture_array(file, PictureStyle((16, 8), "crop", False))
    assert array.shape == (16, 8)
    assert array[:7].max() < 30
    assert array[9:].min() > 225


def test_crop_keeps_the_middle_and_pad_adds_black(tmp_path: Path) -> None:
    file = saved(tmp_path, halves(100, 200, (80, 20)))
    cut = read_picture_array(file, PictureStyle((10, 10), "crop", False))
    assert [cut[5, 0], cut[5, 9]] == [100, 200]
    padded = read_picture_array(file, PictureStyle((16, 16), "pad", False))
    assert padded[:6].max() == padded[10:].max() == 0
    assert [padded[8, 0], padded[8, 15]] == [100, 200]
    larger = read_picture_array(file, PictureStyle((40, 160), "crop", False))
    assert [larger.shape, larger[0, 0], larger[39, 159]] == [(40, 160), 100, 200]


def test_a_smaller_picture_is_antialiased(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    array = read_picture_array(saved(tmp_path, Image.fromarray(stripes)), PictureStyle((8, 8), "crop", False))
    np.testing.assert_allclose(array, 127.5, atol=3)


def test_colour_is_found_or_chosen(tmp_path: Path) -> None:
    folder = draw(tmp_path / "own")
    assert config(folder).shape == [4, 6, 3]
    assert config(folder, "data.color=false").shape == [4, 6]
    found_facts.known_facts.clear()  # as in another process
    for file in folder.glob("*/*.png"):
        Image.open(file).convert("L").save(file)
    assert config(folder).shape == [4, 6]
    assert config(folder, "data.color=true", "data.size=[8,3]").shape == [8, 3, 3]


def test_facts_and_the_way_of_reading_are_told(tmp_path: Path) -> None:
    folder = draw(tmp_path / "own")
    Image.new("RGB", (9, 9)).save(folder / "ant" / "large.png")
    data, dataset = config(folder, "data.size=4"), load(folder, "data.size=4")
    everything = np.concatenate([dataset.train.inputs, dataset.validation.inputs]) / 255
    np.testing.assert_allclose(data.mean, everything.mean((0, 1, 2)), rtol=1e-5)  # type: ignore[union-attr]
    assert dataset.reading == (
        "Pictures: 4 x 6 to 9 x 9 pixels, scaled to 4 x 4, the middle cut out, read in colour."
        " The test set is 0.2 of each class, picked by data.split_seed=0."
    )


# --- the cache -------------------------------------------------------------------------------------------------------


def test_pictures_are_decoded_once_and_again_only_when_they_change(
    tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = draw(tmp_path / "own")
    first = load(folder)
    assert "Reading 30 pictures" in capsys.readouterr().err
    for file in folder.glob("*/*.png"):  # neither read nor decoded again: that would fail
        state = file.stat()
        file.write_bytes(b"x" * state.st_size)
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    again = load_dataset(config(folder), 0)
    np.testing.assert_array_equal(again.train.inputs, first.train.inputs)
    assert (again.digest, capsys.readouterr().err) == (first.digest, "")

    draw(folder)  # written again with the same content: the digests are the same
    assert load_dataset(config(folder), 0).digest == first.digest
    assert capsys.readouterr().err == ""
    Image.new("RGB", (6, 4), (9, 9, 9)).save(folder / "ant" / "00.png")
    assert load_dataset(config(folder), 0).digest != first.digest
    assert "Reading 30 pictures" in capsys.readouterr().err
    (own_cache / next(own_cache.glob("*.index.json")).name).write_text("no JSON")
    assert load_dataset(config(folder), 0).train.inputs.shape == (22, 4, 6, 3)
    assert not list(own_cache.glob("*.tmp"))


def test_the_test_images_stay_on_disk_until_they_are_used(tmp_path: Path) -> None:
    folder = draw(tmp_path / "own", 20)
    held = load(folder)
    assert not held.test.inputs.flags.owndata  # mapped from the cache
    assert not held.test.inputs.flags.writeable


# --- what is refused -------------------------------------------------------------------------------------------------


def spoil(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    def made(tmp_path: Path) -> Path:
        folder = draw(tmp_path / "own")
        change(folder)
        return folder

    return made


def remove_classes(folder: Path) -> None:
    for name in ("bee", "cat"):
        (folder / name).rename(folder.parent / name)


def add_class(folder: Path) -> None:
    draw(folder / "train", 2)
    draw(folder / "test", 1)
    (folder / "test" / "yak").mkdir()
    Image.new("RGB", (6, 4)).save(folder / "test" / "yak" / "0.png")


def cut_off(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for name in ("bee/broken.jpg", "cat/other.jpg"):
        Image.fromarray(noise).save(folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:2000])


def huge(folder: Path) -> None:
    content = bytearray((folder / "ant" / "00.png").read_bytes())
    content[16:24] = struct.pack(">II", 20_000, 20_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (folder / "ant" / "00.png").write_bytes(content)


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "one class": (spoil(remove_classes), "own has one class only, 'ant'. Expected a folder of pictures for each class"),
    "no folders": (lambda path: path, "has no folders of pictures."),
    "an empty class": (spoil(lambda f: (f / "yak").mkdir()), "own has no picture of the class 'yak'. Add some, or"),
    "another class to test": (spoil(add_class), "own has the class 'yak' in test but not in train."),
    "no test images": (
        spoil(lambda f: (draw(f / "train"), (f / "test" / "ant").mkdir(parents=True))),
        "own/test has no pictures. Add some, or remove the folder.",
    ),
    "no train": (
        spoil(lambda f: draw(f / "test")),
        "own has test but not train. Put the other pictures into train/CLASS",
    ),
    "two sizes": (
        spoil(lambda f: Image.new("L", (9, 9)).save(f / "ant" / "z.png")),
        "own has pictures of 2 sizes, such as 4 x 6 (",
    ),
    "no picture": (
        spoil(lambda f: (f / "ant" / "bad.png").write_text("x")),
        "own/ant/bad.png is not a PNG, JPEG, WebP, BMP or GIF picture.\nReplace or remove these files.",
    ),
    "a link that leads nowhere": (
        spoil(lambda f: (f / "ant" / "gone.png").symlink_to("/nowhere.png")),
        "own/ant/gone.png cannot be read: No such file or directory",
    ),
    "broken": (spoil(cut_off), "own/bee/broken.jpg cannot be read: "),
    "huge": (spoil(huge), "own/ant/00.png is too large: it has 20000 x 20000 pixels, more than 100,000,000."),
    "a file": (lambda path: saved(path, halves(0, 1)), "picture.png is a file. Expected a folder of pictures for each"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str, own_cache: Path) -> None:
    make, message = REFUSED[name]
    overrides = ["data.size=8"] if name == "broken" else []
    folder = make(tmp_path)
    said = refusal(lambda: config(folder, *overrides))
    assert message in said
    assert not list(own_cache.glob("*.npy*"))
    if name == "broken":
        assert "own/cat/other.jpg cannot be read: " in said
    if name == "two sizes":
        assert said.endswith("Say which size they get: data.size=64, or data.size=[HEIGHT,WIDTH]")


def test_a_path_is_needed() -> None:
    assert refusal(lambda: job("data=images")).startswith("data=images needs the folder to read: data.path=FOLDER, ")
