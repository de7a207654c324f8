"""Tiny files in MNIST's format, a real HTTP server that misbehaves, and the real MNIST where it is at hand."""

import gzip
import hashlib
import http.server
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from experiments import data
from experiments.errors import ConfigError, DataError
from experiments.schema import DataConfig, Digits, ImageFiles, Linear

CONF = Path(__file__).resolve().parents[1] / "conf" / "data"
SCHEMA = {"mnist": ImageFiles, "fashion_mnist": ImageFiles, "digits": Digits, "linear": Linear}
REAL = os.environ.get("EXPERIMENTS_DATA_DIR")
real_mnist = pytest.mark.skipif(
    not REAL or not (Path(REAL) / "mnist").is_dir(), reason="EXPERIMENTS_DATA_DIR names no folder with mnist/"
)

NAMES = data.FILES
TRAIN, TEST = 12, 5
ARRAYS = {
    "train-images": np.arange(TRAIN * 4 * 3, dtype=np.uint8).reshape(TRAIN, 4, 3),
    "train-labels": np.arange(TRAIN, dtype=np.uint8) % 3,
    "test-images": np.arange(150, 150 + TEST * 4 * 3, dtype=np.uint8).reshape(TEST, 4, 3),
    "test-labels": np.arange(TEST, dtype=np.uint8) % 3,
}


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def zipped(part: str) -> bytes:
    return gzip.compress(idx(ARRAYS[part]), mtime=0)


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


CHECKSUMS = {part: sha256(idx(array)) for part, array in ARRAYS.items()}


def shipped(name: str, **changes: Any) -> DataConfig:
    return SCHEMA[name](**yaml.safe_load((CONF / f"{name}.yaml").read_text()) | changes)


def tiny(name: str = "mnist", **changes: Any) -> DataConfig:
    facts: dict[str, Any] = {
        "validation": 0,
        "shape": [4, 3],
        "classes": 3,
        "class_names": ["a", "b", "c"],
        "train_examples": TRAIN,
        "test_examples": TEST,
        "checksums": CHECKSUMS,
    }
    return shipped(name, **facts | changes)


