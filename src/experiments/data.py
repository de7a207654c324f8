"""Datasets by name: found or downloaded, checked, split. NumPy only, so that mistakes are told before TensorFlow loads.

Image files come in MNIST's format, four IDX files (plain or gzip) or one npz with the arrays of Keras. Whatever the
packing, the arrays and the digest are the same. Files are data: nothing in them is ever unpickled.
"""

import contextlib
import fcntl
import gzip
import hashlib
import http.client
import importlib.metadata
import math
import os
import shutil
import struct
import sys
import threading
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from experiments.errors import ConfigError, DataError
from experiments.schema import DataConfig, Digits, ImageFiles, Linear

CACHE = Path(__file__).resolve().parents[2] / "data"
MIRRORS: Mapping[str, Sequence[str]] = {
    "mnist": (
        "https://storage.googleapis.com/cvdf-datasets/mnist",
        "https://ossci-datasets.s3.amazonaws.com/mnist",
    ),
    "fashion_mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
    ),
}
TIMEOUT = 10.0  # seconds a mirror may take to answer, and then to send the next bytes

FILES = {
    "train-images": "train-images-idx3-ubyte",
    "train-labels": "train-labels-idx1-ubyte",
    "test-images": "t10k-images-idx3-ubyte",
    "test-labels": "t10k-labels-idx1-ubyte",
}
NPZ_KEYS = {"train-images": "x_train", "train-labels": "y_train", "test-images": "x_test", "test-labels": "y_test"}
KERAS_CACHE = {"mnist": "mnist.npz", "fashion_mnist": "fashion-mnist"}
IDX_UINT8 = b"\x00\x00\x08"
GZIP = b"\x1f\x8b"

# Second words of the generators' seeds: each use of randomness here has a stream of its own.
VALIDATION_STREAM, LINE_STREAM = 101, 102


@dataclass(frozen=True)
class Split:
    """Examples in order, read-only.

    Attributes:
        inputs: images as uint8 [examples, height, width], or numbers as float32 [examples, 1].
        targets: classes as int32 [examples], or numbers as float32 [examples, 1].
    """

    inputs: np.ndarray
    targets: np.ndarray

    def __post_init__(self) -> None:
        self.inputs.setflags(write=False)
        self.targets.setflags(write=False)


@dataclass(frozen=True)
class Dataset:
    """What a run trains on, chooses by and is tested on.

    Attributes:
        name: the dataset's name in the config.
        train, validation, test: the splits; validation may be empty, test is the whole official test split.
        class_names: one per class; empty for regression.
        digest: SHA-256 of the official splits before `limit` and `validation`, 36 hex digits.
        source: the folder or file that was read, or where else the data came from.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    digest: str
    source: str


def load(
    config: DataConfig,
    seed: int,
    *,
    cache: Path = CACHE,
    mirrors: Mapping[str, Sequence[str]] = MIRRORS,
) -> Dataset:
    """Load a dataset, downloading it if it is nowhere on this machine, and hold out the validation examples.

    Args:
        config: the group `data` of the config.
        seed: picks the validation examples, and nothing else.
        cache: folder of downloaded datasets, each in a folder of its name.
        mirrors: for each name, addresses of folders with the gzip files, the best first.

    Raises:
        DataError: files are missing, cannot be downloaded, are damaged, or are not what the config says.
    """
    if isinstance(config, Linear):
        train, test = _line(config, config.train_examples, 0), _line(config, config.test_examples, 1)
        source = "generated"
    else:
        if isinstance(config, ImageFiles):
            arrays, source = _image_files(config, cache, mirrors)
        else:
            arrays, source = _bundled_digits(config)
        train = Split(arrays["train-images"], arrays["train-labels"].astype(np.int32))
        test = Split(arrays["test-images"], arrays["test-labels"].astype(np.int32))
    class_names = () if isinstance(config, Linear) else tuple(config.class_names)
    digest = _digest(train, test)
    train, validation = _hold_out(train, config.limit, config.validation, seed)
    return Dataset(config.name, train, validation, test, class_names, digest, source)


def find(config: DataConfig, cache: Path = CACHE) -> Path | None:
    """The folder or npz file that `load` will read, or None if there is none yet or none is needed.

    Raises:
        DataError: `data.path` is given but does not hold the files.
    """
    if not isinstance(config, ImageFiles):
        return None
    try:
        for place in _places(config, cache).values():
            if place is not None and _lacks(place, config.name) is None:
                return place
    except OSError as error:
        raise DataError(f"data={config.name} cannot be searched for: {error}") from error
    if config.path is not None:
        place = Path(config.path).expanduser()
        raise DataError(
            f"data.path={config.path}: {_lacks(place, config.name)}. Expected {_expected(config.name)}."
            " Correct data.path, or leave it out to search the usual places."
        )
    return None


# --- splits -------------------------------------------------------------------------------------------------------


def _hold_out(train: Split, limit: int | None, validation: int, seed: int) -> tuple[Split, Split]:
    """The first `limit` examples, less `validation` of them picked by seed; both parts in the order of the file."""
    inputs, targets = train.inputs[:limit], train.targets[:limit]
    order = np.random.default_rng([seed, VALIDATION_STREAM]).permutation(len(inputs))
    held_out, rest = np.sort(order[:validation]), np.sort(order[validation:])
    return Split(inputs[rest], targets[rest]), Split(inputs[held_out], targets[held_out])


def _digest(*splits: Split) -> str:
    digest = hashlib.sha256()
    for array in (array for split in splits for array in (split.inputs, split.targets)):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()[:36]


# --- data that is no file of its own ------------------------------------------------------------------------------


def _line(config: Linear, examples: int, stream: int) -> Split:
    """The same points whatever the experiment's seed, as with data that was measured."""
    generator = np.random.default_rng([stream, LINE_STREAM])
    x = generator.random((examples, 1))
    y = config.slope * x + config.noise * generator.standard_normal((examples, 1))
    return Split(x.astype(np.float32), y.astype(np.float32))


