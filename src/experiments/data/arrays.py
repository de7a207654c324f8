"""The user's own arrays: what is clear is read, with a sentence that says how; what is not is refused with a remedy."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config.data_schema import ArraysData, OwnFunctionData
from experiments.config.own_code import call_own
from experiments.config.registry import OwnFunction, own_functions
from experiments.data.npz_files import read_npz_arrays
from experiments.data.splits import OfficialSplits, Split, chunks_of, mean_and_deviation, pick_test_rows
from experiments.errors import DataError
from experiments.formatting import printable, shorten
from experiments.runtime import expand_home

# Images and labels of a split by the usual names, and of all examples together.
SPLIT_NAMES = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "val": (("x_val", "y_val"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
    "all": (("images", "labels"),),
}
CLASS_NAMES = "class_names"
EXPECTED_ARRAYS = "x_train and y_train (and x_test, y_test), or images and labels"
UNCLEAR_MAXIMUM = 32  # fractions up to this are neither clearly from 0 to 1 nor from 0 to 255

Part = tuple[np.ndarray, np.ndarray]  # inputs and labels


def find_array_facts(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the facts of the npz file that a group `data` names, or raise a DataError if it cannot be used."""
    return _read_file(data["path"], data["test_fraction"], data["split_seed"]).facts


def read_arrays(config: ArraysData) -> OfficialSplits:
    """Read the npz file of a config, or raise a DataError if it cannot be used or has other facts than the config."""
    official = _read_file(config.path, config.test_fraction, config.split_seed)
    check_facts(official, config)
    return official


