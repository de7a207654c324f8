"""Datasets by name: found or downloaded, checked, split. NumPy only, so that errors appear before TensorFlow loads.

The same data has the same digest, whatever files it comes from.
"""

import contextlib
import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments import PROJECT
from experiments.config.choices import choice_values
from experiments.config.data_schema import (
    ArchiveData,
    DataConfig,
    ImageFileData,
    LinearData,
    OwnData,
    PublishedImageData,
)
from experiments.data.archives import download_archive, expected_archive, missing_archive, read_archive
from experiments.data.arrays import find_array_file, read_arrays, read_own
from experiments.data.download import MIRRORS, download_files
from experiments.data.image_files import (
    IDX_FILES,
    DamagedFileError,
    check_arrays,
    expected_files,
    missing_from,
    read_image_files,
    verify_checksum,
)
from experiments.data.picture_folder import find_picture_folder, read_pictures
from experiments.data.splits import OfficialSplits, Split, hold_out, hold_out_fold
from experiments.errors import DataError
from experiments.profiling import span
from experiments.runtime import expand_home

DATA_FOLDER = PROJECT / "data"
KERAS_CACHE = {"mnist": "mnist.npz", "fashion_mnist": "fashion-mnist"}

# Second word of the generator's seed; data/splits.py has those of the splits.
LINE_STREAM = 102


@dataclass(frozen=True)
class Dataset:
    """The data that a run trains, validates and tests on."""

    name: str
    train: Split
    validation: Split  # may be empty
    test: Split  # the whole official test split
    class_names: tuple[str, ...]  # empty for regression
    digest: str  # SHA-256 of the official splits before `limit` and `validation`, 36 hex digits
    source: str  # the folder or file that was read, or another origin in words
    reading: str = ""  # sentences on how inputs and labels of the user's own were read


@span("data")
def load_dataset(
    config: DataConfig, seed: int, *, cache: Path = DATA_FOLDER, mirrors: Mapping[str, Sequence[str]] = MIRRORS
) -> Dataset:
    """Load a dataset, downloading it if not found, and hold out the validation examples, which `seed` picks.

    Args:
        cache: folder of downloaded datasets, each in a folder of its name.
        mirrors: for each name, URLs of folders with the gzip files, the best first.

    Raises:
        DataError: files are missing, cannot be downloaded, are damaged, or do not match the config.
    """
    return _divide(_load_official_splits(config, cache, mirrors), config, seed)


_last_loaded: dict[str, Any] = {}  # official splits and a dataset, by config: the jobs of a worker mostly share them


@span("data")
def load_dataset_once(config: DataConfig, seed: int) -> Dataset:
    """Load a dataset as load_dataset does, or take what an earlier run of this process has loaded of it."""
    official_key, key = repr(replace(config, limit=None, validation=0, folds=None, fold=None)), repr((config, seed))
    official = _last_loaded.get(official_key) or _load_official_splits(config, DATA_FOLDER, MIRRORS)
    dataset = _last_loaded.get(key) or _divide(official, config, seed)
    _last_loaded.clear()
    _last_loaded.update({official_key: official, key: dataset})
    return dataset


def _load_official_splits(config: DataConfig, cache: Path, mirrors: Mapping[str, Sequence[str]]) -> OfficialSplits:
    if isinstance(config, OwnData):
        return OWN_DATA_READERS.get(config.name, read_own)(config)
    if isinstance(config, ImageFileData | ArchiveData):
        return OfficialSplits(*_read_published(config, cache, mirrors))
    return OfficialSplits(*WITHOUT_FILES[config.name](config))


def _divide(official: OfficialSplits, config: DataConfig, seed: int) -> Dataset:
    class_names = () if isinstance(config, LinearData) else tuple(config.class_names)
    if config.folds is not None and config.fold is not None:
        train, validation = hold_out_fold(official, config.limit, config.folds, config.fold, config.split_seed)
    else:
        train, validation = hold_out(official, config.limit, config.validation, seed)
    return Dataset(
        config.name,
        train,
        validation,
        official.test,
        class_names,
        official.digest(),
        official.source,
        official.reading,
    )


def find_dataset(config: DataConfig, cache: Path = DATA_FOLDER) -> Path | None:
    """Return the folder or npz file that `load_dataset` will read, None if there is none yet or none is needed.

    Raises:
        DataError: `data.path` is set but the files are not there.
    """
    if isinstance(config, OwnData) and config.name in OWN_DATA_PLACES:
        return OWN_DATA_PLACES[config.name](config)
    if not isinstance(config, ImageFileData | ArchiveData):
        return None
    try:
        for place in _searched_places(config, cache).values():
            if place is not None and _describe_lack(place, config) is None:
                return place
    except OSError as error:
        raise DataError(f"Searching for data={config.name} failed: {error}") from error
    if config.path is not None:
        lack = _describe_lack(expand_home("data.path", config.path), config)
        raise DataError(
            f"data.path={config.path}: {lack}. Expected {_describe_files(config)}."
            " Correct data.path, or leave it out to search the usual places."
        )
    return None


def make_linear(config: LinearData) -> tuple[Split, Split, str]:
    """Generate points around a line; they do not depend on the seed, as measured data would not."""
    splits = []
    for stream, examples in enumerate((config.train_examples, config.test_examples)):
        generator = np.random.default_rng([stream, LINE_STREAM])
        x = generator.random((examples, 1))
        y = config.slope * x + config.noise * generator.standard_normal((examples, 1))
        splits.append(Split(x.astype(np.float32), y.astype(np.float32)))
    return splits[0], splits[1], "generated"