def _bundled_digits(config: Digits) -> tuple[dict[str, np.ndarray], str]:
    """The file behind sklearn.datasets.load_digits: read in 10 ms, where importing scikit-learn takes 800."""
    package = importlib.metadata.distribution("scikit-learn")
    file = Path(str(package.locate_file("sklearn/datasets/data/digits.csv.gz")))
    rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # 64 pixels row by row, then the class
    images, labels = np.ascontiguousarray(rows[:, :-1]).reshape(-1, 8, 8), rows[:, -1].copy()
    train = config.train_examples
    arrays = dict(zip(FILES, (images[:train], labels[:train], images[train:], labels[train:]), strict=True))
    source = f"scikit-learn {package.version}"
    for part, array in arrays.items():
        _verify(array, config, part, file)
    _check_facts(arrays, config, source)
    return arrays, source


# --- image files --------------------------------------------------------------------------------------------------


class _DamagedError(DataError):
    """A file whose content cannot be what was published: another copy of it is the way out."""

    def __init__(self, file: Path, finding: str) -> None:
        super().__init__(f"{file} is damaged: {finding}")
        self.file, self.finding = file, finding


def _image_files(
    config: ImageFiles, cache: Path, mirrors: Mapping[str, Sequence[str]]
) -> tuple[dict[str, np.ndarray], str]:
    place = find(config, cache)
    if place is None:
        place = cache / config.name
        if failures := _download(config, place, mirrors[config.name]):
            raise DataError(_nowhere(config, cache, failures))
    try:
        arrays = _read(place, config)
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error}") from error
    except _DamagedError as error:
        # Only what lies in the cache itself, and was to be as published, is ours to remove: behind a link, or with
        # checksums switched off, it is somebody's own.
        own = cache.parent.resolve() / cache.name / config.name
        if config.checksums is not None and error.file.resolve().parent == own:
            error.file.unlink(missing_ok=True)
            way_out = "It was removed: the next run downloads it again."
        else:
            way_out = f"Replace it by a good copy, such as from {mirrors[config.name][0]}"
            way_out += "; if it is data of your own, set data.checksums=null."
        raise DataError(f"{error}. {way_out}") from error
    _check_facts(arrays, config, str(place))
    return arrays, str(place)


def _places(config: ImageFiles, cache: Path) -> dict[str, Path | None]:
    """Where the files may be, in the order of the search, by how the place is chosen; None where it is not."""
    if config.path is not None:
        return {"data.path": Path(config.path).expanduser()}
    data_dir = os.environ.get("EXPERIMENTS_DATA_DIR")
    keras_home = os.environ.get("KERAS_HOME") or "~/.keras"
    return {
        "$EXPERIMENTS_DATA_DIR": Path(data_dir).expanduser() / config.name if data_dir else None,
        "the project": cache / config.name,
        "the cache of Keras": Path(keras_home).expanduser() / "datasets" / KERAS_CACHE[config.name],
    }


def _lacks(place: Path, name: str) -> str | None:
    """What `place` lacks to be the dataset, or None if it is whole."""
    if _npz_file(place, name).is_file():
        return None
    if not place.is_dir():
        return f"{place} is neither a folder nor an npz file" if place.exists() else f"{place} does not exist"
    found = _idx_files(place)
    if not found:
        return f"{place} holds no such files"
    missing = [file for part, file in FILES.items() if part not in found]
    return f"{place} does not hold {', '.join(missing)}" if missing else None


