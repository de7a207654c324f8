"""Images in MNIST's file formats, read and checked: four IDX files (plain or gzip), or one npz file as in Keras.

The arrays are the same for both. Files are data: nothing in them is ever unpickled.
"""

import gzip
import hashlib
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from experiments.config.data_schema import PublishedImageData
from experiments.errors import ConfigError, DataError
from experiments.formatting import printable, shorten

IDX_FILES = {
    "train-images": "train-images-idx3-ubyte",
    "train-labels": "train-labels-idx1-ubyte",
    "test-images": "t10k-images-idx3-ubyte",
    "test-labels": "t10k-labels-idx1-ubyte",
}
NPZ_KEYS = {"train-images": "x_train", "train-labels": "y_train", "test-images": "x_test", "test-labels": "y_test"}
IDX_UINT8 = b"\x00\x00\x08"
OTHER_IDX_NUMBERS = {9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}  # by the third byte
MD5_OF_GZIP = "md5-gzip"  # kind of checksum: of the gzip file, as published, rather than of its content
GZIP_MAGIC = b"\x1f\x8b"

ByteStream = IO[bytes] | io.BufferedIOBase


class FileContentError(DataError):
    """A file whose content is not what the config describes."""

    verdict = ""

    def __init__(self, file: Path, finding: str) -> None:
        super().__init__(f"{file}{self.verdict}: {finding}")
        self.file, self.finding = file, finding


class DamagedFileError(FileContentError):
    """A file whose content cannot be as published: the user needs another copy."""

    verdict = " is damaged"


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


def read_image_files(place: Path, config: PublishedImageData) -> dict[str, np.ndarray]:
    """Read the dataset in a folder or npz file, and verify the checksum of each part.

    The header of each part is checked before its content is unpacked, so that no file takes more memory than the config
    describes.

    Returns:
        The arrays by part (the keys of IDX_FILES), uint8, of the shapes that the config describes.

    Raises:
        DamagedFileError: a file does not have its format or checksum.
        FileContentError: it has, but other numbers or another shape than the config describes.
        OSError: a file cannot be read.
    """
    files = find_idx_files(place)
    if len(files) == len(IDX_FILES):
        return {part: read_idx(file, config, part) for part, file in files.items()}
    return _read_npz(_npz_file(place, config.name), config)


def largest_packed_size(config: PublishedImageData, part: str) -> int:
    """Return the most bytes that an IDX file of this part can have, plain or gzip: gzip adds little to noise."""
    return int(1.01 * math.prod(_expected_shape(config, part))) + 2**16


def read_idx(file: Path, config: PublishedImageData, part: str) -> np.ndarray:
    """Read one IDX file, plain or gzip, as uint8 of the shape that the config describes.

    Raises:
        DamagedFileError: the file is not complete, or does not have the checksum of `part`.
        FileContentError: its header does not fit the config.
    """
    size, largest = file.stat().st_size, largest_packed_size(config, part)
    if size > largest:
        raise FileContentError(file, f"expected at most {largest} bytes for the {part} of the config, found {size}.")
    raw = file.read_bytes()
    try:
        with gzip.open(io.BytesIO(raw)) if raw.startswith(GZIP_MAGIC) else io.BytesIO(raw) as stream:
            array = read_idx_stream(stream, file, config, part)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedFileError(file, f"expected a complete gzip file, found {size} bytes ({error})") from error
    verify_checksum(array, config, part, file, raw)
    return array


def read_idx_stream(stream: ByteStream, file: Path, config: PublishedImageData, part: str) -> np.ndarray:
    """Read an IDX file, which is or is in `file`, from a stream of its unpacked bytes; errors are those of read_idx."""
    magic = stream.read(4)
    if len(magic) == 4 and magic[:2] == IDX_UINT8[:2] and magic[2] in OTHER_IDX_NUMBERS:
        raise FileContentError(file, _only_bytes(part, OTHER_IDX_NUMBERS[magic[2]]))
    dimensions = magic[3] if len(magic) == 4 and magic.startswith(IDX_UINT8) else 0
    sizes = stream.read(4 * dimensions)
    if not dimensions or len(sizes) < 4 * dimensions:
        found = magic.hex(" ") or "an empty file"
        raise DamagedFileError(file, f"expected the magic number of an IDX file of bytes, 00 00 08 0n, found {found}")
    shape = struct.unpack(f">{dimensions}I", sizes)
    if problem := shape_problem(shape, config, part):
        raise FileContentError(file, f"{problem}. Correct these keys or the file.")
    return _read_content(stream, shape, len(magic) + len(sizes), file)