def write(folder: Path, packing: str = "gzip", **changed: np.ndarray) -> Path:
    """The tiny dataset; `train_images=...` and so on replaces an array."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = ARRAYS | {part.replace("_", "-"): array for part, array in changed.items()}
    if packing == "npz":
        np.savez(folder / "mnist.npz", **{data.NPZ_KEYS[part]: array for part, array in arrays.items()})
        return folder
    for part, array in arrays.items():
        name = NAMES[part].replace("-idx", ".idx") if packing == "dotted" else NAMES[part]
        if packing == "gzip":
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), mtime=0))
        else:
            (folder / name).write_bytes(idx(array))
    return folder


@pytest.fixture(autouse=True)
def _nothing_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EXPERIMENTS_DATA_DIR", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "project" / "data"


OFFLINE = {"mnist": (), "fashion_mnist": ()}


def load_from(folder: Path, **changes: Any) -> data.Dataset:
    return data.load(tiny(path=str(folder), **changes), seed=0)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["gzip", "plain", "dotted", "npz"])
def test_every_packing_gives_the_same_arrays_and_the_same_digest(tmp_path: Path, packing: str) -> None:
    dataset = load_from(write(tmp_path / "own", packing))
    np.testing.assert_array_equal(dataset.train.inputs, ARRAYS["train-images"])
    np.testing.assert_array_equal(dataset.train.targets, ARRAYS["train-labels"])
    np.testing.assert_array_equal(dataset.test.inputs, ARRAYS["test-images"])
    np.testing.assert_array_equal(dataset.test.targets, ARRAYS["test-labels"])
    assert (dataset.train.inputs.dtype, dataset.train.targets.dtype) == (np.uint8, np.int32)
    assert dataset.validation.inputs.shape == (0, 4, 3)
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.source == str(tmp_path / "own")
    assert dataset.digest == load_from(write(tmp_path / "gzip")).digest
    assert len(dataset.digest) == 36


def test_the_path_may_be_an_npz_file_of_any_name(tmp_path: Path) -> None:
    write(tmp_path, "npz")
    file = (tmp_path / "mnist.npz").rename(tmp_path / "scans.npz")
    assert load_from(file).source == str(file)


def test_the_digest_changes_with_one_pixel_and_not_with_limit_validation_or_seed(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    digest = load_from(folder).digest
    assert data.load(tiny(path=str(folder), limit=8, validation=3), seed=9).digest == digest
    pixels = ARRAYS["test-images"].copy()
    pixels[-1, -1, -1] ^= 1
    assert load_from(write(tmp_path / "b", test_images=pixels), checksums=None).digest != digest


def test_the_arrays_are_read_only(tmp_path: Path) -> None:
    dataset = load_from(write(tmp_path), validation=3)
    for split in (dataset.train, dataset.validation, dataset.test):
        assert not split.inputs.flags.writeable
        assert not split.targets.flags.writeable


# --- places -------------------------------------------------------------------------------------------------------


def test_places_are_searched_in_order(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPERIMENTS_DATA_DIR", str(tmp_path / "shelf"))
    assert data.find(tiny(), cache) is None
    for place, packing in (
        (tmp_path / "keras" / "datasets" / "mnist.npz", "npz"),
        (cache / "mnist", "gzip"),
        (tmp_path / "shelf" / "mnist", "gzip"),
    ):
        write(place.parent if packing == "npz" else place, packing)
        assert data.find(tiny(), cache) == place
        assert data.load(tiny(), 0, cache=cache).source == str(place)
    own = write(tmp_path / "own")
    assert data.find(tiny(path=str(own)), cache) == own


def test_fashion_mnist_is_found_in_the_cache_of_keras(tmp_path: Path, cache: Path) -> None:
    place = write(tmp_path / "keras" / "datasets" / "fashion-mnist")
    assert data.find(tiny("fashion_mnist"), cache) == place


def test_an_incomplete_folder_is_passed_over(tmp_path: Path, cache: Path) -> None:
    (write(cache / "mnist") / "t10k-labels-idx1-ubyte.gz").unlink()
    keras = write(tmp_path / "keras" / "datasets", "npz") / "mnist.npz"
    assert data.find(tiny(), cache) == keras


def test_bundled_and_generated_data_need_no_place() -> None:
    assert data.find(shipped("digits")) is None
    assert data.find(shipped("linear")) is None


@pytest.mark.parametrize(
    ("make", "finding"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "holds no such files"),
        (lambda folder: folder.write_text("text"), "is neither a folder nor an npz file"),
        (
            lambda folder: (write(folder) / "train-labels-idx1-ubyte.gz").unlink(),
            "does not hold train-labels-idx1-ubyte",
        ),
    ],
)
def test_a_given_path_without_the_files_is_refused_though_they_are_elsewhere(
    tmp_path: Path, cache: Path, make: Callable[[Path], object], finding: str
) -> None:
    write(cache / "mnist")
    folder = tmp_path / "given"
    make(folder)
    for call in (data.find, lambda config, cache: data.load(config, 0, cache=cache)):
        assert refusal(lambda call=call: call(tiny(path=str(folder)), cache)) == (
            f"data.path={folder}: {folder} {finding}. Expected train-images-idx3-ubyte, train-labels-idx1-ubyte,"
            " t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (each plain or .gz), or mnist.npz with x_train, y_train,"
            " x_test, y_test. Correct data.path, or leave it out to search the usual places."
        )


# --- damage -------------------------------------------------------------------------------------------------------


def damage(folder: Path, part: str, change: Callable[[bytes], bytes], suffix: str = ".gz") -> Path:
    file = folder / (NAMES[part] + suffix)
    file.write_bytes(change(file.read_bytes()))
    return file


def test_a_truncated_gzip_is_refused_and_names_the_file(tmp_path: Path) -> None:
    file = damage(write(tmp_path), "train-images", lambda content: content[:50])
    assert refusal(lambda: load_from(tmp_path)) == (
        f"{file} is damaged: expected a whole gzip file, found 50 bytes (Compressed file ended before the"
        " end-of-stream marker was reached). Replace it by a good copy, such as from"
        " https://storage.googleapis.com/cvdf-datasets/mnist; if it is data of your own, set data.checksums=null."
    )


@pytest.mark.parametrize("checksums", [CHECKSUMS, None])
def test_a_flipped_bit_within_a_gzip_is_refused(tmp_path: Path, checksums: dict[str, str] | None) -> None:
    file = damage(write(tmp_path), "train-images", lambda content: content[:40] + b"\xff\xff" + content[42:])
    assert f"{file} is damaged: expected a whole gzip file" in refusal(lambda: load_from(tmp_path, checksums=checksums))


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
def test_a_file_that_is_not_idx_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    file = damage(write(tmp_path), "test-labels", lambda _: content)
    assert refusal(lambda: load_from(tmp_path, checksums=None)).startswith(
        f"{file} is damaged: expected the magic number of an IDX file of bytes, 00 00 08 0n, found {found}."
    )


def test_a_plain_file_cut_short_is_refused(tmp_path: Path) -> None:
    file = damage(write(tmp_path, "plain"), "test-images", lambda content: content[:-1], suffix="")
    assert f"{file} is damaged: expected 76 bytes for the shape (5, 4, 3) in its header, found 75." in refusal(
        lambda: load_from(tmp_path)
    )


@pytest.mark.parametrize("packing", ["gzip", "plain", "npz"])
def test_other_content_than_published_is_refused(tmp_path: Path, packing: str) -> None:
    images = ARRAYS["train-images"][::-1].copy()
    write(tmp_path, packing, train_images=images)
    name = NAMES["train-images"]
    file = tmp_path / {"gzip": f"{name}.gz", "plain": name, "npz": "mnist.npz"}[packing]
    assert refusal(lambda: load_from(tmp_path)).startswith(
        f"{file} is damaged: train-images: expected {CHECKSUMS['train-images']}, found {sha256(idx(images))}."
    )
    assert len(load_from(tmp_path, checksums=None).train.inputs) == TRAIN


def test_the_published_md5_is_that_of_the_gzip_file(tmp_path: Path) -> None:
    checksums = {part: f"md5-gzip:{hashlib.md5(zipped(part)).hexdigest()}" for part in NAMES}
    config = tiny("fashion_mnist", path=str(tmp_path), checksums=checksums)
    write(tmp_path)
    assert data.load(config, 0).name == "fashion_mnist"
    file = damage(tmp_path, "train-labels", lambda content: gzip.compress(gzip.decompress(content), mtime=1))
    assert f"{file} is damaged: train-labels: expected {checksums['train-labels']}, found md5-gzip:" in refusal(
        lambda: data.load(config, 0)
    )


def test_an_unknown_kind_of_checksum_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_from(tmp_path, checksums=CHECKSUMS | {"test-images": "crc32:0"})
    assert str(caught.value) == (
        "data.checksums: test-images must be sha256:... or md5-gzip:..., received 'crc32:0';"
        " data.checksums=null accepts any content"
    )


class Exploit:
    """Unpickling it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_pickled_objects_in_an_npz_are_refused_and_never_loaded(tmp_path: Path) -> None:
    write(tmp_path, "npz", train_labels=np.array([Exploit(tmp_path / "mark")] * TRAIN, dtype=object))
    assert refusal(lambda: load_from(tmp_path, checksums=None)).startswith(
        f"{tmp_path / 'mnist.npz'} is damaged: expected an npz file of arrays of bytes, found: Object arrays cannot be"
    )
    assert not (tmp_path / "mark").exists()


