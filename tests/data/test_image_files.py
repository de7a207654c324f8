"""Tiny files in MNIST's formats, complete and damaged."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
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


def test_npz_array_stored_by_columns_is_the_same(tmp_path: Path) -> None:
    write(tmp_path, "npz", train_images=np.asfortranarray(ARRAYS["train-images"]))
    array = read(tmp_path)["train-images"]
    np.testing.assert_array_equal(array, ARRAYS["train-images"])
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
        (b"\x00\x00\x10\x03" + bytes(100), "00 00 10 03"),
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
    assert "mnist.npz: y_train: found labels as object; only uint8" in refusal(lambda: read(tmp_path, checksums=None))
    assert not (tmp_path / "mark").exists()


def test_npz_that_is_a_pickle_is_refused_and_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").write_bytes(pickle.dumps(Exploit(tmp_path / "mark")))
    assert "mnist.npz is damaged: expected an npz file" in refusal(lambda: read(tmp_path))
    assert not (tmp_path / "mark").exists()


def test_npz_without_one_of_the_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", x_train=ARRAYS["train-images"], y_train=ARRAYS["train-labels"])
    assert "expected the arrays x_train, y_train, x_test, y_test; there is no x_test" in refusal(lambda: read(tmp_path))


@pytest.mark.parametrize(
    ("part", "array", "message"),
    [
        (
            "train_labels",
            ARRAYS["train-labels"].astype(np.int64),
            "y_train: found labels as int64; only uint8 is read, one class from 0 for each image."
            " Save labels.astype('uint8').",
        ),
        (
            "train_labels",
            np.eye(3)[ARRAYS["train-labels"]],
            "y_train: found one-hot labels as float64; only uint8 is read, one class from 0 for each image."
            " Save labels.argmax(1).astype('uint8').",
        ),
        (
            "train_labels",
            np.eye(3, dtype=np.uint8)[ARRAYS["train-labels"]],
            "y_train: expected labels (12,) (data.train_examples, one label for each image), found (12, 3): one-hot"
            " labels are not read, save labels.argmax(1).astype('uint8'). Correct these keys or the file.",
        ),
        (
            "train_images",
            ARRAYS["train-images"] / np.float32(255),
            "x_train: found pixels as float32; only uint8 is read, from 0 to data.pixel_max. Save them as uint8.",
        ),
    ],
    ids=["int64", "one-hot", "one-hot bytes", "float32"],
)
def test_whole_file_of_other_numbers_is_not_called_damaged(
    tmp_path: Path, part: str, array: np.ndarray, message: str
) -> None:
    write(tmp_path, "npz", **{part: array})
    assert refusal(lambda: read(tmp_path, checksums=None)) == f"{tmp_path}/mnist.npz: {message}"


@pytest.mark.parametrize(("code", "numbers"), [(12, "int32"), (14, "float64")])
def test_idx_of_other_numbers_is_not_called_damaged(tmp_path: Path, code: int, numbers: str) -> None:
    content = bytes([0, 0, code, 1]) + TRAIN.to_bytes(4) + bytes(100)
    file = damage(write(tmp_path), "train-labels", lambda _: gzip.compress(content))
    assert refusal(lambda: read(tmp_path)) == (
        f"{file}: found labels as {numbers}; only uint8 is read, one class from 0 for each image."
        " Save labels.astype('uint8')."
    )


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
            "labels (12,) (data.train_examples, one label for each image), found (11,)",
        ),
        ({}, {"train_examples": 60000}, "images (60000, 4, 3) (data.train_examples and data.shape), found (12, 4, 3)"),
        ({}, {"shape": [3, 4]}, "images (12, 3, 4) (data.train_examples and data.shape), found (12, 4, 3)"),
    ],
)
@pytest.mark.parametrize("packing", ["gzip", "plain", "npz"])
def test_files_of_another_shape_are_refused(
    tmp_path: Path, packing: str, arrays: dict[str, np.ndarray], facts: dict[str, Any], finding: str
) -> None:
    write(tmp_path, packing, **arrays)
    message = refusal(lambda: read(tmp_path, checksums=None, **facts))
    assert message.endswith(f": expected {finding}. Correct these keys or the file.")
    assert "damaged" not in message


@pytest.mark.parametrize(
    ("arrays", "facts", "finding"),
    [
        (
            {"test_labels": np.full(TEST, 3, np.uint8)},
            {},
            "test split in here: expected labels from 0 to 2 (data.classes=3), found 3",
        ),
        ({}, {"pixel_max": 200}, "test split in here: expected pixels up to data.pixel_max=200, found 209"),
        (
            {},
            {"shape": [3, 4]},
            "train split in here: expected images (12, 3, 4) (data.train_examples and data.shape),",
        ),
    ],
)
def test_arrays_that_do_not_match_the_config_are_refused(
    arrays: dict[str, np.ndarray], facts: dict[str, Any], finding: str
) -> None:
    given = ARRAYS | {part.replace("_", "-"): array for part, array in arrays.items()}
    message = refusal(lambda: check_arrays(given, tiny(checksums=None, **facts), "here"))
    assert message.startswith(f"data=mnist, {finding}")


# --- bombs and traps -------------------------------------------------------------------------------------------------


def zeros(size: int) -> bytes:
    """Return gzip data that unpacks to so many zeros."""
    stream = io.BytesIO()
    with gzip.open(stream, "wb", compresslevel=1) as file:
        for _ in range(size // 2**20):
            file.write(bytes(2**20))
    return stream.getvalue()


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """Return 1 MB of gzip data that unpacks to 200 MB."""
    return zeros(200 * 2**20)


def npz_of(folder: Path, name: str, header: bytes, size: int, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Replace a member of the tiny dataset's npz file by a header and so many zeros."""
    write(folder, "npz")
    with zipfile.ZipFile(folder / "mnist.npz") as archive:
        members = {info: archive.read(info) for info in archive.namelist()}
    with zipfile.ZipFile(folder / "mnist.npz", "w", method) as archive:
        for info, content in members.items():
            if info != f"{name}.npy":
                archive.writestr(info, content)
        with archive.open(f"{name}.npy", "w") as member:
            member.write(header)
            for _ in range(size // 2**20):
                member.write(bytes(2**20))
    return folder / "mnist.npz"


def npy_header(shape: str, dtype: str = "|u1") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def peak_of(call: Callable[[], object]) -> int:
    """Return the most bytes that a call holds at once."""
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    "start", [b"", idx(ARRAYS["train-images"])[:16], struct.pack(">HBB3I", 0, 8, 3, 2**31, 28, 28)]
)
def test_gzip_bomb_is_refused_without_being_unpacked(tmp_path: Path, bomb: bytes, start: bytes) -> None:
    file = damage(write(tmp_path), "train-images", lambda _: gzip.compress(start) + bomb)
    small = tiny(checksums=None, train_examples=200_000, shape=[4, 3])
    config = tiny(checksums=None) if start.startswith(idx(ARRAYS["train-images"])[:16]) else small
    peak = peak_of(lambda: refusal(lambda: read_image_files(tmp_path, config)))
    assert peak < 20 * 2**20, file


