"""Pictures read into one array, which is kept in outputs/ and mapped into memory when the same is read again.

An array is known by the names and digests of its files and by how they are read. A file whose size and time of change
are those of the last time is not read again to compute its digest: an index for each folder keeps them. Changing a
picture and setting its time back would go unnoticed; then delete outputs/pictures, which may be done at any time.
"""

import hashlib
import json
import mmap
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from experiments import PROJECT
from experiments.config.facts import available_cores
from experiments.data.picture_files import PictureError, PictureStyle, picture_facts, read_picture_array
from experiments.data.splits import mean_and_deviation
from experiments.errors import DataError
from experiments.formatting import plural
from experiments.profiling import span

PICTURE_FOLDER = PROJECT / "outputs" / "pictures"
BATCH_BYTES = 2**23  # of pictures that are decoded before they are written
TOGETHER = 8  # pictures that a thread takes at a time
MOST_TOLD = 5  # pictures that cannot be read, named one by one


class PictureEntry(NamedTuple):
    """What the index knows of a file."""

    size: int  # bytes
    changed: int  # nanoseconds
    digest: str  # SHA-256 of its content
    height: int
    width: int
    has_color: bool


@dataclass(frozen=True)
class CachedPictures:
    """Pictures in order, uint8 [n, height, width] or [n, height, width, 3], read-only, and what is known of them."""

    array: np.ndarray
    mean: Any  # of the pixels / 255 of the first ones, for each channel
    standard_deviation: Any
    forget: Callable[[], None]  # frees the memory of what was read


@span("pictures")
def list_pictures(folder: Path, names: Sequence[str]) -> dict[str, PictureEntry]:
    """Return what is known of the files of these names in a folder; those that are new or changed are read.

    Raise a DataError that names the files that are not pictures.
    """
    index = PICTURE_FOLDER / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.index.json"
    known = {name: PictureEntry(*entry) for name, entry in _read_json(index).items()}

    def examine(name: str) -> PictureEntry:
        file = folder / name
        try:
            state = file.stat()
        except OSError as error:  # a link that leads nowhere
            raise PictureError(f"{file} cannot be read: {error.strerror}. Replace or remove it.") from None
        entry = known.get(name)
        if entry and (entry.size, entry.changed) == (state.st_size, state.st_mtime_ns):
            return entry
        facts, content = picture_facts(file), file.read_bytes()
        return PictureEntry(state.st_size, state.st_mtime_ns, hashlib.sha256(content).hexdigest(), *facts)

    found = dict(zip(names, _in_parallel(examine, names), strict=True))
    if found != known:
        _write_file(index, json.dumps(found).encode())
    return found


@span("pictures")
def cached_pictures(
    folder: Path, entries: dict[str, PictureEntry], names: Sequence[str], style: PictureStyle, training: int
) -> CachedPictures:
    """Return the named pictures in this order, from the cache or decoded; the first `training` ones give the mean.

    Raise a DataError that names the files that cannot be decoded.
    """
    settings = [*style, training, version("pillow"), [[name, entries[name].digest] for name in names]]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]
    file, about = PICTURE_FOLDER / f"{key}.npy", PICTURE_FOLDER / f"{key}.json"
    if not file.exists() or not about.exists():
        _decode(folder, names, entries, style, file)
        array, forget = _map_array(file)
        mean, deviation = mean_and_deviation(array[:training], 255, str(folder))
        _write_file(about, json.dumps({"mean": mean, "standard_deviation": deviation}).encode())
        forget()
    array, forget = _map_array(file)
    return CachedPictures(array, **_read_json(about), forget=forget)


def _decode(
    folder: Path, names: Sequence[str], entries: dict[str, PictureEntry], style: PictureStyle, file: Path
) -> None:
    """Decode pictures on all cores, and write them as one array, in pieces, so that they never fill the memory."""
    first = entries[names[0]]
    shape = (*(style.size or (first.height, first.width)), *([3] if style.color else []))
    print(f"Reading {plural(len(names), 'picture')} of {folder} into {PICTURE_FOLDER} (only once)", file=sys.stderr)
    PICTURE_FOLDER.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{uuid4().hex}.tmp")
    rows = max(1, BATCH_BYTES // int(np.prod(shape)))
    try:
        with partial.open("wb") as stream:
            header = {"shape": (len(names), *shape), "fortran_order": False, "descr": "|u1"}
            np.lib.format.write_array_header_1_0(stream, header)
            for start in range(0, len(names), rows):
                some = names[start : start + rows]
                for picture in _in_parallel(lambda name: read_picture_array(folder / name, style), some):
                    stream.write(picture.data)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _in_parallel(function: Callable[[str], Any], names: Sequence[str]) -> list[Any]:
    """Call a function with each name, in threads, as Pillow works without Python's lock; tell all that fail."""
    failures: list[str] = []

    def attempt(some: Sequence[str]) -> list[Any]:
        results = []
        for name in some:
            try:
                results.append(function(name))
            except PictureError as error:
                failures.append(str(error))
        return results

    with ThreadPoolExecutor(2 * available_cores()) as pool:  # as some wait for the disk
        parts = [names[start : start + TOGETHER] for start in range(0, len(names), TOGETHER)]
        results = [result for part in pool.map(attempt, parts) for result in part]
    if failures:
        more = len(failures) - MOST_TOLD
        told = [*sorted(failures)[:MOST_TOLD], *([f"and {more:,} more like these"] if more > 0 else [])]
        raise DataError("\n".join(told) + "\nReplace or remove these files.")
    return results


def _map_array(file: Path) -> tuple[np.ndarray, Callable[[], None]]:
    """Map an npy file into memory, and return its array with a function that frees the pages that were read."""
    with file.open("rb") as stream:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        array: np.ndarray = np.ndarray(shape, dtype, mapped, stream.tell())
    return array, lambda: mapped.madvise(mmap.MADV_DONTNEED)


def _read_json(file: Path) -> dict[str, Any]:
    """Return the content of a file of this module; nothing if there is none, or another program has changed it."""
    try:
        content = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_file(file: Path, content: bytes) -> None:
    """Write a file whole or not at all, also with several processes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{uuid4().hex}.tmp")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