def test_an_npz_that_is_a_pickle_is_refused_and_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").write_bytes(pickle.dumps(Exploit(tmp_path / "mark")))
    assert "mnist.npz is damaged: expected an npz file" in refusal(lambda: load_from(tmp_path))
    assert not (tmp_path / "mark").exists()


def test_an_npz_without_one_of_the_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", x_train=ARRAYS["train-images"], y_train=ARRAYS["train-labels"])
    assert "expected the arrays x_train, y_train, x_test, y_test; x_test is not a file in the archive" in refusal(
        lambda: load_from(tmp_path)
    )


def test_an_npz_of_another_type_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "npz", train_images=ARRAYS["train-images"] / np.float32(255))
    assert "mnist.npz is damaged: x_train: expected uint8, found float32." in refusal(lambda: load_from(tmp_path))


@pytest.mark.parametrize("length", [0, 10, 200, 600, 900])
def test_a_truncated_npz_is_refused(tmp_path: Path, length: int) -> None:
    file = write(tmp_path, "npz") / "mnist.npz"
    file.write_bytes(file.read_bytes()[:length])
    message = refusal(lambda: load_from(tmp_path))
    assert message.startswith(f"{file} is damaged: expected an npz file of arrays of bytes, found: ")


@pytest.mark.parametrize(
    ("arrays", "facts", "finding"),
    [
        (
            {"train_labels": ARRAYS["train-labels"][:-1]},
            {},
            "train split in {}: expected one label for each image, found images (12, 4, 3) and labels (11,)",
        ),
        (
            {},
            {"train_examples": 60000},
            "train split in {}: expected images (60000, 4, 3) (data.train_examples and data.shape), found (12, 4, 3)",
        ),
        (
            {},
            {"shape": [3, 4]},
            "train split in {}: expected images (12, 3, 4) (data.train_examples and data.shape), found (12, 4, 3)",
        ),
        (
            {"test_labels": np.full(TEST, 3, np.uint8)},
            {},
            "test split in {}: expected labels from 0 to 2 (data.classes=3), found 3",
        ),
        ({}, {"pixel_max": 200}, "test split in {}: expected pixels up to data.pixel_max=200, found 209"),
    ],
)
def test_files_that_are_not_what_the_config_says_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], facts: dict[str, Any], finding: str
) -> None:
    write(tmp_path, **arrays)
    assert refusal(lambda: load_from(tmp_path, checksums=None, **facts)) == f"data=mnist, {finding.format(tmp_path)}"