@pytest.mark.parametrize(
    ("header", "finding"),
    [
        (
            npy_header("(12, 4, 3)"),
            "expected 272 bytes for the shape (12, 4, 3) in its header, found 273 or more",
        ),
        (npy_header("(200000000,)"), "x_train: expected images (12, 4, 3) (data.train_examples and data.shape), found"),
        (npy_header("()"), "x_train: expected images (12, 4, 3) (data.train_examples and data.shape), found ()"),
        (npy_header(f"({'1, ' * 25})"), "x_train: expected images (12, 4, 3) (data.train_examples and data.shape), fo"),
        (npy_header("(12, 4, 3"), "expected an npz file of arrays of bytes, found: "),
        (npy_header("(-1, 4, 3)"), "x_train: expected images (12, 4, 3) (data.train_examples and data.shape), found"),
        (npy_header("[[[", "|u1"), "expected an npz file of arrays of bytes, found: "),
        (b"no array", "expected an npz file of arrays of bytes, found: "),
    ],
)
def test_npz_bomb_is_refused_without_being_unpacked(tmp_path: Path, header: bytes, finding: str) -> None:
    npz_of(tmp_path, "x_train", header, 64 * 2**20)
    messages: list[str] = []
    assert peak_of(lambda: messages.append(refusal(lambda: read(tmp_path, checksums=None)))) < 20 * 2**20
    assert finding in messages[0]
    assert "\n" not in messages[0]


def test_npz_member_of_an_unbounded_packing_is_refused(tmp_path: Path) -> None:
    npz_of(tmp_path, "x_train", npy_header("(12, 4, 3)"), 0, zipfile.ZIP_LZMA)
    assert "x_train compressed in another way" in refusal(lambda: read(tmp_path, checksums=None))


@pytest.mark.parametrize("dimensions", [0, 65, 255])
def test_idx_header_of_any_number_of_dimensions_is_refused_in_one_line(tmp_path: Path, dimensions: int) -> None:
    header = bytes([0, 0, 8, dimensions]) + b"\0\0\0\1" * dimensions
    damage(write(tmp_path), "train-images", lambda _: gzip.compress(header + b"\0"))
    message = refusal(lambda: read(tmp_path, checksums=None))
    assert ("00 00 08 0n, found 00 00 08 00" if dimensions == 0 else f"found {dimensions} dimensions") in message
    assert len(message) < 400


def test_large_plain_file_is_not_read(tmp_path: Path) -> None:
    file = write(tmp_path, "plain") / IDX_FILES["test-images"]
    with file.open("r+b") as opened:
        opened.truncate(2**40)
    assert "expected at most 65596 bytes for the test-images of the config, found 1099511627776" in refusal(
        lambda: read(tmp_path)
    )


def test_only_regular_files_are_found(tmp_path: Path) -> None:
    file = write(tmp_path) / "t10k-labels-idx1-ubyte.gz"
    file.unlink()
    os.mkfifo(file)
    os.mkfifo(tmp_path / "mnist.npz")
    assert missing_from(tmp_path, "mnist") == f"{tmp_path} does not contain t10k-labels-idx1-ubyte"
    assert missing_from(tmp_path / "mnist.npz", "mnist") == f"{tmp_path}/mnist.npz is neither a folder nor an npz file"