def _read_content(stream: ByteStream, shape: tuple[int, ...], header: int, file: Path) -> np.ndarray:
    """Read the bytes behind a header of so many bytes, but not more than its shape needs, whatever they unpack to."""
    size = math.prod(shape)
    content = stream.read(size + 1)
    if len(content) != size:
        found = f"{header + len(content)}{' or more' if len(content) > size else ''}"
        finding = f"expected {header + size} bytes for the shape {shape} in its header, found {found}"
        raise DamagedFileError(file, finding)
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_npz(file: Path, config: PublishedImageData) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(file) as archive:
            arrays = {part: _read_npz_array(archive, file, config, part) for part in NPZ_KEYS}
    except (OSError, FileContentError):
        raise
    except Exception as error:  # anything may have been put into the file
        reason = shorten(printable(str(error)), 200) or type(error).__name__
        raise DamagedFileError(file, f"expected an npz file of arrays of bytes, found: {reason}") from error
    for part, array in arrays.items():
        verify_checksum(array, config, part, file)
    return arrays


def _read_npz_array(archive: zipfile.ZipFile, file: Path, config: PublishedImageData, part: str) -> np.ndarray:
    """Read an array as NumPy does, but check its header before its content is unpacked."""
    key = NPZ_KEYS[part]
    if f"{key}.npy" not in archive.namelist():
        raise DamagedFileError(file, f"expected the arrays {', '.join(NPZ_KEYS.values())}; there is no {key}")
    member = archive.getinfo(f"{key}.npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others take memory without a bound
        raise DamagedFileError(file, f"expected what numpy.savez writes, found {key} compressed in another way")
    with archive.open(member) as stream:
        version, _ = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == 1 else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = header(stream)
        if dtype != np.uint8:
            raise FileContentError(file, f"{key}: {_only_bytes(part, dtype.name, shape)}")
        if problem := shape_problem(shape, config, part):
            raise FileContentError(file, f"{key}: {problem}. Correct these keys or the file.")
        array = _read_content(stream, shape[::-1] if by_columns else shape, stream.tell(), file)
    return np.ascontiguousarray(array.T) if by_columns else array


def _only_bytes(part: str, numbers: str, shape: tuple[int, ...] = ()) -> str:
    """Say that an array of other numbers than bytes is not read, and how to convert it."""
    if part.endswith("images"):
        return f"found pixels as {numbers}; only uint8 is read, from 0 to data.pixel_max. Save them as uint8."
    kind, labels = ("one-hot labels", "labels.argmax(1)") if len(shape) == 2 else ("labels", "labels")
    only = "only uint8 is read, one class from 0 for each image"
    return f"found {kind} as {numbers}; {only}. Save {labels}.astype('uint8')."


def _expected_shape(config: PublishedImageData, part: str) -> tuple[int, ...]:
    split, _, kind = part.partition("-")
    examples = config.train_examples if split == "train" else config.test_examples
    return (examples, *config.shape) if kind == "images" else (examples,)


def shape_problem(shape: tuple[int, ...], config: PublishedImageData, part: str) -> str | None:
    """Say how the shape of a part differs from the one that the config describes; None if it does not."""
    expected = _expected_shape(config, part)
    if shape == expected:
        return None
    split, _, kind = part.partition("-")
    keys = f"data.{split}_examples" + (" and data.shape" if kind == "images" else ", one label for each image")
    found = f"{shape if len(shape) < 8 else f'{len(shape)} dimensions'}"
    if kind == "labels" and len(shape) == 2:
        found += ": one-hot labels are not read, save labels.argmax(1).astype('uint8')"
    return f"expected {kind} {expected} ({keys}), found {found}"


def verifies_any_packing(config: PublishedImageData) -> bool:
    """Return whether the checksums, if any, can verify files that are not packed as published."""
    return all(checksum.partition(":")[0] != MD5_OF_GZIP for checksum in (config.checksums or {}).values())


def verify_checksum(array: np.ndarray, config: PublishedImageData, part: str, file: Path, raw: bytes = b"") -> None:
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


def check_arrays(arrays: Mapping[str, np.ndarray], config: PublishedImageData, source: str) -> None:
    """Raise a DataError unless the arrays, by part, have the counts, shape, classes and range of the config."""
    for part, array in arrays.items():
        classes, largest = config.classes, array.max(initial=0)
        if problem := shape_problem(array.shape, config, part):
            pass
        elif part.endswith("labels") and largest >= classes:
            problem = f"expected labels from 0 to {classes - 1} (data.classes={classes}), found {largest}"
        elif part.endswith("images") and largest > config.pixel_max:
            problem = f"expected pixels up to data.pixel_max={config.pixel_max}, found {largest}"
        if problem:
            raise DataError(f"data={config.name}, {part.partition('-')[0]} split in {source}: {problem}")
