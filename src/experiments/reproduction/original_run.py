"""Finished runs with all that repeating them needs, and whether their records were changed.

Logged models are read without Keras, because their contents are untrusted.
"""

import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config.composition import composing
from experiments.config.data_schema import ArchiveData, ImageFileData, OwnFileData
from experiments.config.identity import config_to_dict, identity_tags
from experiments.config.metrics import TIME_METRICS
from experiments.config.overrides import override_key, parse_overrides, refuse_several_values
from experiments.config.schema import Config
from experiments.config.validation import validate_config
from experiments.data.datasets import load_dataset
from experiments.errors import ConfigError, NotFiniteError, StoreError
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import damaged_artifact, download_model, largest_unpacked_size, read_artifact_text
from experiments.tracking.environment import installed_packages, read_code_state
from experiments.tracking.liveness import unseen_notice
from experiments.tracking.recorded_config import (
    RECORD_DIGESTS,
    changed_files,
    identity_changes,
    read_recorded_config,
)
from experiments.tracking.records import RunRecord, find_runs, metric_history, runs_with_tags
from experiments.tracking.store import open_existing_store
from experiments.tracking.system_metrics import SYSTEM_PREFIX

if TYPE_CHECKING:
    from experiments.tracking.store import MlflowClient

# The facts in environment/hardware.json that affect the last bits: equally named processors can differ in instructions.
MACHINE_FACTS = ("processor", "instructions", "gpus", "threads", "switches")

MetricPoints = Mapping[str, list[tuple[int, float]]]  # (epoch, value) of each metric


@dataclass(frozen=True)
class LoggedModel:
    """A logged model."""

    digest: str  # SHA-256 (hex) of its file; empty if the file is missing
    network: Any  # Keras's description of it; None if it cannot be read
    weights: Mapping[str, np.ndarray]  # by their path in the file; empty if they cannot be read

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


@dataclass(frozen=True)
class OriginalRun:
    """A finished run, to be repeated."""

    uri: str | None  # of the store, as it was given; None for the default one
    run: RunRecord
    config: Config
    overrides: list[str]
    points: MetricPoints  # every metric that is not a time, at every epoch
    packages: frozenset[str]  # that were installed, as `name==version`
    hardware: Mapping[str, object]
    model: LoggedModel | None = None  # None if the run did not log one
    changed_files: Sequence[str] = ()  # the recorded files that differ from what was logged

    def record_changes(self) -> list[str]:
        """List what was changed in the store after the run: files, results and the model."""
        found = [f"{path} does not match its digest in the tag {RECORD_DIGESTS}" for path in self.changed_files]
        for key, points in self.points.items():
            if not points or points[-1][1] != self.run.metrics[key]:
                found.append(f"the last {key} is {self.run.metrics[key]:g}, which is not the last value in its history")
        if self.model and not self.model.digest:
            found.append("the logged model is missing")
        elif self.model and self.model.digest != self.run.tags.get("model_digest"):
            found.append("the model file does not match its digest in the tag model_digest")
        return found

    def environment_changes(self) -> list[str]:
        """List which of code, packages and data differ from the recorded run. Load the data, or raise a DataError."""
        current = identity_tags(self.config, load_dataset(self.config.data, self.config.seed).digest)
        found = identity_changes(self.run, current)
        if self.run.tags.get("git_commit"):  # otherwise neither the commit nor uncommitted changes are known
            for key, value in read_code_state().tags.items():
                if self.run.tags.get(key) != value:
                    found.append(f"{key} was {self.run.tags.get(key)}, is {value or 'not known'}")
        packages = frozenset(installed_packages().splitlines())
        if self.packages != packages:
            removed, added = self.packages - packages, packages - self.packages
            was, now = (_abbreviate(sorted(names, key=str.lower)) for names in (removed, added))
            found.append(f"installed packages: was {was}, is {now}")
        return found

    def machine_changes(self, hardware: Mapping[str, object]) -> list[str]:
        """List which facts about this machine, given as `hardware`, differ and can affect the result."""
        return [
            f"{key} was {_difference_from(self.hardware.get(key, 'not recorded'), current)}, is"
            f" {_difference_from(current, self.hardware.get(key))}"
            for key in MACHINE_FACTS
            if self.hardware.get(key) != (current := hardware[key])
        ]


def find_original_run(run_id: str, uri: str | None) -> OriginalRun:
    """Find the finished run with this id or unique prefix of an id, with all that repeating it needs.

    Raise a StoreError if there is none, it is a sweep or not finished, or its record is not complete; a ConfigError if
    this version of the code cannot run its config.
    """
    resolved = resolve_tracking_uri(uri)
    client = open_existing_store(resolved)
    (run,) = find_runs(client, [run_id])
    children = runs_with_tags(client, {"mlflow.parentRunId": run.run_id})
    if children or "sweep" in run.tags:
        named = _abbreviate([f"{child.run_id} ({child.name})" for child in children])
        raise StoreError(
            f"Run {run.run_id} ({run.name}) is a sweep. Choose one of its runs: {named}. To see them all: python"
            f" scripts/compare.py --sweep {run.run_id}"
        )
    if run.status != "FINISHED":
        advice = unseen_notice(client, run.run_id) or f"Resume it first: python run.py resume={run.run_id}"
        if run.tags.get("end_error") == NotFiniteError.__name__:
            advice = f"Resuming it would fail again: {run.tags.get('end_reason')}"
        raise StoreError(
            f"Run {run.run_id} ({run.name}) is {run.status}; only finished runs can be reproduced. {advice}"
        )
    if wrong := [f"{key}={value!r}" for key, value in run.metrics.items() if not isinstance(value, int | float)]:
        raise StoreError(f"Run {run.run_id} is damaged: the metric {wrong[0]} is not a number.")
    config, overrides = read_recorded_config(resolved, run.run_id, other_code=True)
    points = recorded_points(client, run)
    packages = frozenset(read_artifact_text(resolved, run.run_id, "environment/packages.txt").splitlines())
    hardware = recorded_hardware(resolved, run.run_id)
    model, changed = read_logged_model(resolved, run, config.tracking.log_model), changed_files(resolved, run)
    return OriginalRun(uri, run, config, overrides, points, packages, hardware, model, changed)


