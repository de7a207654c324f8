"""Tiny files in MNIST's formats, complete and damaged."""

import gzip
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mnist_files import ARRAYS, CHECKSUMS, TEST, TRAIN, damage, idx, refusal, sha256, tiny, write, zipped

from experiments.data.image_files import IDX_FILES, check_arrays, find_idx_files, missing_from, read_image_files
from experiments.errors import ConfigError


def read(place: Path, **changes: Any) -> dict[str, np.ndarray]:
    return read_image_files(place, tiny(**changes))


# --- finding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["gzip", "plain", "dotted", "npz"])
def test_complete_folder_of_any_format_lacks_nothing(tmp_path: Path, packing: str) -> None:
    assert missing_from(write(tmp_path, packing), "mnist") is None


@pytest.mark.parametrize(
    ("make", "finding"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "contains none of the files"),
        (lambda folder: folder.write_text("text"), "is neither a folder nor an npz file"),
        (
            lambda folder: (write(folder) / "train-labels-idx1-ubyte.gz").unlink(),
            "does not contain train-labels-idx1-ubyte",
        ),
    ],
)
def test_describes_what_a_folder_lacks(tmp_path: Path, make: Callable[[Path], object], finding: str) -> None:
    folder = tmp_path / "given"
    make(folder)
    assert missing_from(folder, "mnist") == f"{folder} {finding}"


def test_gzip_file_as_published_is_preferred(tmp_path: Path) -> None:
    write(tmp_path, "plain")
    write(tmp_path, "dotted")
    assert find_idx_files(tmp_path) == {part: tmp_path / name for part, name in IDX_FILES.items()}
    write(tmp_path, "gzip")
    assert find_idx_files(tmp_path) == {part: tmp_path / f"{name}.gz" for part, name in IDX_FILES.items()}


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["gzip", "plain", "dotted", "npz"])
def test_every_format_gives_the_same_arrays(tmp_path: Path, packing: str) -> None:
    arrays = read(write(tmp_path, packing))
    assert list(arrays) == list(ARRAYS)
    for part, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[part])
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous


def test_npz_file_can_have_any_name(tmp_path: Path) -> None:
    write(tmp_path, "npz")
    file = (tmp_path / "mnist.npz").rename(tmp_path / "scans.npz")
    assert missing_from(file, "mnist") is None
    np.testing.assert_array_equal(read(file)["test-images"], ARRAYS["test-images"])


def test_truncated_gzip_is_refused_by_name(tmp_path: Path) -> None:
    file = damage(write(tmp_path), "train-images", lambda content: content[:50])
    assert refusal(lambda: read(tmp_path)) == (
        f"{file} is damaged: expected a complete gzip file, found 50 bytes"
        " (Compressed file ended before the end-of-stream marker was reached)"
    )


@pytest.mark.parametrize("checksums", [CHECKSUMS, None])
def test_flipped_bit_in_a_gzip_is_refused(tmp_path: Path, checksums: dict[str, str] | None) -> None:
    file = damage(write(tmp_path), "train-images", lambda content: content[:40] + b"\xff\xff" + content[42:])
    assert f"{file} is damaged: expected a complete gzip file" in refusal(lambda: read(tmp_path, checksums=checksums))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"<html>not found</html>", "3c 68 74 6d"),
        (b"", "an empty file"),
        (b"\x00\x00\x0d\x03" + bytes(100), "00 00 0d 03"),
        (b"\x00\x00\x08\x03\x00\x00", "00 00 08 03"),
        (b"\x00\x00\x08", "00 00 08"),
    ],
)
def test_file_that_is_not_idx_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    file = damage(write(tmp_path), "test-labels", lambda _: content)
    assert refusal(lambda: read(tmp_path, checksums=None)) == (
        f"{file} is damaged: expected the magic number of an IDX file of bytes, 00 00 08 0n, found {found}"
    )


def test_truncated_plain_file_is_refused(tmp_path: Path) -> None:
    file = damage(write(tmp_path, "plain"), "test-images", lambda content: content[:-1], suffix="")
    assert refusal(lambda: read(tmp_path)) == (
        f"{file} is damaged: expected 76 bytes for the shape (5, 4, 3) in its header, found 75"
    )


