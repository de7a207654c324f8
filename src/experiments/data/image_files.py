"""Images in MNIST's file formats, read and checked: four IDX files (plain or gzip), or one npz file as in Keras.

The arrays are the same for both. Files are data: nothing in them is ever unpickled.
"""

import gzip
import hashlib
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.config.data_schema import ImageData
from experiments.errors import ConfigError, DataError

IDX_FILES = {
    "train-images": "train-images-idx3-ubyte",
    "train-labels": "train-labels-idx1-ubyte",
    "test-images": "t10k-images-idx3-ubyte",
    "test-labels": "t10k-labels-idx1-ubyte",
}
NPZ_KEYS = {"train-images": "x_train", "train-labels": "y_train", "test-images": "x_test", "test-labels": "y_test"}
IDX_UINT8 = b"\x00\x00\x08"
MD5_OF_GZIP = "md5-gzip"  # kind of checksum: of the gzip file, as published, rather than of its content
GZIP_MAGIC = b"\x1f\x8b"


class DamagedFileError(DataError):
    """A file whose content cannot be as published: the user needs another copy."""

    def __init__(self, file: Path, finding: str) -> None:
        super().__init__(f"{file} is damaged: {finding}")
        self.file, self.finding = file, finding


def missing_from(place: Path, name: str) -> str | None:
    """Describe what a folder or npz file lacks to be the dataset of this name; None if it is complete."""
    if _npz_file(place, name).is_file():
        return None
    if not place.is_dir():
        return f"{place} is neither a folder nor an npz file" if place.exists() else f"{place} does not exist"
    found = find_idx_files(place)
    if not found:
        return f"{place} contains none of the files"
    missing = [file for part, file in IDX_FILES.items() if part not in found]
    return f"{place} does not contain {', '.join(missing)}" if missing else None


def expected_files(name: str) -> str:
    """Describe the files of the dataset of this name."""
    return f"{', '.join(IDX_FILES.values())} (each plain or .gz), or {name}.npz with {', '.join(NPZ_KEYS.values())}"


def find_idx_files(folder: Path) -> dict[str, Path]:
    """Return the IDX files in a folder, by part; the gzip file is preferred, as it is what was published."""
    found = {}
    for part, name in IDX_FILES.items():
        dotted = name.replace("-idx", ".idx")
        names = (f"{name}.gz", name, f"{dotted}.gz", dotted)
        file = next((folder / name for name in names if (folder / name).is_file()), None)
        if file is not None:
            found[part] = file
    return found


def _npz_file(place: Path, name: str) -> Path:
    return place if place.suffix == ".npz" else place / f"{name}.npz"


def read_image_files(place: Path, config: ImageData) -> dict[str, np.ndarray]:
    """Read the dataset in a folder or npz file, and verify the checksum of each part.

    Returns:
        The arrays by part (the keys of IDX_FILES), uint8, of any shape: check_arrays checks it.

    Raises:
        DamagedFileError: a file does not have its format or checksum.
        OSError: a file cannot be read.
    """
    files = find_idx_files(place)
    if len(files) == len(IDX_FILES):
        return {part: read_idx(file, config, part) for part, file in files.items()}
    return _read_npz(_npz_file(place, config.name), config)


def read_idx(file: Path, config: ImageData, part: str) -> np.ndarray:
    """Read one IDX file, plain or gzip, as uint8 of the shape in its header.

    Raises:
        DamagedFileError: the file is not complete, or does not have the checksum of `part`.
    """
    raw = content = file.read_bytes()
    if raw.startswith(GZIP_MAGIC):
        try:
            content = gzip.decompress(raw)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DamagedFileError(file, f"expected a complete gzip file, found {len(raw)} bytes ({error})") from error
    if content[:3] != IDX_UINT8 or len(content) < 4 + 4 * int.from_bytes(content[3:4]):
        found = content[:4].hex(" ") or "an empty file"
        raise DamagedFileError(file, f"expected the magic number of an IDX file of bytes, 00 00 08 0n, found {found}")
    dimensions = content[3]
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    header = 4 + 4 * dimensions
    if len(content) != header + math.prod(shape):
        finding = f"expected {header + math.prod(shape)} bytes for the shape {shape} in its header"
        raise DamagedFileError(file, f"{finding}, found {len(content)}")
    array = np.frombuffer(content, np.uint8, offset=header).reshape(shape)
    verify_checksum(array, config, part, file, raw)
    return array