def with_moved_data(original: OriginalRun, override: str) -> OriginalRun:
    """Return the run with the data in the folder that an override of `data.path` names, or raise a ConfigError."""
    config = original.config
    with composing():
        parsed = parse_overrides([override])
        refuse_several_values(parsed)
    folder: Any = parsed[0].value()
    folder = getattr(folder, "text", folder)  # of a quoted string
    if not isinstance(config.data, ImageFileData | ArchiveData | OwnFileData):
        raise ConfigError(f"{override}: data={config.data.name} is not read from a folder. Leave out data.path.")
    if "${" in str(folder):
        raise ConfigError(f"{override} contains a reference. Name the folder itself: data.path=FOLDER")
    moved = validate_config(config_to_dict(replace(config, data=replace(config.data, path=folder))))
    others = [other for other in original.overrides if override_key(other) != "data.path"]
    return replace(original, config=moved, overrides=[*others, override])


def recorded_points(client: "MlflowClient", run: RunRecord) -> MetricPoints:
    """Return what the run itself measured, without times, the load, and what evaluate.py added later."""
    history = metric_history(client, run).items()
    added = ("evaluation_", SYSTEM_PREFIX)
    return {name: points for name, points in history if name not in TIME_METRICS and not name.startswith(added)}


def recorded_hardware(uri: str, run_id: str) -> dict[str, object]:
    """Return the recorded facts about the machine of a run; raise a StoreError if they are missing or damaged."""
    try:
        hardware = json.loads(read_artifact_text(uri, run_id, "environment/hardware.json"))
        if not isinstance(hardware, dict):
            raise ValueError("it is not a mapping.")
    except (ValueError, RecursionError) as error:
        raise damaged_artifact(uri, run_id, "environment/hardware.json", error) from None
    return hardware


def _difference_from(fact: object, other: object) -> str:
    """Show a fact about a machine; for lists and mappings, only the items that the other machine does not have."""
    fact, other = (
        [f"{key}={value}" for key, value in each.items()] if isinstance(each, dict) else each for each in (fact, other)
    )
    if not isinstance(fact, list):
        return str(fact)
    own = Counter(map(str, fact)) - Counter(map(str, other if isinstance(other, list) else []))
    return _abbreviate(list(own.elements()))


def _abbreviate(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "none"
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def read_logged_model(uri: str, run: RunRecord, logged: bool) -> LoggedModel | None:
    """Read the run's model; if it was logged, by `logged` or the tags, but is gone, it has no digest or weights."""
    with TemporaryDirectory() as folder:
        try:
            content = download_model(uri, run.run_id, Path(folder), accept_changed=True).read_bytes()
        except StoreError:
            return LoggedModel("", None, {}) if logged or "model_digest" in run.tags else None
    return LoggedModel(hashlib.sha256(content).hexdigest(), _network_description(content), stored_weights(content))


def _network_description(content: bytes) -> Any:
    """Return Keras's description of the network in a `.keras` file, without names and ids, which differ per build."""
    try:
        network = json.loads(zipfile.ZipFile(io.BytesIO(content)).read("config.json"))
        layers = [layer.get("name") or layer["config"]["name"] for layer in network["config"]["layers"]]
        return _without_names(network, {name: number for number, name in enumerate(layers)})
    except Exception:  # anything may have been put into the file
        return None


def _without_names(tree: Any, numbers: Mapping[str, int]) -> Any:
    """Return a part of a network's description with the number of each layer, or nothing, in place of its name."""
    if isinstance(tree, list):
        is_output = len(tree) == 3 and isinstance(tree[0], str) and tree[0] in numbers  # of a layer: name, node, tensor
        return [numbers[tree[0]], *tree[1:]] if is_output else [_without_names(item, numbers) for item in tree]
    if not isinstance(tree, dict):
        return tree
    is_layer = "trainable" in tree or "batch_shape" in tree or "inbound_nodes" in tree
    left_out = ("shared_object_id", "name") if is_layer else ("shared_object_id",)
    return {key: _without_names(value, numbers) for key, value in tree.items() if key not in left_out}


def stored_weights(content: bytes) -> dict[str, np.ndarray]:
    """Return the weights in a `.keras` file by their paths; none if it is damaged or they are too large for it."""
    import h5py

    items: dict[str, Any] = {}
    try:
        stored = zipfile.ZipFile(io.BytesIO(content)).read("model.weights.h5")
        with h5py.File(io.BytesIO(stored), "r") as file:
            file.visititems(items.__setitem__)
            datasets = {path: item for path, item in items.items() if isinstance(item, h5py.Dataset)}
            if sum(dataset.nbytes for dataset in datasets.values()) > largest_unpacked_size(len(content)):
                return {}
            return {path: dataset[()] for path, dataset in datasets.items() if dataset.shape is not None}
    except Exception:  # anything may have been put into the file
        return {}
