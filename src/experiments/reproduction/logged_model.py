"""The file of a logged model, read without Keras because its contents are untrusted."""

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

# What reading a `.keras` file raises, whatever was put into it.
DAMAGED_FILE_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError),
    *(MemoryError, OverflowError, TypeError, ValueError),
)


@dataclass(frozen=True)
class LoggedModel:
    """A logged model.

    Attributes:
        digest: SHA-256 (hex) of its file; empty if the file is missing.
        network: Keras's description of the network; None if it cannot be read.
        weights: by their path in the file; empty if they cannot be read.
    """

    digest: str
    network: Any
    weights: Mapping[str, np.ndarray]

    def equals(self, other: "LoggedModel") -> bool:
        """Return whether network and weights are equal to the last bit. (The files differ in names and times.)"""
        return (
            self.network == other.network
            and self.weights.keys() == other.weights.keys()
            and all(np.array_equal(weights, other.weights[path]) for path, weights in self.weights.items())
        )

    def fits(self, other: "LoggedModel") -> bool:
        """Return whether the weights have the same shapes; their paths may differ between versions of Keras."""
        own, others = (sorted(weights.shape for weights in model.weights.values()) for model in (self, other))
        return own == others


def read_logged_model(uri: str, run: RunRecord, logged: bool) -> LoggedModel | None:
    """Read the run's model; without digest and weights if the run logged one, by `logged` or its tags, that is gone."""
    with TemporaryDirectory() as folder:
        try:
            content = download_model_unchecked(uri, run.run_id, Path(folder)).read_bytes()
        except StoreError:
            return LoggedModel("", None, {}) if logged or "model_digest" in run.tags else None
    return LoggedModel(hashlib.sha256(content).hexdigest(), _network_description(content), stored_weights(content))


def _network_description(content: bytes) -> Any:
    """Return Keras's description of the network in a `.keras` file, without names and ids, which differ per build."""
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
    left_out = ("shared_object_id", "name") if is_layer else ("shared_object_id",)
    return {key: _without_names(value) for key, value in tree.items() if key not in left_out}


def stored_weights(content: bytes) -> dict[str, np.ndarray]:
    """Return the weights in a `.keras` file by their paths; none if the file is damaged."""
    import h5py

    weights: dict[str, np.ndarray] = {}

    def add(path: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            weights[path] = item[()]

    try:
        stored = zipfile.ZipFile(io.BytesIO(content)).read("model.weights.h5")
        with h5py.File(io.BytesIO(stored), "r") as file:
            file.visititems(add)
    except DAMAGED_FILE_ERRORS:
        return {}
    return weights
