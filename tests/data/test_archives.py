"""CIFAR-10 and EMNIST, read from small archives in their format, which a real server gives."""

import gzip
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from composed import job
from mnist_files import Mirror, idx, refusal, serving

from experiments.config.data_schema import DataConfig
from experiments.data.datasets import Dataset, find_dataset, load_dataset

RANDOM = np.random.default_rng(0)
PHOTOS = RANDOM.integers(0, 256, (12, 4, 3, 3)).astype(np.uint8)  # height 4, width 3
CLASSES = np.arange(12, dtype=np.uint8) % 10
LETTERS = RANDOM.integers(0, 256, (6, 28, 28)).astype(np.uint8)


def cifar10(photos: np.ndarray = PHOTOS) -> bytes:
    """Five batches of two images to train on, one of two to test on."""
    rows = np.hstack([CLASSES[:, None], photos.transpose(0, 3, 1, 2).reshape(len(photos), -1)])
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for number, name in enumerate([*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin", "readme.html"]):
            content = rows[2 * number : 2 * number + 2].tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def emnist(split: str = "letters") -> bytes:
    labels = np.arange(1, 7, dtype=np.uint8)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for part, rows in (("train", slice(0, 4)), ("test", slice(4, 6))):
            for kind, array in (("images-idx3", LETTERS[rows].transpose(0, 2, 1)), ("labels-idx1", labels[rows])):
                archive.writestr(f"gzip/emnist-{split}-{part}-{kind}-ubyte.gz", gzip.compress(idx(array)))
    return stream.getvalue()


CIFAR10, EMNIST = cifar10(), emnist()  # an archive has the time in it


def config(name: str, content: bytes, *overrides: str) -> Any:
    file = {"cifar10": "cifar-10-binary.tar.gz", "emnist": "gzip.zip"}[name]
    data: Any = job(f"data={name}", "data.validation=0", "training.batch_size=1", *overrides).data
    data.checksums = {file: f"sha256:{hashlib.sha256(content).hexdigest()}"}
    if name == "cifar10":
        data.shape, data.train_examples, data.test_examples = [4, 3, 3], 10, 2
    else:
        data.train_examples, data.test_examples = 4, 2
    return data


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving() as server:
        server.files = {"cifar-10-binary.tar.gz": CIFAR10, "gzip.zip": EMNIST}
        yield server


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EXPERIMENTS_DATA_DIR", raising=False)


def load(data: DataConfig, cache: Path, *mirrors: Mirror) -> Dataset:
    return load_dataset(data, 0, cache=cache, mirrors={data.name: [mirror.url for mirror in mirrors]})


def test_cifar10_is_downloaded_once_and_read_with_its_channels_last(tmp_path: Path, mirror: Mirror) -> None:
    data = config("cifar10", CIFAR10)
    for _ in range(2):
        dataset = load(data, tmp_path / "data", mirror)
        np.testing.assert_array_equal(dataset.train.inputs, PHOTOS[:10])
        np.testing.assert_array_equal(dataset.test.inputs, PHOTOS[10:])
        np.testing.assert_array_equal(dataset.test.targets, CLASSES[10:])
    assert mirror.requests == [("cifar-10-binary.tar.gz", None)]
    assert find_dataset(data, tmp_path / "data") == tmp_path / "data" / "cifar10"


def test_emnist_is_upright_and_its_letters_count_from_zero(tmp_path: Path, mirror: Mirror) -> None:
    dataset = load(config("emnist", EMNIST, "data.split=letters"), tmp_path / "data", mirror)
    np.testing.assert_array_equal(dataset.train.inputs, LETTERS[:4])
    assert dataset.train.targets.tolist() == [0, 1, 2, 3]
    assert dataset.class_names[:3] == ("A", "B", "C")


def test_the_selection_of_emnist_says_its_classes() -> None:
    found = {}
    for split in ("balanced", "byclass", "bymerge", "letters", "digits", "mnist"):
        data: Any = job("data=emnist", f"data.split={split}").data
        assert len(data.class_names) == data.classes
        found[split] = (data.classes, data.train_examples, data.test_examples)
    assert found == {
        "balanced": (47, 112_800, 18_800),
        "byclass": (62, 697_932, 116_323),
        "bymerge": (47, 697_932, 116_323),
        "letters": (26, 124_800, 20_800),
        "digits": (10, 240_000, 40_000),
        "mnist": (10, 60_000, 10_000),
    }


def test_another_archive_is_refused(tmp_path: Path, mirror: Mirror) -> None:
    other = config("cifar10", b"another")
    said = refusal(lambda: load(other, tmp_path / "data", mirror))
    assert f"{mirror.url}/cifar-10-binary.tar.gz: expected sha256:" in said
    assert not (tmp_path / "data").exists()
    own = tmp_path / "cifar-10-binary.tar.gz"
    own.write_bytes(CIFAR10)
    own_config = config("cifar10", CIFAR10, f"data.path={own}")
    own_config.train_examples = 20
    assert "data_batch_1.bin: expected 148 bytes (data.shape, data.train_examples, data.test_examples), found 74." in (
        refusal(lambda: load(own_config, tmp_path / "data"))
    )
    own.write_bytes(b"no archive")
    own_config.checksums = None
    assert f"{own} is damaged: expected cifar-10-binary.tar.gz as published, not unpacked, found: " in refusal(
        lambda: load(own_config, tmp_path / "data")
    )


def test_says_where_it_was_searched(tmp_path: Path, mirror: Mirror) -> None:
    mirror.files = {}
    said = refusal(lambda: load(config("emnist", EMNIST), tmp_path / "data", mirror))
    assert said.startswith("data=emnist is not on this machine, and the download failed.\nSearched:\n")
    assert "Keras" not in said
    assert "Expected gzip.zip as published, not unpacked.\n" in said
    assert refusal(lambda: find_dataset(config("emnist", EMNIST, f"data.path={tmp_path}"))).startswith(
        f"data.path={tmp_path}: {tmp_path} does not contain gzip.zip. Expected gzip.zip as published, not unpacked."
    )