def find_own_facts(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the facts of what the user's function returns for a group `data`; a DataError if it cannot be used."""
    return _call_own_dataset(data["name"], data, data["test_fraction"], data["split_seed"]).facts


def read_own(config: OwnFunctionData) -> OfficialSplits:
    """Call the user's function; raise a DataError if what it returns cannot be used, or is not what the config says."""
    official = _call_own_dataset(config.name, vars(config), config.test_fraction, config.split_seed)
    check_facts(official, config)
    return official


def _call_own_dataset(name: str, data: Mapping[str, Any], test_fraction: float, split_seed: int) -> OfficialSplits:
    own = own_functions("dataset")[name]
    arguments = {key.name: data[key.name] for key in own.keys}
    return _call_own_once(own, json.dumps(arguments), test_fraction, split_seed)


@lru_cache(maxsize=1)  # whose facts are found is loaded next
def _call_own_once(own: OwnFunction, arguments: str, test_fraction: float, split_seed: int) -> OfficialSplits:
    arrays = call_own(own, **json.loads(arguments))
    if not isinstance(arrays, Mapping) or not all(isinstance(array, np.ndarray) for array in arrays.values()):
        found = type(arrays).__name__
        raise DataError(f"{own.file}: {own.name} returned {found}; expected NumPy arrays by name: {EXPECTED_ARRAYS}.")
    return arrays_to_splits(arrays, f"{own.name} of {Path(own.file).name}", test_fraction, split_seed)


def find_array_file(config: ArraysData) -> Path:
    """Return the npz file of a config, or raise a DataError if there is none."""
    return _existing_file(config.path)


def _existing_file(path: str | None) -> Path:
    if path is None:
        raise DataError("data=arrays needs the file to read: data.path=FILE.npz")
    file = expand_home("data.path", path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise DataError(f"data.path={path} {what}. Expected an npz file with {EXPECTED_ARRAYS}.")
    return file


def _read_file(path: str | None, test_fraction: float, split_seed: int) -> OfficialSplits:
    file = _existing_file(path)
    state = file.stat()
    return _read_file_state(file, state.st_mtime_ns, state.st_size, test_fraction, split_seed)


@lru_cache(maxsize=1)  # whose facts are found is loaded next
def _read_file_state(file: Path, _changed: int, _size: int, test_fraction: float, split_seed: int) -> OfficialSplits:
    names = {name for pairs in SPLIT_NAMES.values() for pair in pairs for name in pair} | {CLASS_NAMES}
    return arrays_to_splits(read_npz_arrays(file, names), str(file), test_fraction, split_seed)


def check_facts(official: OfficialSplits, config: Any) -> None:
    """Raise a DataError if data of the user's own is not what a config says of it."""
    for key in ("shape", "classes", "train_examples", "test_examples", "pixel_max"):
        if (found := official.facts[key]) != (expected := getattr(config, key)):
            raise DataError(
                f"{official.source}: found {key} {found}, but the config has data.{key}={expected}. Correct the data,"
                f" or let it be found: data.{key}=null"
            )
    if official.last_held_out and not config.folds and config.validation not in (0, official.last_held_out):
        raise DataError(
            f"{official.source} has {official.last_held_out:,} validation examples of its own, but the config has"
            f" data.validation={config.validation}. Leave that out, or set it to 0 to train on them too."
        )


def arrays_to_splits(
    arrays: Mapping[str, np.ndarray], source: str, test_fraction: float, split_seed: int
) -> OfficialSplits:
    """Turn arrays under the usual names into the splits of a dataset with classes, and find their facts.

    Args:
        arrays: SPLIT_NAMES -> inputs [n, height, width(, channels)] or vectors [n, numbers], and labels [n], [n, 1],
            one-hot or texts; `class_names` -> texts, if the labels are numbers that have names.
        source: where they come from, for messages.
        test_fraction: part of each class that becomes the test set if there is none, picked by `split_seed`.

    Raises:
        DataError: they cannot be used; the message says what to convert.
    """
    parts = _name_parts(arrays, source)
    images, how_inputs, pixel_max = _convert_inputs({name: x for name, (x, _) in parts.items()}, source)
    labels, names, how_labels = _convert_labels({name: y for name, (_, y) in parts.items()}, source)
    if CLASS_NAMES in arrays:
        names = _given_names(arrays[CLASS_NAMES], len(names), source)
    _check_classes(labels, names, source)
    train, test = ("train" if "train" in parts else "all"), "test"
    how_split = ""
    if test not in parts:
        rows = pick_test_rows(labels[train], test_fraction, split_seed, source)
        rest = np.setdiff1d(np.arange(len(labels[train])), rows)
        for converted in (images, labels):
            converted[test], converted[train] = converted[train][rows], converted[train][rest]
        how_split = f" The test set is {test_fraction:g} of each class, picked by data.split_seed={split_seed}."
    held_out = len(labels["val"]) if "val" in parts else 0
    mean, deviation = mean_and_deviation(images[train], pixel_max, source)
    if held_out:
        images[train], labels[train] = (np.concatenate([a[train], a["val"]]) for a in (images, labels))
    facts = {
        "shape": list(images[train].shape[1:]),
        "classes": len(names),
        "class_names": names,
        "train_examples": len(labels[train]),
        "test_examples": len(labels[test]),
        "pixel_max": pixel_max,
        "mean": mean,
        "standard_deviation": deviation,
        **({"validation": held_out} if held_out else {}),
    }
    reading = f"Inputs: {how_inputs}. Labels: {how_labels}.{how_split}"
    return OfficialSplits(
        Split(images[train], labels[train]), Split(images[test], labels[test]), source, facts, held_out, reading
    )


def _name_parts(arrays: Mapping[str, np.ndarray], source: str) -> dict[str, Part]:
    """Return inputs and labels by split (a key of SPLIT_NAMES), of equal length; training examples or all are there."""
    parts: dict[str, Part] = {}
    for split, pairs in SPLIT_NAMES.items():
        for inputs, labels in pairs:
            present = [name for name in (inputs, labels) if name in arrays]
            if len(present) == 1:
                lack = labels if present == [inputs] else inputs
                raise DataError(f"{source} has {present[0]} but not {lack}. Save both.")
            if present:
                parts[split] = arrays[inputs], arrays[labels]
                if (counts := [len(np.atleast_1d(array)) for array in parts[split]])[0] != counts[1]:
                    raise DataError(
                        f"{source}: {inputs} has {counts[0]:,} examples, {labels} has {counts[1]:,}. Save one label"
                        " for each example."
                    )
                if not counts[0]:
                    raise DataError(f"{source}: {inputs} is empty. Save at least one example in each split.")
    if ("train" in parts) == ("all" in parts):
        found = shorten(printable(", ".join(sorted(arrays))), 200) or "none of them"
        raise DataError(f"{source}: expected the arrays {EXPECTED_ARRAYS}; found {found}.")
    return parts


# --- inputs ----------------------------------------------------------------------------------------------------------


def _convert_inputs(given: Mapping[str, np.ndarray], source: str) -> tuple[dict[str, np.ndarray], str, int]:
    """Return inputs of one shape and number type, uint8, uint16 or float32; how they were read; and data.pixel_max."""
    arrays, layouts = {}, set()
    for split, array in given.items():
        arrays[split], layout = _with_channels_last(array, source)
        layouts.add(layout)
    shapes = {array.shape[1:] for array in arrays.values()}
    if len(shapes) > 1:
        raise DataError(f"{source}: the splits have inputs of the shapes {_list_shapes(shapes)}. Save one shape.")
    types = sorted({array.dtype.newbyteorder("=").name for array in arrays.values()})
    low, high = _range_of(arrays.values(), source)
    vectors = next(iter(shapes))[1:] == ()
    to, pixel_max, meaning = _choose_numbers(arrays.values(), low, high, vectors, source)
    if meaning != "numbers":
        _refuse_other_scales(arrays, high, source)
    converted: dict[str, np.ndarray] = {split: np.ascontiguousarray(array, to) for split, array in arrays.items()}
    what = f"{'vectors' if vectors else 'images'} of {' or '.join(types)} from {low:g} to {high:g}"
    kept = "" if types == [np.dtype(to).name] else f", kept as {np.dtype(to).name}"
    return converted, f"{what}{''.join(layouts - {''})}, read as {meaning}{kept}", pixel_max


def _refuse_other_scales(arrays: Mapping[str, np.ndarray], high: float, source: str) -> None:
    """Refuse fractions from 0 to 1 in one split where another has larger pixels."""
    for split, array in arrays.items():
        if high > 1 and array.dtype.kind == "f" and array.max() <= 1:
            others = ", ".join(f"{name} to {other.max():g}" for name, other in arrays.items() if name != split)
            raise DataError(
                f"{source}: the splits have pixels of different scales: {split} is from 0 to {array.max():g}, {others}."
                " Save all on one scale."
            )


def _with_channels_last(array: np.ndarray, source: str) -> tuple[np.ndarray, str]:
    if array.dtype.kind not in "buif":
        raise DataError(f"{source}: the inputs are of type {array.dtype}; expected numbers: uint8, uint16 or float.")
    if not 2 <= array.ndim <= 4 or not array.size:
        raise DataError(
            f"{source}: the inputs have the shape {array.shape}; expected [examples, height, width], the same with 1 or"
            " 3 channels, or [examples, numbers]."
        )
    if array.ndim < 4 or array.shape[3] in (1, 3):
        return array, ""
    if array.shape[1] in (1, 3):
        return array.transpose(0, 2, 3, 1), ", channels first"
    raise DataError(
        f"{source}: the images have {array.shape[3]} channels (shape {array.shape}); expected 1 or 3. Save"
        " images[..., :3], or their mean over the channels."
    )


def _range_of(arrays: Any, source: str) -> tuple[float, float]:
    # NumPy's, as Python's own min and max may pass over a NaN.
    low, high = float(np.min([a.min() for a in arrays])), float(np.max([a.max() for a in arrays]))
    if not np.isfinite([low, high]).all():  # NaN is the least and the greatest of any numbers
        bad = next((split, row) for split, row in enumerate(arrays) if not np.isfinite([row.min(), row.max()]).all())[1]
        row = next(i for i, each in enumerate(bad) if not np.isfinite(each).all())
        raise DataError(
            f"{source}: the inputs contain NaN or infinity, first in row {row}. Remove such examples, or replace the"
            " values: numpy.nan_to_num(x)"
        )
    return low, high


def _choose_numbers(arrays: Any, low: float, high: float, vectors: bool, source: str) -> tuple[type, int, str]:
    """Return the type to keep inputs in, their data.pixel_max, and what they are read as."""
    fractional = [array for array in arrays if array.dtype.kind == "f"]
    whole = all(np.array_equal(part, np.rint(part)) for array in fractional for part in chunks_of(array))
    if low >= 0 and whole and high <= 1:
        return np.uint8, 1, "0 and 1"
    if low >= 0 and whole and high <= 255:
        return np.uint8, 255, "pixels from 0 to 255"
    if low >= 0 and whole and high <= 65535 and all(array.dtype.kind in "ui" for array in arrays):
        return np.uint16, 65535, "pixels from 0 to 65535"
    if low >= 0 and high <= 1:
        return np.float32, 1, "pixels from 0 to 1"
    if vectors:
        return np.float32, 1, "numbers"
    if low >= 0 and UNCLEAR_MAXIMUM < high <= 255:
        return np.float32, 255, "pixels from 0 to 255"
    raise DataError(
        f"{source}: the pixels are from {low:g} to {high:g}; expected 0 to 1, 0 to 255, or whole numbers from 0 to"
        " 65535. Save them as uint8: (255 * (x - x.min()) / (x.max() - x.min())).astype('uint8')"
    )


# --- labels ----------------------------------------------------------------------------------------------------------


def _convert_labels(given: Mapping[str, np.ndarray], source: str) -> tuple[dict[str, np.ndarray], list[str], str]:
    """Return labels as int32 [n], the names of the classes, and how they were read."""
    arrays = {split: array.reshape(len(array)) if array.shape[1:] == (1,) else array for split, array in given.items()}
    columns = " in a column" if any(array.shape[1:] == (1,) for array in given.values()) else ""
    texts = {split: array.dtype.kind in "US" for split, array in arrays.items()}
    if len(set(texts.values())) > 1 or len({array.ndim for array in arrays.values()}) > 1:
        raise DataError(f"{source}: the labels of the splits are of different kinds. Save all in one way.")
    if any(array.ndim == 2 for array in arrays.values()):
        return _read_one_hot(arrays, source)
    if any(array.ndim != 1 for array in arrays.values()):
        shapes = _list_shapes({array.shape for array in arrays.values()})
        raise DataError(f"{source}: the labels have the shapes {shapes}; expected [n], [n, 1] or one-hot [n, classes].")
    if all(texts.values()):
        return _read_texts(arrays, columns, source)
    for array in arrays.values():
        if array.dtype.kind not in "buif":
            raise DataError(f"{source}: the labels are of type {array.dtype}; expected whole numbers or texts.")
        if not (np.isfinite(array) & (array == np.rint(array))).all():
            row = int(np.flatnonzero(~(np.isfinite(array) & (array == np.rint(array))))[0])
            raise DataError(
                f"{source}: the label in row {row} is {array[row]:g}; expected whole numbers, one-hot rows or texts."
                " Numbers to predict are not supported."
            )
    low, high = min(a.min() for a in arrays.values()), max(a.max() for a in arrays.values())
    examples = sum(map(len, arrays.values()))
    if low < 0 or high >= examples:
        raise DataError(
            f"{source}: the labels run from {low:g} to {high:g}; expected 0 to the number of classes - 1. Renumber"
            " them: names, labels = numpy.unique(labels, return_inverse=True)"
        )
    types = sorted({array.dtype.newbyteorder("=").name for array in arrays.values()})
    names = [str(number) for number in range(int(high) + 1)]
    return {s: a.astype(np.int32) for s, a in arrays.items()}, names, f"{' or '.join(types)}{columns}"


def _read_one_hot(arrays: Mapping[str, np.ndarray], source: str) -> tuple[dict[str, np.ndarray], list[str], str]:
    if len(widths := {array.shape[1] for array in arrays.values()}) > 1:
        raise DataError(
            f"{source}: the one-hot labels have {' and '.join(map(str, sorted(widths)))} columns. Save one."
        )
    for array in arrays.values():
        bad = [0] if array.dtype.kind not in "buif" else ((array != 0).sum(1) != 1) | (array.max(1) != 1)
        if len(rows := np.flatnonzero(bad)) or array.dtype.kind not in "buif":
            row = int(rows[0]) if len(rows) else 0
            raise DataError(
                f"{source}: the labels have {array.shape[1]} columns, but row {row} is not one-hot:"
                f" {shorten(str(array[row]), 60)}. Save one label for each example: y.argmax(1)"
            )
    names = [str(number) for number in range(widths.pop())]
    return {split: array.argmax(1).astype(np.int32) for split, array in arrays.items()}, names, "one-hot rows"


def _read_texts(
    arrays: Mapping[str, np.ndarray], columns: str, source: str
) -> tuple[dict[str, np.ndarray], list[str], str]:
    try:
        texts = {s: np.char.decode(a, "utf-8") if a.dtype.kind == "S" else a for s, a in arrays.items()}
    except UnicodeDecodeError:
        raise DataError(f"{source}: the labels are bytes that are not UTF-8. Save them as texts.") from None
    names = np.unique(np.concatenate(list(texts.values())))
    if "" in names:
        raise DataError(f"{source}: some labels are empty texts. Name the class, or remove these examples.")
    labels = {split: np.searchsorted(names, array).astype(np.int32) for split, array in texts.items()}
    return labels, [str(name) for name in names], f"texts{columns}, in alphabetical order"


def _given_names(array: np.ndarray, classes: int, source: str) -> list[str]:
    if array.dtype.kind != "U" or array.shape != (classes,):
        raise DataError(f"{source}: class_names must be {classes} texts, one for each class; found {array.shape}.")
    return [str(name) for name in array]


def _check_classes(labels: Mapping[str, np.ndarray], names: Sequence[str], source: str) -> None:
    """Refuse labels of less than two classes, or with a class that has no training example."""
    if len(names) < 2 or len(np.unique(np.concatenate(list(labels.values())))) < 2:
        raise DataError(f"{source} has one class only, {names[-1]!r}. Save examples of at least two classes.")
    train = labels["train" if "train" in labels else "all"]
    counts = np.bincount(train, minlength=len(names))
    if absent := [name for name, count in zip(names, counts, strict=True) if not count]:
        listed = shorten(", ".join(absent), 100)
        raise DataError(
            f"{source} has no training example of {'class' if len(absent) == 1 else 'classes'} {listed}."
            " Labels run from 0 without a gap: names, labels = numpy.unique(labels, return_inverse=True)"
        )


def _list_shapes(shapes: set[tuple[int, ...]]) -> str:
    return " and ".join(sorted(map(str, shapes)))
