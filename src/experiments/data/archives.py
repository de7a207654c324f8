"""Datasets that are published as one archive, which is read as it is: CIFAR-10 and EMNIST. Nothing is unpickled."""

import gzip
import hashlib
import string
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from experiments.config.data_schema import ArchiveData, EmnistData
from experiments.data.download import WantedFile, download_wanted
from experiments.data.image_files import IDX_FILES, DamagedFileError, FileContentError, read_idx_stream
from experiments.errors import ConfigError
from experiments.formatting import printable, shorten

CIFAR10_FOLDER = "cifar-10-batches-bin"  # in the archive
CIFAR10_BATCHES = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
EMNIST_FILES = {part: name.replace("t10k-", "test-") for part, name in IDX_FILES.items()}
# Cohen, Afshar, Tapson, van Schaik, "EMNIST: an extension of MNIST to handwritten letters", 2017, table II.
EMNIST_EXAMPLES = {
    "balanced": (112_800, 18_800),
    "byclass": (697_932, 116_323),
    "bymerge": (697_932, 116_323),
    "letters": (124_800, 20_800),
    "digits": (240_000, 40_000),
    "mnist": (60_000, 10_000),
}
MERGED_CLASSES = [*string.digits, *string.ascii_uppercase, *"abdefghnqrt"]  # letters that look alike are one class
EMNIST_CLASSES = {
    "balanced": MERGED_CLASSES,
    "byclass": [*string.digits, *string.ascii_uppercase, *string.ascii_lowercase],
    "bymerge": MERGED_CLASSES,
    "letters": [*string.ascii_uppercase],
    "digits": [*string.digits],
    "mnist": [*string.digits],
}


def missing_archive(place: Path, name: str) -> str | None:
    """Describe what a folder or archive lacks to be the dataset of this name; None if it is there."""
    if _archive_file(place, name).is_file():
        return None
    if not place.is_dir():
        return f"{place} is not a folder" if place.exists() else f"{place} does not exist"
    return f"{place} does not contain {ARCHIVES[name].file}"


def expected_archive(name: str) -> str:
    """Describe the file of the dataset of this name."""
    return f"{ARCHIVES[name].file} as published, not unpacked"


def download_archive(config: ArchiveData, folder: Path, mirrors: Sequence[str]) -> list[str]:
    """Download the archive of a config; arguments and result are those of `download_files`."""
    archive = ARCHIVES[config.name]
    file = folder / archive.file
    return download_wanted(
        [WantedFile(archive.file, archive.largest, partial(_verify_archive, config=config), file.is_file)],
        folder,
        mirrors,
    )


def read_archive(place: Path, config: ArchiveData) -> dict[str, np.ndarray]:
    """Read the dataset in a folder or archive after verifying its checksum.

    Returns:
        The arrays by part (the keys of IDX_FILES), uint8, of the shapes that the config describes.

    Raises:
        DamagedFileError: it does not have its format or checksum.
        FileContentError: it has, but another number of examples than the config describes.
        OSError: it cannot be read.
    """
    file = _archive_file(place, config.name)
    _verify_archive(file, config)
    try:
        return ARCHIVES[config.name].read(file, config)
    except (FileContentError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # anything may have been put into the file
        reason = shorten(printable(str(error)), 200) or type(error).__name__
        raise DamagedFileError(file, f"expected {expected_archive(config.name)}, found: {reason}") from error


def find_emnist_facts(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the published facts of the selection that a group `data` names."""
    train, test = EMNIST_EXAMPLES[data["split"]]
    names = EMNIST_CLASSES[data["split"]]
    counts = {"classes": len(names), "train_examples": train, "test_examples": test}
    return {**counts, "class_names": names, "shape": [28, 28], "pixel_max": 255, "mean": 0.0, "standard_deviation": 1.0}


def _archive_file(place: Path, name: str) -> Path:
    return place / ARCHIVES[name].file if place.is_dir() else place


def _verify_archive(file: Path, config: ArchiveData) -> None:
    """Verify the published checksum of the whole file, if the config has it."""
    if config.checksums is None:
        return
    name = ARCHIVES[config.name].file
    expected = config.checksums.get(name, "")
    kind = expected.partition(":")[0]
    if kind not in ("sha256", "md5"):
        raise ConfigError(
            f"data.checksums: {name} must be sha256:... or md5:..., received {expected!r}."
            " Set data.checksums=null to accept any content."
        )
    with file.open("rb") as stream:
        found = f"{kind}:{hashlib.file_digest(stream, kind).hexdigest()}"
    if found != expected:
        raise DamagedFileError(file, f"expected {expected}, found {found}")


def _read_cifar10(file: Path, config: ArchiveData) -> dict[str, np.ndarray]:
    """Read the binary version (Krizhevsky 2009): for each image its class, then its channels, one after the other."""
    height, width, channels = config.shape
    contents: dict[str, bytes] = {}
    counts = {"train": config.train_examples, "test": config.test_examples}
    row = 1 + height * width * channels
    sizes = {
        f"{CIFAR10_FOLDER}/{name}": row * counts[split] // len(names)
        for split, names in CIFAR10_BATCHES.items()
        for name in names
    }
    with tarfile.open(file, "r:gz") as archive:
        for member in archive:  # in the order of the file, which is unpacked once
            if member.name in sizes and (stream := archive.extractfile(member)):
                contents[member.name] = _read_exactly(stream, sizes[member.name], file, member.name)
    parts: dict[str, np.ndarray] = {}
    for split, names in CIFAR10_BATCHES.items():
        batches = [np.frombuffer(contents[f"{CIFAR10_FOLDER}/{name}"], np.uint8).reshape(-1, row) for name in names]
        images = [batch[:, 1:].reshape(-1, channels, height, width).transpose(0, 2, 3, 1) for batch in batches]
        parts[f"{split}-images"] = np.ascontiguousarray(np.concatenate(images))
        parts[f"{split}-labels"] = np.concatenate([batch[:, 0] for batch in batches])
    return parts


def _read_exactly(stream: IO[bytes], size: int, file: Path, name: str) -> bytes:
    content = stream.read(size + 1)
    if len(content) != size:
        found = f"{len(content):,}{' or more' if len(content) > size else ''}"
        keys = "data.shape, data.train_examples, data.test_examples"
        raise FileContentError(file, f"{name}: expected {size:,} bytes ({keys}), found {found}.")
    return content


def _read_emnist(file: Path, config: ArchiveData) -> dict[str, np.ndarray]:
    """Read one selection; its images are stored with rows and columns exchanged, its letters count from 1."""
    assert isinstance(config, EmnistData)
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        for part, name in EMNIST_FILES.items():
            with archive.open(f"gzip/emnist-{config.split}-{name}.gz") as packed, gzip.open(packed) as stream:
                array = read_idx_stream(stream, file, config, part)
            if part.endswith("images"):
                array = np.ascontiguousarray(array.transpose(0, 2, 1))
            elif config.split == "letters":
                array = array - np.uint8(1)
            arrays[part] = array
    return arrays


@dataclass(frozen=True)
class PublishedArchive:
    """An archive, and how it is read."""

    file: str
    largest: int  # bytes
    read: Callable[[Path, Any], dict[str, np.ndarray]]


ARCHIVES = {
    "cifar10": PublishedArchive("cifar-10-binary.tar.gz", 2**28, _read_cifar10),
    "emnist": PublishedArchive("gzip.zip", 2**30, _read_emnist),
}
