"""The file of a logged model, read without Keras, as somebody may have put anything into it."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.errors import StoreError
from experiments.tracking.artifacts import download_model_unchecked
from experiments.tracking.records import RunRecord

# What reading a `.keras` file raises into which somebody has put anything.
DAMAGED_FILE_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError),
    *(MemoryError, OverflowError, TypeError, ValueError),
)


@dataclass(frozen=True)
class LoggedModel:
    """A logged model: SHA-256 (hex) of its file, Keras's description of the network in it, and its weights by their
    place; None and none if it cannot be read."""

    digest: str
    network: Any
    weights: Mapping[str, np.ndarray]

    def equals(self, other: "LoggedModel") -> bool:
        """Whether it is the same network, and all weights are equal to the last bit. (The files are not: they hold
        names and the time.)"""
        return (
            self.network == other.network
            and self.weights.keys() == other.weights.keys()
            and all(np.array_equal(weights, other.weights[place]) for place, weights in self.weights.items())
        )

    def fits(self, other: "LoggedModel") -> bool:
        """Whether the weights have the same shapes; where they lie in the file may differ between versions."""
        theirs, ours = (sorted(weights.shape for weights in model.weights.values()) for model in (self, other))
        return ours == theirs


def read_logged_model(uri: str, run: RunRecord, logged: bool) -> LoggedModel | None:
    """The run's model; one without digest and weights if it is gone, although the run has logged one."""
    with TemporaryDirectory() as folder:
        try:
            content = download_model_unchecked(uri, run.run_id, Path(folder)).read_bytes()
        except StoreError:
            return LoggedModel("", None, {}) if logged or "model_digest" in run.tags else None
    return LoggedModel(hashlib.sha256(content).hexdigest(), _network_description(content), _stored_weights(content))


def _network_description(content: bytes) -> Any:
    """Keras's description of the network in a `.keras` file, without what no two builds share: names and addresses."""
    try:
        return _without_names(json.loads(zipfile.ZipFile(io.BytesIO(content)).read("config.json")))
    except DAMAGED_FILE_ERRORS:
        return None


def _without_names(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_without_names(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    is_layer = "trainable" in tree or "batch_shape" in tree
    own = {"shared_object_id", *(["name"] if is_layer else [])}
    return {key: _without_names(value) for key, value in tree.items() if key not in own}


def _stored_weights(content: bytes) -> dict[str, np.ndarray]:
    """The weights in a `.keras` file."""
    import h5py

    weights: dict[str, np.ndarray] = {}

    def note(place: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            weights[place] = item[()]

    try:
        stored = zipfile.ZipFile(io.BytesIO(content)).read("model.weights.h5")
        with h5py.File(io.BytesIO(stored), "r") as file:
            file.visititems(note)
    except DAMAGED_FILE_ERRORS:
        return {}
    return weights