def _expected(name: str) -> str:
    return f"{', '.join(FILES.values())} (each plain or .gz), or {name}.npz with {', '.join(NPZ_KEYS.values())}"


def _npz_file(place: Path, name: str) -> Path:
    return place if place.suffix == ".npz" else place / f"{name}.npz"


def _idx_files(folder: Path) -> dict[str, Path]:
    """The IDX files in a folder; the gzip file, where there is one, as that is what was published."""
    found = {}
    for part, name in FILES.items():
        dotted = name.replace("-idx", ".idx")
        names = (f"{name}.gz", name, f"{dotted}.gz", dotted)
        file = next((folder / name for name in names if (folder / name).is_file()), None)
        if file is not None:
            found[part] = file
    return found


def _read(place: Path, config: ImageFiles) -> dict[str, np.ndarray]:
    files = _idx_files(place)
    if len(files) == len(FILES):
        return {part: _read_idx(file, config, part) for part, file in files.items()}
    return _read_npz(_npz_file(place, config.name), config)


def _read_idx(file: Path, config: ImageFiles, part: str) -> np.ndarray:
    """One IDX file, plain or gzip, as uint8 of the shape that its header gives."""
    raw = content = file.read_bytes()
    if raw.startswith(GZIP):
        try:
            content = gzip.decompress(raw)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _DamagedError(file, f"expected a whole gzip file, found {len(raw)} bytes ({error})") from error
    if content[:3] != IDX_UINT8 or len(content) < 4 + 4 * int.from_bytes(content[3:4]):
        found = content[:4].hex(" ") or "an empty file"
        raise _DamagedError(file, f"expected the magic number of an IDX file of bytes, 00 00 08 0n, found {found}")
    dimensions = content[3]
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    header = 4 + 4 * dimensions
    if len(content) != header + math.prod(shape):
        finding = f"expected {header + math.prod(shape)} bytes for the shape {shape} in its header"
        raise _DamagedError(file, f"{finding}, found {len(content)}")
    array = np.frombuffer(content, np.uint8, offset=header).reshape(shape)
    _verify(array, config, part, file, raw)
    return array


