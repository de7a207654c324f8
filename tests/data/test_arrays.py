"""Arrays of the user's own: what is read and how, and what is refused."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from composed import job
from mnist_files import refusal

from experiments.data.arrays import arrays_to_splits
from experiments.data.datasets import load_dataset
from experiments.data.splits import OfficialSplits

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 5, 4)).astype(np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (60, 5, 4, 3)).astype(np.uint8)
LABELS = np.arange(60) % 3


def read(images: Any = IMAGES, labels: Any = LABELS, **more: np.ndarray) -> OfficialSplits:
    return arrays_to_splits({"images": images, "labels": labels, **more}, "own.npz", 0.2, 0)


def pixels(official: OfficialSplits) -> np.ndarray:
    return np.concatenate([official.train.inputs, official.test.inputs])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (LABELS.astype(np.int8), "int8"),
        (LABELS.astype(">i8"), "int64"),
        (LABELS.astype(np.float32), "float32"),
        (LABELS[:, None], "int64 in a column"),
        (np.eye(3)[LABELS], "one-hot rows"),
        (np.eye(3, dtype=bool)[LABELS], "one-hot rows"),
    ],
)
def test_labels_of_every_kind_are_the_same_classes(labels: np.ndarray, said: str) -> None:
    official = read(labels=labels)
    np.testing.assert_array_equal(official.train.targets, read().train.targets)
    assert official.train.targets.dtype == np.int32
    assert official.facts["class_names"] == ["0", "1", "2"]
    assert f" Labels: {said}." in official.reading


def test_texts_are_classes_in_alphabetical_order() -> None:
    names = np.array(["owl", "cat", "dog"])
    for texts in (names[LABELS], names[LABELS].astype("S"), names[LABELS][:, None]):
        official = read(labels=texts)
        assert official.facts["class_names"] == ["cat", "dog", "owl"]
        np.testing.assert_array_equal(official.digest(), read(labels=np.array([2, 0, 1])[LABELS]).digest())
    assert read(class_names=names).facts["class_names"] == ["owl", "cat", "dog"]


@pytest.mark.parametrize(
    ("images", "kept", "pixel_max"),
    [
        (IMAGES.astype(">u2"), IMAGES, 255),
        (np.asfortranarray(IMAGES), IMAGES, 255),
        (IMAGES.astype(float), IMAGES, 255),
        (IMAGES * np.uint16(257), IMAGES * np.uint16(257), 65535),
        (IMAGES / 255, (IMAGES / 255).astype(np.float32), 1),
        (IMAGES > 99, (IMAGES > 99).astype(np.uint8), 1),
        (IMAGES[..., None], IMAGES[..., None], 255),
        (IMAGES.reshape(60, -1), IMAGES.reshape(60, -1), 255),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR, 255),
    ],
)
def test_images_that_are_clear_are_read(images: np.ndarray, kept: np.ndarray, pixel_max: int) -> None:
    official = read(images)
    assert (official.facts["pixel_max"], official.facts["shape"]) == (pixel_max, list(kept.shape[1:]))
    np.testing.assert_array_equal(pixels(official), pixels(read(kept)))
    assert (pixels(official).dtype, pixels(official).flags.c_contiguous) == (kept.dtype, True)
    train = official.train.inputs / pixel_max
    axes = (0, 1, 2) if kept.ndim == 4 and kept.shape[3] == 3 else None
    np.testing.assert_allclose(official.facts["mean"], train.mean(axes, dtype=float), rtol=1e-5)
    np.testing.assert_allclose(official.facts["standard_deviation"], train.std(axes, dtype=float), rtol=1e-5)


def test_each_number_of_a_vector_has_its_own_scale() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 3)) * [1, 1000, 0] + [0, 5, 7]
    facts = read(vectors).facts
    assert facts["standard_deviation"][1] > 500 * facts["standard_deviation"][0]
    assert (facts["mean"][2], facts["standard_deviation"][2]) == (7, 1)


def test_the_note_says_how_data_was_read() -> None:
    assert read(COLOUR.transpose(0, 3, 1, 2) / 255).reading == (
        "Inputs: images of float64 from 0 to 1, channels first, read as pixels from 0 to 1, kept as float32."
        " Labels: int64. The test set is 0.2 of each class, picked by data.split_seed=0."
    )


def test_the_test_set_has_its_part_of_each_class_and_depends_on_its_own_seed_only() -> None:
    official = read()
    assert np.bincount(official.test.targets).tolist() == [4, 4, 4]
    assert {image.tobytes() for image in pixels(official)} == {image.tobytes() for image in IMAGES}
    other = arrays_to_splits({"images": IMAGES, "labels": LABELS}, "own.npz", 0.2, 1)
    assert other.digest() != official.digest() == read().digest()
    few = read(IMAGES[:4], np.array([0, 0, 1, 1]))
    assert few.test.targets.tolist() == [0, 1]


def test_validation_images_of_the_file_are_held_out_whatever_the_seed(tmp_path: Path) -> None:
    file = tmp_path / "own.npz"
    parts = {"train": slice(0, 30), "val": slice(30, 45), "test": slice(45, 60)}
    named = {
        f"{split}_{kind}": a[s] for split, s in parts.items() for kind, a in (("images", IMAGES), ("labels", LABELS))
    }
    np.savez(file, **named)
    config = job("data=arrays", f"data.path={file}", "training.batch_size=1").data
    for seed in (0, 1):
        dataset = load_dataset(config, seed)
        np.testing.assert_array_equal(dataset.train.inputs, IMAGES[:30])
        np.testing.assert_array_equal(dataset.validation.inputs, IMAGES[30:45])
        np.testing.assert_array_equal(dataset.test.inputs, IMAGES[45:])
    everything = job("data=arrays", f"data.path={file}", "data.validation=0", "training.batch_size=1").data
    assert len(load_dataset(everything, 0).train.targets) == 45


NAN = IMAGES.astype(np.float32)
NAN[7, 2, 2] = np.nan
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "one class": (lambda: read(labels=np.zeros(60)), "own.npz has one class only, '0'. Save examples of at least two"),
    "from 1": (
        lambda: read(labels=LABELS + 1),
        "own.npz has no training example of class 0. Labels run from 0 without",
    ),
    "a gap": (lambda: read(labels=np.where(LABELS == 1, 4, LABELS)), "no training example of classes 1, 3."),
    "negative": (
        lambda: read(labels=LABELS - 1),
        "the labels run from -1 to 1; expected 0 to the number of classes - 1",
    ),
    "numbers": (lambda: read(labels=LABELS / 2), "the label in row 1 is 0.5; expected whole numbers, one-hot rows"),
    "NaN labels": (lambda: read(labels=np.where(LABELS == 2, np.nan, 0)), "the label in row 2 is nan;"),
    "soft": (lambda: read(labels=np.full((60, 3), 1 / 3)), "3 columns, but row 0 is not one-hot: [0.333"),
    "counts": (lambda: read(IMAGES[:59]), "images has 59 examples, labels has 60. Save one label for each"),
    "NaN in the test split": (
        lambda: arrays_to_splits(
            {"x_train": IMAGES / 255, "y_train": LABELS, "x_test": NAN, "y_test": LABELS}, "own.npz", 0.2, 0
        ),
        "the inputs contain NaN or infinity, first in row 7",
    ),
    "scales": (
        lambda: arrays_to_splits(
            {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES / 255, "y_test": LABELS}, "own.npz", 0.2, 0
        ),
        "the splits have pixels of different scales: test is from 0 to 1, train to 255. Save all on one scale.",
    ),
    "NaN": (lambda: read(NAN), "the inputs contain NaN or infinity, first in row 7. Remove such examples"),
    "standardized": (lambda: read((IMAGES - 128.0) / 64), "the pixels are from -2 to 1.98"),
    "unclear": (lambda: read(IMAGES / 100), "the pixels are from 0 to 2.55; expected 0 to 1, 0 to 255, or whole"),
    "flat": (lambda: read(np.zeros_like(IMAGES)), "all training inputs are the same"),
    "channels": (
        lambda: read(np.zeros((60, 5, 4, 4))),
        "the images have 4 channels (shape (60, 5, 4, 4)); expected 1 or 3",
    ),
    "one dimension": (
        lambda: read(np.arange(60)),
        "the inputs have the shape (60,); expected [examples, height, width]",
    ),
    "texts": (lambda: read(IMAGES.astype("U3")), "the inputs are of type <U3; expected numbers"),
    "alone": (lambda: arrays_to_splits({"images": IMAGES}, "own.npz", 0.2, 0), "has images but not labels. Save both."),
    "empty text": (lambda: read(labels=np.array(["", "a", "b"])[LABELS]), "some labels are empty texts."),
    "other shapes": (
        lambda: arrays_to_splits(
            {"x_train": IMAGES, "y_train": LABELS, "x_test": COLOUR, "y_test": LABELS}, "own.npz", 0.2, 0
        ),
        "own.npz: the splits have inputs of the shapes (5, 4) and (5, 4, 3). Save one shape.",
    ),
    "names": (lambda: arrays_to_splits({"X": IMAGES}, "own.npz", 0.2, 0), "expected the arrays x_train and y_train"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_clear_is_refused(name: str) -> None:
    call, message = REFUSED[name]
    assert message in refusal(call)


def own_file(folder: Path, content: bytes, key: str = "images") -> Path:
    file = folder / "own.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{key}.npy", content)
    return file


def header(shape: tuple[int, ...], dtype: Any = np.uint8) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(np.dtype(dtype))}
    )
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header((2, 3)) + b"12345", "own.npz is damaged: images should have 6 bytes for its shape, found 5."),
        (header((2, 3)) + b"1234567", "own.npz is damaged: images should have 6 bytes for its shape, found more."),
        (header((10**7, 10**4, 10**4)), "own.npz is too large: its arrays need 931,322.6 GiB, and this machine has"),
        (b"no array", "own.npz is not an npz file, or is damaged: "),
    ],
)
def test_a_file_takes_no_more_memory_than_it_says(tmp_path: Path, content: bytes, message: str) -> None:
    file = own_file(tmp_path, content)
    with pytest.raises(Exception, match=r"own\.npz") as caught:
        job("data=arrays", f"data.path={file}")
    assert message in str(caught.value)
    assert caught.value.exit_code == 2  # type: ignore[attr-defined]


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    file = tmp_path / "own.npz"
    np.savez(file, images=IMAGES, labels=np.array(["a", "b"], dtype=object)[LABELS % 2])
    said = refusal(lambda: job("data=arrays", f"data.path={file}"))
    assert said == (
        f"{file}: labels has the type object, which is not read. Save numbers, or for labels texts:"
        " labels=numpy.array(labels, dtype='str')"
    )


def test_a_file_that_changed_since_its_facts_were_found_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.npz"
    np.savez(file, images=IMAGES, labels=LABELS)
    config = job("data=arrays", f"data.path={file}", "training.batch_size=1").data
    np.savez(file, images=IMAGES[:30], labels=LABELS[:30])
    assert "found train_examples 24, but the config has data.train_examples=48." in refusal(
        lambda: load_dataset(config, 0)
    )