def test_a_damaged_file_is_removed_from_the_cache_and_from_nowhere_else(tmp_path: Path, cache: Path) -> None:
    file = damage(write(cache / "mnist"), "train-images", lambda content: content[:50])
    message = refusal(lambda: data.load(tiny(), 0, cache=cache))
    assert message.startswith(f"{file} is damaged: ")
    assert message.endswith(". It was removed: the next run downloads it again.")
    assert not file.exists()
    assert len(list((cache / "mnist").iterdir())) == 3

    own = damage(write(tmp_path / "own"), "train-images", lambda content: content[:50])
    refusal(lambda: load_from(tmp_path / "own"))
    assert own.exists()


def test_a_folder_of_the_user_linked_into_the_cache_is_left_alone(tmp_path: Path, cache: Path) -> None:
    file = damage(write(tmp_path / "own"), "train-images", lambda content: content[:50])
    cache.mkdir(parents=True)
    (cache / "mnist").symlink_to(tmp_path / "own")
    refusal(lambda: data.load(tiny(), 0, cache=cache))
    assert file.exists()


def test_a_mistake_in_the_config_removes_nothing_from_the_cache(cache: Path) -> None:
    write(cache / "mnist")
    refusal(lambda: data.load(tiny(shape=[12]), 0, cache=cache))
    assert len(list((cache / "mnist").iterdir())) == 4


# --- splits -------------------------------------------------------------------------------------------------------


def as_set(split: data.Split) -> set[bytes]:
    return {image.tobytes() for image in split.inputs}


