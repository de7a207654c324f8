"""Arrays of any number type or of texts from npz files that may come from anybody: nothing in them is unpickled."""

import math
import os
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np

from experiments.errors import DataError
from experiments.formatting import printable, shorten

CHUNK = 2**20  # bytes that are unpacked at a time


def read_npz_arrays(file: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Read those of the named arrays that an npz file has.

    The headers are checked before anything is unpacked: a file takes no more memory than it says, and never more than
    the machine has.

    Raises:
        DataError: the file is not an npz file, is damaged, too large, or has arrays that would have to be unpickled.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
            if not (chosen := {key: name for key, name in members.items() if key in names}):
                found = shorten(printable(", ".join(sorted(members))), 200) or "no array"
                raise DataError(f"{file}: expected arrays of the names {', '.join(sorted(names))}; found {found}.")
            headers = {key: _read_header(archive, name, file, key) for key, name in chosen.items()}
            size = sum(dtype.itemsize * math.prod(shape) for shape, _, dtype, _ in headers.values())
            if size > (memory := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
                needs = f"its arrays need {size / 2**30:,.1f} GiB, and this machine has {memory / 2**30:,.1f} GiB"
                raise DataError(f"{file} is too large: {needs} of memory. Save fewer or smaller examples, or as uint8.")
            return {key: _unpack_array(archive, name, file, key, *headers[key]) for key, name in chosen.items()}
    except (OSError, DataError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # anything may have been put into the file
        reason = shorten(printable(str(error)), 200) or type(error).__name__
        raise DataError(f"{file} is not an npz file, or is damaged: {reason}. Save it with numpy.savez.") from error


Header = tuple[tuple[int, ...], bool, np.dtype, int]  # shape, whether by columns, type, and the header's own bytes


def _read_header(archive: zipfile.ZipFile, name: str, file: Path, key: str) -> Header:
    member = archive.getinfo(name)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others take memory without a bound
        raise DataError(f"{file}: expected what numpy.savez writes, found {key} compressed in another way.")
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(stream)
        if dtype.hasobject or dtype.kind not in "buifUS":
            raise DataError(
                f"{file}: {key} has the type {dtype}, which is not read. Save numbers, or for labels texts:"
                f" {key}=numpy.array({key}, dtype={'str' if key.startswith('y') or 'label' in key else 'float'!r})"
            )
        return shape, by_columns, dtype, stream.tell()


def _unpack_array(
    archive: zipfile.ZipFile,
    name: str,
    file: Path,
    key: str,
    shape: tuple[int, ...],
    by_columns: bool,
    dtype: np.dtype,
    header: int,
) -> np.ndarray:
    """Read an array in pieces into its own memory, but never more than its shape needs."""
    array = np.empty(shape[::-1] if by_columns else shape, dtype)
    with archive.open(name) as stream:
        stream.read(header)
        if array.size:
            view, done = array.reshape(-1).view(np.uint8).data, 0
            while done < len(view) and (piece := stream.read(min(CHUNK, len(view) - done))):
                view[done : done + len(piece)] = piece
                done += len(piece)
            if done < len(view) or stream.read(1):
                found = f"{done:,}" if done < len(view) else "more"
                raise DataError(
                    f"{file} is damaged: {key} should have {len(view):,} bytes for its shape, found {found}."
                )
    return array.T if by_columns else array