def read_digits(config: PublishedImageData) -> tuple[Split, Split, str]:
    """Read the file behind sklearn.datasets.load_digits, in 10 ms; importing scikit-learn takes 800."""
    package = importlib.metadata.distribution("scikit-learn")
    file = Path(str(package.locate_file("sklearn/datasets/data/digits.csv.gz")))
    rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # 64 pixels row by row, then the class
    images, labels = np.ascontiguousarray(rows[:, :-1]).reshape(-1, 8, 8), rows[:, -1].copy()
    train = config.train_examples
    arrays = dict(zip(IDX_FILES, (images[:train], labels[:train], images[train:], labels[train:]), strict=True))
    for part, array in arrays.items():
        verify_checksum(array, config, part, file)
    return _checked_splits(arrays, config, f"scikit-learn {package.version}")


# Datasets without files of their own: name -> function that returns training split, test split and source.
WITHOUT_FILES: dict[str, Callable[[Any], tuple[Split, Split, str]]] = {"linear": make_linear, "digits": read_digits}
# The user's own data: name -> function that reads the splits, and one that finds the file or folder.
OWN_DATA_READERS: dict[str, Callable[[Any], OfficialSplits]] = {"arrays": read_arrays, "images": read_pictures}
OWN_DATA_PLACES: dict[str, Callable[[Any], Path]] = {"arrays": find_array_file, "images": find_picture_folder}


def _checked_splits(
    arrays: Mapping[str, np.ndarray], config: PublishedImageData, source: str
) -> tuple[Split, Split, str]:
    check_arrays(arrays, config, source)
    train, test = (Split(arrays[f"{s}-images"], arrays[f"{s}-labels"].astype(np.int32)) for s in ("train", "test"))
    return train, test, source


def _read_published(
    config: ImageFileData | ArchiveData, cache: Path, mirrors: Mapping[str, Sequence[str]]
) -> tuple[Split, Split, str]:
    place = find_dataset(config, cache)
    if place is None:
        place = cache / config.name
        download = download_archive if isinstance(config, ArchiveData) else download_files
        if failures := download(config, place, mirrors[config.name]):  # type: ignore[arg-type]
            raise DataError(_not_found_message(config, cache, failures))
    try:
        read = read_archive if isinstance(config, ArchiveData) else read_image_files
        arrays = read(place, config)  # type: ignore[arg-type]
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error}") from error
    except DamagedFileError as error:
        # Remove only files in the cache itself that should be as published. Behind a link, or without checksums, they
        # belong to the user; with other checksums, a good file may be reported as damaged.
        own = cache.parent.resolve() / cache.name / config.name
        published = choice_values("data", config.name)["checksums"]
        if config.checksums not in (None, published):
            way_out = (
                f"Nothing was removed, because data.checksums differ from conf/data/{config.name}.yaml. Correct or"
                " remove them, or name the folder of the data they belong to: data.path=FOLDER"
            )
        elif config.checksums is not None and error.file.resolve().parent == own:
            error.file.unlink(missing_ok=True)
            way_out = "It was removed: the next run downloads it again."
        else:
            way_out = "Replace it with a good copy"
            if config.checksums is not None:
                way_out += f", such as from {mirrors[config.name][0]}; for data of your own, set data.checksums=null"
            way_out += "."
        raise DataError(f"{error}. {way_out}") from error
    return _checked_splits(arrays, config, str(place))


def _describe_lack(place: Path, config: ImageFileData | ArchiveData) -> str | None:
    return (missing_archive if isinstance(config, ArchiveData) else missing_from)(place, config.name)


def _describe_files(config: ImageFileData | ArchiveData) -> str:
    return (expected_archive if isinstance(config, ArchiveData) else expected_files)(config.name)


def _searched_places(config: ImageFileData | ArchiveData, cache: Path) -> dict[str, Path | None]:
    """Return the places to search, in order, by how each is chosen; None where it is not."""
    if config.path is not None:
        return {"data.path": expand_home("data.path", config.path)}
    data_dir = os.environ.get("EXPERIMENTS_DATA_DIR")
    keras_home = os.environ.get("KERAS_HOME")
    with contextlib.suppress(RuntimeError):  # a user without a home has no cache
        keras_home = keras_home or str(Path.home() / ".keras")
    return {
        "$EXPERIMENTS_DATA_DIR": expand_home("EXPERIMENTS_DATA_DIR", data_dir) / config.name if data_dir else None,
        "the project": cache / config.name,
        "the cache of Keras": expand_home("KERAS_HOME", keras_home) / "datasets" / KERAS_CACHE[config.name]
        if keras_home and config.name in KERAS_CACHE
        else None,
    }


def _not_found_message(config: ImageFileData | ArchiveData, cache: Path, failures: Sequence[str]) -> str:
    searched = "\n".join(
        f"  {choice}: {'not set' if place is None else _describe_lack(place, config)}"
        for choice, place in _searched_places(config, cache).items()
        if choice != "the cache of Keras" or config.name in KERAS_CACHE
    )
    attempts = "\n".join(f"  {failure}" for failure in failures)
    return f"""data={config.name} is not on this machine, and the download failed.
Searched:
{searched}
Download:
{attempts}
Expected {_describe_files(config)}.
Do one of the following:
  put the files into {cache / config.name}
  set data.path=FOLDER to the folder that contains them
  set EXPERIMENTS_DATA_DIR=FOLDER to the folder that contains them in {config.name}/
  use data=digits or data=linear, which need no files"""
