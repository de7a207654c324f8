"""Splits of a dataset: arrays with their targets, held out by seed or as the files say."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Second words of the generators' seeds, one for each use of randomness.
VALIDATION_STREAM = 101
TEST_STREAM = 103


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

    def digest(self) -> str:
        """Return the SHA-256 of all examples, 36 hex digits."""
        digest = hashlib.sha256()
        for array in (array for split in (self.train, self.test) for array in (split.inputs, split.targets)):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.data)
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
    return _take(train, rest), _take(train, held_out)


def _take(split: Split, rows: np.ndarray) -> Split:
    return Split(split.inputs[rows], split.targets[rows])


def pick_test_rows(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return the rows of a stratified test set, in order: of each class the fraction, but neither all nor none of two.

    The rows of a class do not depend on the other classes.
    """
    picked = []
    for label in range(int(labels.max()) + 1):
        rows = np.flatnonzero(labels == label)
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        picked.append(np.random.default_rng([seed, TEST_STREAM, label]).permutation(rows)[:count])
    return np.sort(np.concatenate(picked))