class Exploit:
    """Unpickling it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_pickled_objects_in_an_npz_are_refused_and_never_loaded(tmp_path: Path) -> None:
    write(tmp_path, "npz", train_labels=np.array([Exploit(tmp_path / "mark")] * TRAIN, dtype=object))
    assert refusal(lambda: read(tmp_path, checksums=None)).startswith(
        f"{tmp_path / 'mnist.npz'} is damaged: expected an npz file of arrays of bytes, found: Object arrays cannot be"
    )
    assert not (tmp_path / "mark").exists()


def test_npz_that_is_a_pickle_is_refused_and_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").write_bytes(pickle.dumps(Exploit(tmp_path / "mark")))
    assert "mnist.npz is damaged: expected an npz file" in refusal(lambda: read(tmp_path))
    assert not (tmp_path / "mark").exists()


def test_npz_without_one_of_the_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", x_train=ARRAYS["train-images"], y_train=ARRAYS["train-labels"])
    assert "expected the arrays x_train, y_train, x_test, y_test; x_test is not a file in the archive" in refusal(
        lambda: read(tmp_path)
    )


def test_npz_of_another_dtype_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "npz", train_images=ARRAYS["train-images"] / np.float32(255))
    assert "mnist.npz is damaged: x_train: expected uint8, found float32" in refusal(lambda: read(tmp_path))


@pytest.mark.parametrize("length", [0, 10, 200, 600, 900])
def test_truncated_npz_is_refused(tmp_path: Path, length: int) -> None:
    file = write(tmp_path, "npz") / "mnist.npz"
    file.write_bytes(file.read_bytes()[:length])
    message = refusal(lambda: read(tmp_path))
    assert message.startswith(f"{file} is damaged: expected an npz file of arrays of bytes, found: ")


# --- checking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["gzip", "plain", "npz"])
def test_content_other_than_published_is_refused(tmp_path: Path, packing: str) -> None:
    images = ARRAYS["train-images"][::-1].copy()
    write(tmp_path, packing, train_images=images)
    name = IDX_FILES["train-images"]
    file = tmp_path / {"gzip": f"{name}.gz", "plain": name, "npz": "mnist.npz"}[packing]
    assert refusal(lambda: read(tmp_path)) == (
        f"{file} is damaged: train-images: expected {CHECKSUMS['train-images']}, found {sha256(idx(images))}"
    )
    np.testing.assert_array_equal(read(tmp_path, checksums=None)["train-images"], images)


def test_published_md5_is_that_of_the_gzip_file(tmp_path: Path) -> None:
    checksums = {part: f"md5-gzip:{hashlib.md5(zipped(part)).hexdigest()}" for part in IDX_FILES}
    config = tiny("fashion_mnist", checksums=checksums)
    read_image_files(write(tmp_path), config)
    file = damage(tmp_path, "train-labels", lambda content: gzip.compress(gzip.decompress(content), mtime=1))
    found = hashlib.md5(file.read_bytes()).hexdigest()
    assert refusal(lambda: read_image_files(tmp_path, config)) == (
        f"{file} is damaged: train-labels: expected {checksums['train-labels']}, found md5-gzip:{found}"
    )


def test_md5_of_the_gzip_file_is_ignored_for_other_formats(tmp_path: Path) -> None:
    config = tiny(checksums=dict.fromkeys(IDX_FILES, "md5-gzip:0"))
    for packing in ("plain", "npz"):
        assert list(read_image_files(write(tmp_path / packing, packing), config)) == list(IDX_FILES)


def test_unknown_kind_of_checksum_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, checksums=CHECKSUMS | {"test-images": "crc32:0"})
    assert str(caught.value) == (
        "data.checksums: test-images must be sha256:... or md5-gzip:..., received 'crc32:0'."
        " Set data.checksums=null to accept any content."
    )


@pytest.mark.parametrize(
    ("arrays", "facts", "finding"),
    [
        (
            {"train_labels": ARRAYS["train-labels"][:-1]},
            {},
            "train split in here: expected one label for each image, found images (12, 4, 3) and labels (11,)",
        ),
        (
            {},
            {"train_examples": 60000},
            "train split in here: expected images (60000, 4, 3) (data.train_examples and data.shape), found (12, 4, 3)",
        ),
        (
            {},
            {"shape": [3, 4]},
            "train split in here: expected images (12, 3, 4) (data.train_examples and data.shape), found (12, 4, 3)",
        ),
        (
            {"test_labels": np.full(TEST, 3, np.uint8)},
            {},
            "test split in here: expected labels from 0 to 2 (data.classes=3), found 3",
        ),
        ({}, {"pixel_max": 200}, "test split in here: expected pixels up to data.pixel_max=200, found 209"),
    ],
)
def test_files_that_do_not_match_the_config_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], facts: dict[str, Any], finding: str
) -> None:
    config = tiny(checksums=None, **facts)
    read_arrays = read_image_files(write(tmp_path, **arrays), config)
    assert refusal(lambda: check_arrays(read_arrays, config, "here")) == f"data=mnist, {finding}"