def _read_npz(file: Path, config: ImageData) -> dict[str, np.ndarray]:
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as stored:
            arrays = {part: stored[key] for part, key in NPZ_KEYS.items()}
    except KeyError as error:
        raise DamagedFileError(file, f"expected the arrays {', '.join(NPZ_KEYS.values())}; {error.args[0]}") from error
    except (ValueError, EOFError, TypeError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedFileError(file, f"expected an npz file of arrays of bytes, found: {error}") from error
    for part, array in arrays.items():
        if array.dtype != np.uint8:
            raise DamagedFileError(file, f"{NPZ_KEYS[part]}: expected uint8, found {array.dtype}")
        arrays[part] = np.ascontiguousarray(array)
        verify_checksum(arrays[part], config, part, file)
    return arrays


def verifies_any_packing(config: ImageData) -> bool:
    """Return whether the checksums, if any, can verify files that are not packed as published."""
    return all(checksum.partition(":")[0] != MD5_OF_GZIP for checksum in (config.checksums or {}).values())


def verify_checksum(array: np.ndarray, config: ImageData, part: str, file: Path, raw: bytes = b"") -> None:
    """Verify the published checksum, either of the IDX file, whatever its packing, or of the gzip file itself.

    Args:
        array: the content of `part` (a key of IDX_FILES), uint8 and contiguous.
        raw: the file's own bytes, if it was an IDX file.

    Raises:
        DamagedFileError: the checksum differs.
        ConfigError: the config has a checksum of an unknown kind.
    """
    if config.checksums is None:
        return
    expected = config.checksums.get(part, "")
    kind = expected.partition(":")[0]
    if kind == "sha256":
        checksum = hashlib.sha256(IDX_UINT8 + struct.pack(f">B{array.ndim}I", array.ndim, *array.shape))
        checksum.update(array.data)
    elif kind == MD5_OF_GZIP:
        if not raw.startswith(GZIP_MAGIC):
            return  # not packed as published: nothing to compare
        checksum = hashlib.md5(raw, usedforsecurity=False)
    else:
        raise ConfigError(
            f"data.checksums: {part} must be sha256:... or md5-gzip:..., received {expected!r}."
            " Set data.checksums=null to accept any content."
        )
    found = f"{kind}:{checksum.hexdigest()}"
    if found != expected:
        raise DamagedFileError(file, f"{part}: expected {expected}, found {found}")


def check_arrays(arrays: Mapping[str, np.ndarray], config: ImageData, source: str) -> None:
    """Raise a DataError unless the arrays, by part, have the counts, shape, classes and range of the config."""
    for split, examples in (("train", config.train_examples), ("test", config.test_examples)):
        images, labels = arrays[f"{split}-images"], arrays[f"{split}-labels"]
        expected, classes = (examples, *config.shape), config.classes
        if len(images) != len(labels) or labels.ndim != 1:
            problem = f"one label for each image, found images {images.shape} and labels {labels.shape}"
        elif images.shape != expected:
            problem = f"images {expected} (data.{split}_examples and data.shape), found {images.shape}"
        elif labels.max() >= classes:
            problem = f"labels from 0 to {classes - 1} (data.classes={classes}), found {labels.max()}"
        elif images.max() > config.pixel_max:
            problem = f"pixels up to data.pixel_max={config.pixel_max}, found {images.max()}"
        else:
            continue
        raise DataError(f"data={config.name}, {split} split in {source}: expected {problem}")