def test_validation_is_taken_from_training_and_test_is_left_alone(tmp_path: Path) -> None:
    folder = write(tmp_path)
    whole, dataset = load_from(folder), load_from(folder, validation=5)
    assert [len(split.inputs) for split in (dataset.train, dataset.validation, dataset.test)] == [7, 5, 5]
    assert as_set(dataset.train) | as_set(dataset.validation) == as_set(whole.train)
    assert not as_set(dataset.train) & as_set(dataset.validation)
    np.testing.assert_array_equal(dataset.test.inputs, ARRAYS["test-images"])
    # Each image keeps its label, and what is left for training the order of the file.
    first_pixels = dataset.train.inputs[:, 0, 0].astype(int)
    assert sorted(first_pixels) == list(first_pixels)
    np.testing.assert_array_equal(dataset.train.targets, first_pixels // 12 % 3)
    np.testing.assert_array_equal(dataset.validation.targets, dataset.validation.inputs[:, 0, 0] // 12 % 3)


def test_limit_takes_the_first_training_examples_before_validation_is_taken(tmp_path: Path) -> None:
    folder = write(tmp_path)
    dataset = load_from(folder, limit=8, validation=3)
    assert [len(split.inputs) for split in (dataset.train, dataset.validation, dataset.test)] == [5, 3, 5]
    first = {image.tobytes() for image in ARRAYS["train-images"][:8]}
    assert as_set(dataset.train) | as_set(dataset.validation) == first


def test_the_split_follows_the_seed_and_seed_0_is_one_like_any_other() -> None:
    held_out = {seed: data.load(shipped("digits"), seed).validation.inputs for seed in (0, 1, 2**32 - 1)}
    for seed, inputs in held_out.items():
        np.testing.assert_array_equal(data.load(shipped("digits"), seed).validation.inputs, inputs)
    assert not np.array_equal(held_out[0], held_out[1])
    assert not np.array_equal(held_out[0], held_out[2**32 - 1])


# --- bundled and generated data -----------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn_in_its_order() -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    dataset = data.load(shipped("digits", validation=0), seed=0)
    np.testing.assert_array_equal(np.concatenate([dataset.train.inputs, dataset.test.inputs]).reshape(-1, 64), images)
    np.testing.assert_array_equal(np.concatenate([dataset.train.targets, dataset.test.targets]), labels)
    assert dataset.train.inputs.shape == (1437, 8, 8)
    assert dataset.test.inputs.shape == (360, 8, 8)
    assert dataset.train.inputs.max() == 16
    assert dataset.source.startswith("scikit-learn 1.")


def test_digits_check_the_facts_of_their_config() -> None:
    assert refusal(lambda: data.load(shipped("digits", train_examples=1436, checksums=None), 0)) == (
        f"data=digits, test split in {data.load(shipped('digits'), 0).source}: expected images (360, 8, 8)"
        " (data.test_examples and data.shape), found (361, 8, 8)"
    )


def test_the_line_has_the_slope_and_noise_of_its_config() -> None:
    dataset = data.load(shipped("linear"), seed=0)
    for split in (dataset.train, dataset.test):
        assert (split.inputs.dtype, split.inputs.shape) == (np.float32, (1000, 1))
        assert (split.targets.dtype, split.targets.shape) == (np.float32, (1000, 1))
        assert split.inputs.min() >= 0
        assert split.inputs.max() <= 1
        slope, intercept = np.polyfit(split.inputs[:, 0], split.targets[:, 0], 1)
        assert slope == pytest.approx(0.8, abs=0.1)
        assert intercept == pytest.approx(0, abs=0.05)
        assert np.std(split.targets - 0.8 * split.inputs) == pytest.approx(0.2, abs=0.02)
    assert not np.intersect1d(dataset.train.inputs, dataset.test.inputs).size
    assert dataset.class_names == ()


def test_the_line_is_the_same_for_every_seed_and_its_validation_is_not() -> None:
    first, second = (data.load(shipped("linear", validation=100), seed) for seed in (0, 1))
    assert first.digest == second.digest
    assert len(first.train.inputs) == 900
    assert not np.array_equal(first.validation.inputs, second.validation.inputs)


def test_reading_data_loads_no_heavy_package() -> None:
    code = (
        "import sys, json; from experiments import data; from experiments.schema import Digits;"
        "data.load(Digits(**json.loads(sys.argv[1])), 0);"
        "print([name for name in ('tensorflow', 'keras', 'sklearn', 'scipy', 'pandas') if name in sys.modules])"
    )
    config = json.dumps(yaml.safe_load((CONF / "digits.yaml").read_text()))
    assert subprocess.check_output([sys.executable, "-c", code, config], text=True) == "[]\n"


# --- download -----------------------------------------------------------------------------------------------------


class Mirror(http.server.ThreadingHTTPServer):
    """The tiny dataset over HTTP, with the faults of real servers.

    Attributes:
        files: content by name; a missing one is answered with 404.
        ranges: whether Range is honoured.
        break_after: the first answer for each file ends after so many bytes of its body.
        stall_after: every answer for a file stops there, the connection open.
        requests: (name, Range header) of each request.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), MirrorHandler)
        self.files = {f"{name}.gz": zipped(part) for part, name in NAMES.items()}
        self.ranges = True
        self.break_after: int | None = None
        self.stall_after: int | None = None
        self.requests: list[tuple[str, str | None]] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class MirrorHandler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        name, asked = self.path.removeprefix("/"), self.headers["Range"]
        seen = name in [earlier for earlier, _ in self.server.requests]
        self.server.requests.append((name, asked))
        content = self.server.files.get(name)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else 0
        if content is None or start >= len(content):
            self.send_error(404 if content is None else 416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.server.stall_after is not None:
            self.wfile.write(content[start : self.server.stall_after])
            self.wfile.flush()
            self.server.released.wait(30)
        elif self.server.break_after is not None and not seen:
            self.wfile.write(content[start : start + self.server.break_after])
        else:
            self.wfile.write(content[start:])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirrors() -> Iterator[list[Mirror]]:
    servers = [Mirror(), Mirror()]
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield servers
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()


def download(cache: Path, *mirrors: Mirror, **changes: Any) -> data.Dataset:
    return data.load(tiny(**changes), 0, cache=cache, mirrors={"mnist": [mirror.url for mirror in mirrors]})


ALL = sorted(f"{name}.gz" for name in NAMES.values())
FIRST = "train-images-idx3-ubyte.gz"


def held(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_download_fills_the_cache_once_and_says_so(
    cache: Path, mirrors: list[Mirror], capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = download(cache, *mirrors)
    np.testing.assert_array_equal(dataset.train.inputs, ARRAYS["train-images"])
    assert dataset.source == str(cache / "mnist")
    assert held(cache / "mnist") == ALL
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0] == f"Downloading {mirrors[0].url}/{FIRST} (0.0 MB) to {cache / 'mnist'}"
    download(cache, *mirrors)
    assert len(mirrors[0].requests) == 4
    assert mirrors[1].requests == []
    assert capsys.readouterr().err == ""


def test_a_download_that_breaks_off_goes_on_at_the_next_mirror(cache: Path, mirrors: list[Mirror]) -> None:
    mirrors[0].break_after = 20
    download(cache, *mirrors)
    assert mirrors[0].requests == [(FIRST, None)]
    assert mirrors[1].requests[0] == (FIRST, "bytes=20-")
    assert held(cache / "mnist") == ALL


def test_what_broke_off_is_never_taken_for_whole_and_is_resumed(cache: Path, mirrors: list[Mirror]) -> None:
    mirrors[0].break_after = 20
    message = refusal(lambda: download(cache, mirrors[0]))
    size = len(zipped("train-images"))
    assert f"{mirrors[0].url}/{FIRST}: broke off after 20 of {size} bytes" in message
    assert held(cache / "mnist") == [f"{FIRST}.part"]
    mirrors[0].break_after = None
    download(cache, mirrors[0])
    assert mirrors[0].requests[1] == (FIRST, "bytes=20-")
    assert held(cache / "mnist") == ALL


def test_without_range_support_the_download_starts_again(cache: Path, mirrors: list[Mirror]) -> None:
    mirrors[0].break_after, mirrors[0].ranges = 20, False
    refusal(lambda: download(cache, mirrors[0]))
    mirrors[0].break_after = None
    download(cache, mirrors[0])
    assert held(cache / "mnist") == ALL


@pytest.mark.parametrize("rest", [b"of another copy", zipped("train-images"), bytes(10_000)])
def test_a_part_that_cannot_be_completed_is_dropped(cache: Path, mirrors: list[Mirror], rest: bytes) -> None:
    (cache / "mnist").mkdir(parents=True)
    (cache / "mnist" / f"{FIRST}.part").write_bytes(rest)
    download(cache, mirrors[0])
    assert mirrors[0].requests[:2] == [(FIRST, f"bytes={len(rest)}-"), (FIRST, None)]
    assert held(cache / "mnist") == ALL


@pytest.mark.parametrize(
    "content", [b"<html>Please log in</html>", zipped("test-images"), zipped("train-images")[:-9]], ids=repr
)
def test_another_content_than_published_is_refused_and_the_next_mirror_asked(
    cache: Path, mirrors: list[Mirror], content: bytes
) -> None:
    mirrors[0].files[FIRST] = content
    download(cache, *mirrors)
    assert held(cache / "mnist") == ALL
    # The mirror that failed comes last for the other files.
    assert [name for name, _ in mirrors[1].requests] == [f"{name}.gz" for name in NAMES.values()]


def test_wrong_content_leaves_nothing_behind(cache: Path, mirrors: list[Mirror]) -> None:
    mirrors[0].files[FIRST] = zipped("test-images")
    found = CHECKSUMS["test-images"]
    assert f"{mirrors[0].url}/{FIRST}: train-images: expected {CHECKSUMS['train-images']}, found {found}" in refusal(
        lambda: download(cache, mirrors[0])
    )
    assert not cache.exists()


def test_only_missing_files_are_downloaded(cache: Path, mirrors: list[Mirror]) -> None:
    (write(cache / "mnist") / "t10k-labels-idx1-ubyte.gz").unlink()
    download(cache, mirrors[0])
    assert mirrors[0].requests == [("t10k-labels-idx1-ubyte.gz", None)]


def test_a_file_removed_as_damaged_is_downloaded_by_the_next_run(cache: Path, mirrors: list[Mirror]) -> None:
    damage(write(cache / "mnist"), "train-images", lambda content: content[:50])
    refusal(lambda: download(cache, mirrors[0]))
    download(cache, mirrors[0])
    assert mirrors[0].requests == [(FIRST, None)]


def test_a_mirror_that_does_not_answer_is_given_up(
    cache: Path, mirrors: list[Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "TIMEOUT", 0.5)
    mirrors[0].stall_after = 10
    start = time.monotonic()
    download(cache, *mirrors)
    assert time.monotonic() - start < 5
    assert [name for name, _ in mirrors[0].requests] == [FIRST]
    # A server that takes the connection and says nothing at all.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        message = refusal(lambda: data.load(tiny(), 0, cache=cache.parent / "other", mirrors={"mnist": [url]}))
    assert f"{url}/{FIRST}: no answer within 0.5 s" in message


def test_with_no_data_and_no_network_one_message_says_where_it_looked_and_how_to_go_on(
    tmp_path: Path, cache: Path, mirrors: list[Mirror]
) -> None:
    mirrors[0].files = {}
    closed = "http://127.0.0.1:1"
    start = time.monotonic()
    message = refusal(lambda: data.load(tiny(), 0, cache=cache, mirrors={"mnist": [mirrors[0].url, closed]}))
    assert time.monotonic() - start < 2
    assert (
        message
        == f"""\
data=mnist is not on this machine, and the download failed.
Searched:
  $EXPERIMENTS_DATA_DIR: not set
  the project: {cache / "mnist"} does not exist
  the cache of Keras: {tmp_path / "keras" / "datasets" / "mnist.npz"} does not exist
Download:
  {mirrors[0].url}/{FIRST}: HTTP Error 404: Not Found
  {closed}/{FIRST}: [Errno 111] Connection refused
Expected train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte \
(each plain or .gz), or mnist.npz with x_train, y_train, x_test, y_test.
To go on, one of:
  put the files into {cache / "mnist"}
  data.path=FOLDER, the folder that holds them
  EXPERIMENTS_DATA_DIR=FOLDER, the folder that holds them in mnist/
  data=digits or data=linear, which need no files"""
    )
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_told(cache: Path, mirrors: list[Mirror]) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert f"[Errno 20] Not a directory: '{cache / 'mnist'}'" in refusal(lambda: download(cache, mirrors[0]))


DOWNLOAD = """
import json, sys
from pathlib import Path
from experiments import data
from experiments.schema import ImageFiles
config, cache, mirror = json.loads(sys.argv[1])
print(data.load(ImageFiles(**config), 0, cache=Path(cache), mirrors={"mnist": [mirror]}).digest)
"""


def start_download(cache: Path, mirror: Mirror) -> subprocess.Popen[str]:
    arguments = json.dumps([vars(tiny()), str(cache), mirror.url], default=lambda _: None)
    return subprocess.Popen(
        [sys.executable, "-c", DOWNLOAD, arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_processes_that_start_at_once_download_each_file_once(cache: Path, mirrors: list[Mirror]) -> None:
    processes = [start_download(cache, mirrors[0]) for _ in range(3)]
    digests = {process.communicate(timeout=30)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert digests == {f"{download(cache).digest}\n"}
    assert sorted(name for name, _ in mirrors[0].requests) == ALL
    assert held(cache / "mnist") == ALL


def test_what_a_killed_download_left_is_not_taken_for_whole(cache: Path, mirrors: list[Mirror]) -> None:
    mirrors[0].stall_after = 20
    process = start_download(cache, mirrors[0])
    part = cache / "mnist" / f"{FIRST}.part"
    deadline = time.monotonic() + 20
    while not part.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=10)
    assert held(cache / "mnist") == [".lock", part.name]
    mirrors[0].stall_after = None
    mirrors[0].released.set()
    download(cache, mirrors[0])
    assert held(cache / "mnist") == ALL


# --- the real thing -----------------------------------------------------------------------------------------------


@real_mnist
def test_mnist_is_the_published_one_split_without_leaks() -> None:
    dataset = data.load(shipped("mnist", path=f"{REAL}/mnist"), seed=0)
    assert dataset.train.inputs.shape == (55_000, 28, 28)
    assert dataset.validation.inputs.shape == (5_000, 28, 28)
    assert dataset.test.inputs.shape == (10_000, 28, 28)
    assert np.bincount(dataset.test.targets).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.digest == "212193ceac1fe2216e4f17b722bd51164092"
    test = as_set(dataset.test)
    assert not test & as_set(dataset.train)
    assert not test & as_set(dataset.validation)


@real_mnist
def test_mnist_as_the_npz_of_keras_is_the_same_dataset(tmp_path: Path) -> None:
    whole = data.load(shipped("mnist", path=f"{REAL}/mnist", validation=0), seed=0)
    np.savez(
        tmp_path / "mnist.npz",
        x_train=whole.train.inputs,
        y_train=whole.train.targets.astype(np.uint8),
        x_test=whole.test.inputs,
        y_test=whole.test.targets.astype(np.uint8),
    )
    assert data.load(shipped("mnist", path=str(tmp_path)), seed=0).digest == whole.digest