def _read_npz(file: Path, config: ImageFiles) -> dict[str, np.ndarray]:
    arrays = {}
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as stored:
            for part, key in NPZ_KEYS.items():
                arrays[part] = stored[key]
    except KeyError as error:
        raise _DamagedError(file, f"expected the arrays {', '.join(NPZ_KEYS.values())}; {error.args[0]}") from error
    except (ValueError, EOFError, TypeError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise _DamagedError(file, f"expected an npz file of arrays of bytes, found: {error}") from error
    for part, array in arrays.items():
        if array.dtype != np.uint8:
            raise _DamagedError(file, f"{NPZ_KEYS[part]}: expected uint8, found {array.dtype}")
        arrays[part] = np.ascontiguousarray(array)
        _verify(arrays[part], config, part, file)
    return arrays


def _verify(array: np.ndarray, config: Digits, part: str, file: Path, raw: bytes = b"") -> None:
    """Compare with the published checksum: of the IDX file, however it was packed, or of the gzip file itself."""
    if config.checksums is None:
        return
    expected = config.checksums.get(part, "")
    kind = expected.partition(":")[0]
    if kind == "sha256":
        checksum = hashlib.sha256(IDX_UINT8 + struct.pack(f">B{array.ndim}I", array.ndim, *array.shape))
        checksum.update(array.data)
    elif kind == "md5-gzip":
        if not raw.startswith(GZIP):
            return  # not packed as published, so there is nothing to compare
        checksum = hashlib.md5(raw, usedforsecurity=False)
    else:
        raise ConfigError(
            f"data.checksums: {part} must be sha256:... or md5-gzip:..., received {expected!r};"
            " data.checksums=null accepts any content"
        )
    found = f"{kind}:{checksum.hexdigest()}"
    if found != expected:
        raise _DamagedError(file, f"{part}: expected {expected}, found {found}")


def _check_facts(arrays: Mapping[str, np.ndarray], config: Digits, source: str) -> None:
    """The counts, shape and classes that the config states are what the rest of the program relies on."""
    for split, examples in (("train", config.train_examples), ("test", config.test_examples)):
        images, labels = arrays[f"{split}-images"], arrays[f"{split}-labels"]
        where = f"data={config.name}, {split} split in {source}"
        if len(images) != len(labels) or labels.ndim != 1:
            shapes = f"images {images.shape} and labels {labels.shape}"
            raise DataError(f"{where}: expected one label for each image, found {shapes}")
        expected = (examples, *config.shape)
        if images.shape != expected:
            raise DataError(
                f"{where}: expected images {expected} (data.{split}_examples and data.shape), found {images.shape}"
            )
        if labels.max() >= config.classes:
            raise DataError(
                f"{where}: expected labels from 0 to {config.classes - 1} (data.classes={config.classes}),"
                f" found {labels.max()}"
            )
        if images.max() > config.pixel_max:
            raise DataError(f"{where}: expected pixels up to data.pixel_max={config.pixel_max}, found {images.max()}")


# --- download -----------------------------------------------------------------------------------------------------


def _download(config: ImageFiles, folder: Path, mirrors: Sequence[str]) -> list[str]:
    """Bring the missing files into the folder, each whole and verified or not at all; if not, return why."""
    mirrors, failures = list(mirrors), []
    try:
        with _locked(folder):
            for part, name in FILES.items():
                if part in _idx_files(folder):  # from before, or another process was faster
                    continue
                for mirror in tuple(mirrors):
                    url = f"{mirror}/{name}.gz"
                    try:
                        _fetch(url, folder / f"{name}.gz", config, part)
                        break
                    except (OSError, http.client.HTTPException, _DamagedError) as error:
                        failures.append(f"{url}: {_reason(error)}")
                        mirrors.remove(mirror)  # the other files try the others first
                        mirrors.append(mirror)
                else:
                    return failures
    except OSError as error:
        return [str(error)]
    return []


def _fetch(url: str, target: Path, config: ImageFiles, part: str) -> None:
    """Download one file beside its place, going on where an earlier try broke off, verify it and move it there."""
    partial = target.with_name(f"{target.name}.part")
    start = partial.stat().st_size if partial.exists() else 0
    try:
        response = _open(urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {}))
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        partial.unlink()
        return _fetch(url, target, config, part)
    with response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        start = start if resumed else 0
        length = response.headers["Content-Length"]
        size = start + int(length) if length else None
        megabytes = f"{size / 1e6:.1f} MB" if size else "size unknown"
        print(f"Downloading {url} ({megabytes}{', resumed' if resumed else ''}) to {target.parent}", file=sys.stderr)
        with partial.open("ab" if resumed else "wb") as file:
            shutil.copyfileobj(response, file)
            received = file.tell()
    if size is not None and received != size:
        raise ConnectionError(f"broke off after {received} of {size} bytes")
    try:
        _read_idx(partial, config, part)
    except _DamagedError:
        partial.unlink()
        if resumed:  # its first part may have been of another copy
            return _fetch(url, target, config, part)
        raise
    partial.replace(target)
    return None


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    """`urlopen` within TIMEOUT in all: its own timeout starts anew for each address of a host, and leaves out DNS."""
    answer: Future[http.client.HTTPResponse] = Future()

    def ask() -> None:
        try:
            answer.set_result(urllib.request.urlopen(request, timeout=TIMEOUT))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return answer.result(TIMEOUT)


def _reason(error: Exception) -> str:
    if isinstance(error, _DamagedError):
        return error.finding
    if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
        return f"no answer within {TIMEOUT:g} s"
    return str(error.reason if type(error) is urllib.error.URLError else error)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if need be, against other processes; leave neither lock nor empty folders behind."""
    lock = folder / ".lock"
    with _take(lock):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
                folder.parent.rmdir()


def _take(lock: Path) -> IO[str]:
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            handle = lock.open("w")
            fcntl.flock(handle, fcntl.LOCK_EX)
            # The process before us removed what it held: only the file that is still in place is the lock.
            if os.path.samestat(os.fstat(handle.fileno()), lock.stat()):
                return handle
            handle.close()


def _nowhere(config: ImageFiles, cache: Path, failures: Sequence[str]) -> str:
    searched = [
        f"  {choice}: {'not set' if place is None else _lacks(place, config.name)}"
        for choice, place in _places(config, cache).items()
    ]
    return "\n".join(
        [
            f"data={config.name} is not on this machine, and the download failed.",
            "Searched:",
            *searched,
            "Download:",
            *(f"  {failure}" for failure in failures),
            f"Expected {_expected(config.name)}.",
            "To go on, one of:",
            f"  put the files into {cache / config.name}",
            "  data.path=FOLDER, the folder that holds them",
            f"  EXPERIMENTS_DATA_DIR=FOLDER, the folder that holds them in {config.name}/",
            "  data=digits or data=linear, which need no files",
        ]
    )
