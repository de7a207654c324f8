"""Splits of a dataset: arrays with their targets, held out by seed or as the files say."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.errors import DataError

# Second words of the generators' seeds, one for each use of randomness.
VALIDATION_STREAM = 101
TEST_STREAM = 103
FOLD_STREAM = 105

CHUNK_BYTES = 2**22  # of an array, copied or converted at a time
MOST_SCALES = 256  # numbers of a vector up to which each is scaled by its own mean and deviation


@dataclass(frozen=True)
class Split:
    """Examples in order, read-only."""

    # Images [examples, height, width(, channels)] of uint8, uint16 or float32, or numbers as float32 [examples, n].
    inputs: np.ndarray
    targets: np.ndarray  # classes as int32 [examples], or numbers as float32 [examples, 1]

    def __post_init__(self) -> None:
        self.inputs.setflags(write=False)
        self.targets.setflags(write=False)


@dataclass(frozen=True)
class OfficialSplits:
    """A dataset as it is published, before validation examples are held out."""

    train: Split
    test: Split
    source: str  # the folder or file that was read, or another origin in words
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the user's own data; see config/found_facts.py
    last_held_out: int = 0  # training examples at the end that the files say are for validation
    reading: str = ""  # sentences on how inputs and labels were read
    forget: Callable[[], None] = lambda: None  # frees the memory of what was read of a mapped file

    def digest(self) -> str:
        """Return the SHA-256 of all examples, 36 hex digits."""
        digest = hashlib.sha256()
        for array in (array for split in (self.train, self.test) for array in (split.inputs, split.targets)):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            for chunk in chunks_of(array):
                digest.update(chunk.data)
                self.forget()
        return digest.hexdigest()[:36]


def hold_out(official: OfficialSplits, limit: int | None, validation: int, seed: int) -> tuple[Split, Split]:
    """Split the first `limit` training examples into training and validation, both in their order.

    Validation examples are picked by seed, or the last ones if the files say so; these count towards the limit.
    """
    train = official.train
    examples = min(limit or len(train.targets), len(train.targets))
    if validation and official.last_held_out:
        rest = np.arange(examples - validation)
        held_out = np.arange(len(train.targets) - validation, len(train.targets))
    else:
        order = np.random.default_rng([seed, VALIDATION_STREAM]).permutation(examples)
        held_out, rest = np.sort(order[:validation]), np.sort(order[validation:])
    return _take(official, rest), _take(official, held_out)


def hold_out_fold(
    official: OfficialSplits, limit: int | None, folds: int, fold: int, split_seed: int
) -> tuple[Split, Split]:
    """Split the first `limit` training examples into all folds but one, and that one, both in their order.

    Each fold has its share of every class; their sizes differ by one example at most, the first ones being larger.
    """
    targets = official.train.targets[:limit]
    order = np.random.default_rng([split_seed, FOLD_STREAM]).permutation(len(targets))
    if targets.ndim == 1:
        order = order[np.argsort(targets[order], kind="stable")]
    held_out = np.zeros(len(targets), bool)
    held_out[order[fold::folds]] = True
    return _take(official, np.flatnonzero(~held_out)), _take(official, np.flatnonzero(held_out))


def _take(official: OfficialSplits, rows: np.ndarray) -> Split:
    inputs, targets = official.train.inputs, official.train.targets
    taken = np.empty((len(rows), *inputs.shape[1:]), inputs.dtype)
    for some in np.array_split(np.arange(len(rows)), 1 + taken.nbytes // CHUNK_BYTES):
        taken[some] = inputs[rows[some]]
        official.forget()
    return Split(taken, targets[rows])


def pick_test_rows(labels: np.ndarray, fraction: float, seed: int, source: str) -> np.ndarray:
    """Return the rows of a stratified test set, in order: of each class the fraction, but neither all nor none of two.

    The rows of a class do not depend on the other classes. Raise a DataError, about `source`, if there is none.
    """
    picked = []
    for label in range(int(labels.max()) + 1):
        rows = np.flatnonzero(labels == label)
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        picked.append(np.random.default_rng([seed, TEST_STREAM, label]).permutation(rows)[:count])
    if not sum(map(len, picked)):
        raise DataError(f"{source} has one example of each class, so that none can be tested on. Add more.")
    return np.sort(np.concatenate(picked))


def mean_and_deviation(inputs: np.ndarray, pixel_max: int, source: str) -> tuple[Any, Any]:
    """Return mean and standard deviation of inputs / pixel_max, to six digits: one number, or one for each channel.

    Numbers in short vectors, which need not be alike, have one each.
    """
    vectors = inputs.ndim == 2 and inputs.dtype == np.float32 and inputs.shape[1] <= MOST_SCALES
    columns = inputs.shape[-1] if vectors or (inputs.ndim == 4 and inputs.shape[-1] == 3) else 1
    if inputs.dtype != np.float32:  # exact, and several times faster
        counts = np.zeros((columns, np.iinfo(inputs.dtype).max + 1), np.int64)
        for chunk in chunks_of(inputs):
            for column, values in enumerate(np.moveaxis(chunk.reshape(-1, columns), 1, 0)):
                counts[column] += np.bincount(values, minlength=counts.shape[1])
        levels = np.arange(counts.shape[1]) / pixel_max
        mean = counts @ levels / counts.sum(1)
        deviation = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(1) / counts.sum(1))
        return _rounded(mean, deviation, source)
    count, total, squares = 0, np.zeros(columns), np.zeros(columns)
    shift = inputs[0].reshape(-1, columns).mean(0, dtype=np.float64)  # keeps digits where deviations are small
    for chunk in chunks_of(inputs):
        values = chunk.reshape(-1, columns) - shift
        count, total, squares = count + len(values), total + values.sum(0), squares + (values**2).sum(0)
    mean = (total / count + shift) / pixel_max
    deviation = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0)) / pixel_max
    return _rounded(mean, deviation, source)


def _rounded(mean: np.ndarray, deviation: np.ndarray, source: str) -> tuple[Any, Any]:
    if not deviation.any():
        raise DataError(f"{source}: all training inputs are the same. Check how they were saved.")
    deviation[deviation == 0] = 1  # such a column says nothing
    numbers = [[float(f"{value:.6g}") for value in values] for values in (mean, deviation)]
    return tuple(values if len(values) > 1 else values[0] for values in numbers)  # type: ignore[return-value]


def chunks_of(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of an array in pieces of about CHUNK_BYTES."""
    rows = max(1, CHUNK_BYTES // max(1, array[0].nbytes))
    return (array[start : start + rows] for start in range(0, len(array), rows))
