"""Running a recorded run again: from its own config, with every metric compared, and its record checked."""

import copy
import hashlib
import io
import json
import math
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments import (
    cluster,
    compose,
    data,
    distribution,
    environment,
    experiment,
    pretrained,
    report,
    resume,
    runs,
    runtime,
    tracking,
)
from experiments.config import as_dict, fingerprint, flatten, identity, training_examples, validate
from experiments.errors import ConfigError, StoreError
from experiments.evaluation import Evaluator
from experiments.schema import Config, ImageFiles

TIMES = ("epoch_seconds", "examples_per_second", "train_seconds")
# Of environment/hardware.json, what decides the last bits: the name of a processor need not say what it can do.
MACHINE = ("processor", "instructions", "gpus", "threads", "switches")
ALWAYS_RECORDED = ("processor", "gpus", "threads")  # the others are not in earlier records
NOT_JUDGED = ("best_epoch",)  # among epochs that are nearly equal the last bits choose
RELATIVE = 0.02
OF_ONE_MODEL = 0.001  # the accuracy of the same weights elsewhere: an image of a thousand may be as near to two digits
OF_TWO_MODELS = 0.005
WHOLE = {"accuracy": 1, "error_percent": 100}  # by the end of a metric's name: what all images count
TOLERANCE = (
    "2 % in losses and other metrics, 0.5 percentage points (or two images, where those are more) in accuracies;"
    " best_epoch is not judged"
)
LONGEST_PARAM = 6000  # characters; MLflow cuts the rest
NOT_FINITE = r" became (nan|-?inf) (in epoch|after training)"  # in the tag end_reason
OF_A_PLACE = ("tracking.", "data.path", "resume")  # where a run was made, which means nothing elsewhere

# What reading a `.keras` file raises into which somebody has put anything.
DAMAGED = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError)

Setting = tuple[str, str, Any]  # the override, the key and the value that it sets

ROUNDING = 1e-6  # of an accuracy in 32 bits: one image more is more

Points = Mapping[str, list[tuple[int, float]]]  # (epoch, value) of each metric


@dataclass(frozen=True)
class Model:
    """A logged model: SHA-256 (hex) of its file, Keras's description of the network in it, and its weights by their
    place; None and none if it cannot be read."""

    digest: str
    network: Any
    weights: Mapping[str, np.ndarray]

    def equals(self, other: "Model") -> bool:
        """Whether it is the same network, and all weights are equal to the last bit. (The files are not: they hold
        names and the time.)"""
        return (
            self.network == other.network
            and self.weights.keys() == other.weights.keys()
            and all(np.array_equal(weights, other.weights[place]) for place, weights in self.weights.items())
        )

    def fits(self, other: "Model") -> bool:
        """Whether the weights have the same shapes; where they lie in the file may differ between versions."""
        theirs, ours = (sorted(weights.shape for weights in model.weights.values()) for model in (self, other))
        return ours == theirs


@dataclass(frozen=True)
class Recorded:
    """A finished run as its store has it, to be run again.

    Attributes:
        uri: tracking URI of the store, as it was given; None for the usual one.
        run: its name, params, tags and last metrics.
        config, overrides: what it was started with.
        points: every metric that is not a time, at every epoch.
        packages: installed then, `name==version`.
        hardware: the machine then.
        model: the logged model; None if there need not be one.
        changed_files: those of the record that are not as they were logged.
    """

    uri: str | None
    run: runs.RunRecord
    config: Config
    overrides: list[str]
    points: Points
    packages: frozenset[str]
    hardware: Mapping[str, object]
    model: "Model | None" = None
    changed_files: Sequence[str] = ()

    def contradictions(self) -> list[str]:
        """Where the record does not agree with itself: it was changed after the run."""
        found = [
            f"{path} is not the file that was logged, by its digest in the tag {experiment.RECORD_DIGESTS}"
            for path in self.changed_files
        ]
        config = {key: str(value)[:LONGEST_PARAM] for key, value in flatten(as_dict(self.config)).items()}
        for key in sorted(experiment.params(self.config).keys() | self.run.params.keys()):
            param, value = self.run.params.get(key, "missing"), config.get(key, "missing")
            if param != value and key != "data.path":  # where the data was found may have changed
                found.append(f"the param {key} is {param}, in config/config.yaml it is {value}")
        parts = {key: self.run.tags.get(key, "") for key in resume.IDENTITY}
        if self.run.tags.get("fingerprint") != fingerprint(self.config, parts):
            found.append(f"the tag fingerprint is not that of config/config.yaml and the tags {', '.join(parts)}")
        for key, points in self.points.items():
            if not points or points[-1][1] != self.run.metrics[key]:
                found.append(f"the last {key} is {self.run.metrics[key]:g}, and none such in its history")
        for key, expected in self._following().items():
            if key in self.run.metrics and not math.isclose(self.run.metrics[key], expected, rel_tol=0, abs_tol=1e-4):
                found.append(f"{key} is {self.run.metrics[key]:g}, by the other metrics it is {expected:g}")
        if self.model and not self.model.digest:
            found.append("the model that it logged is gone")
        elif self.model and self.model.digest != self.run.tags.get("model_digest"):
            found.append("the model's file is not the one that was logged, by its digest in the tag model_digest")
        missing = [key for key in ALWAYS_RECORDED if key not in self.hardware]
        found += [f"environment/hardware.json has no {key}" for key in missing]
        threads = self.config.training.threads
        if self.hardware.get("threads", threads) != threads:
            found.append(
                f"environment/hardware.json has threads {self.hardware['threads']}, in config/config.yaml"
                f" training.threads is {threads}"
            )
        for package in self.run.tags.get("versions", "").split():
            if package not in self.packages:
                found.append(f"{package} of the tag versions is not in environment/packages.txt")
        return found + [f"the override {override} {why}" for override, why in self.false_overrides().items()]

    def _following(self) -> dict[str, float]:
        """The metrics that follow from others: their names and what they have to be."""
        history = {key: list(dict(points).values()) for key, points in self.points.items()}
        accuracy = self.run.metrics.get("test_accuracy")
        return report.best(history) | ({} if accuracy is None else {"test_error_percent": 100 * (1 - accuracy)})

    def false_overrides(self) -> dict[str, str]:
        """The overrides that cannot have made the config, each with what the config says instead."""
        tree, found, settings = as_dict(self.config), {}, list[Setting]()
        for override in self.overrides:
            try:
                given = None if override.lstrip("+~").startswith(OF_A_PLACE) else compose.setting(override)
            except ConfigError:
                found[override] = "is none that a single run has"
                continue
            if given and given != ("training.threads", "auto"):  # which is resolved in the config
                settings.append((override, *given))
        settings.sort(key=lambda setting: "." in setting[0].partition("=")[0])  # Hydra reads the chosen files first
        if _make(settings, tree):
            return found
        true: list[Setting] = []
        for setting in reversed(settings):  # what comes later wins
            if _make([setting, *true], tree):
                true.insert(0, setting)
            else:
                found[setting[0]] = f"is not what config/config.yaml says: {_at(tree, setting[1])}"
        return {override: found[override] for override in self.overrides if override in found}

    def changes(self) -> list[str]:
        """What is no longer as it was: code, packages, data. Loads the data.

        Raises:
            DataError: they cannot be had.
        """
        now = identity(self.config, data.load(self.config.data, self.config.seed).digest)
        found, code = resume.changes(self.run, now), environment.code().tags
        found += [
            f"{key} was {self.run.tags[key]}, is {code[key]}"
            for key in code
            if key in self.run.tags and self.run.tags[key] != code[key]
        ]
        packages = frozenset(environment.packages().splitlines())
        if self.packages != packages:
            gone, new = sorted(self.packages - packages, key=str.lower), sorted(packages - self.packages, key=str.lower)
            found.append(f"installed packages: was {_some(gone)}, is {_some(new)}")
        return found

    def machine_changes(self, hardware: Mapping[str, object]) -> list[str]:
        """What of the machine can change a result and is no longer as it was, given what it is now."""
        return [
            f"{key} was {_less(self.hardware.get(key, 'not recorded'), now)}, is {_less(now, self.hardware.get(key))}"
            for key in MACHINE
            if self.hardware.get(key) != (now := hardware[key])
        ]


@dataclass(frozen=True)
class Row:
    """A metric in both runs.

    Attributes:
        then, now: the last values, None where there is none.
        difference: the largest of all epochs, absolute; None if the runs do not have the same epochs.
        epoch: where that is.
        equal: whether all is within the tolerance.
    """

    metric: str
    then: float | None
    now: float | None
    difference: float | None
    epoch: int | None
    equal: bool


@dataclass(frozen=True)
class Verdict:
    """What came out: `exact` asks for equality to the last bit, which only the same machine and software gives.

    Attributes:
        same_weights: whether the two logged models are equal; if `exact` is not asked for, whether they have weights of
            the same shapes, and the recorded one its recorded loss on the test images. None if one is not there.
        machine_changes: what of the machine is not as it was then.
    """

    exact: bool
    rows: list[Row]
    same_weights: bool | None
    contradictions: list[str]
    run_id: str
    machine_changes: list[str]

    @property
    def reproduced(self) -> bool:
        return not self.contradictions and all(row.equal for row in self.rows) and self.same_weights is not False


def find(run_id: str, uri: str | None) -> Recorded:
    """The run with this id, or unique beginning of an id, as it was recorded.

    Raises:
        StoreError: there is no such run, it is a sweep or not finished, or parts of its record are missing.
        ConfigError: its config cannot be run.
    """
    resolved = tracking.resolve_uri(uri)
    client = runs.open_store(resolved)
    (run,) = runs.by_id(client, [run_id])
    _refuse_sweep(client, run)
    if run.status != "FINISHED":
        reason = run.tags.get("end_reason", "")
        way = f"Go on with it first: python run.py resume={run.run_id}"
        if re.search(NOT_FINITE, reason):
            way = f"To go on with it would only fail again: {reason}"
        raise StoreError(f"Run {run.run_id} ({run.name}) is {run.status}: only a finished run can be reproduced. {way}")
    config, overrides = resume.recorded(resolved, run.run_id)
    changed_files = _changed_files(resolved, run)
    packages = tracking.read(resolved, run.run_id, "environment/packages.txt")
    hardware = _hardware(resolved, run.run_id)
    points, installed = _points(client, run), frozenset(packages.splitlines())
    model = _model(resolved, run, config.tracking.log_model)
    return Recorded(uri, run, config, overrides, points, installed, hardware, model, changed_files)


def moved(recorded: Recorded, override: str) -> Recorded:
    """The same run, with its data in another folder now, as an override of `data.path` says.

    Raises:
        ConfigError: its data is in no folder, or it is no override.
    """
    config, setting = recorded.config, compose.setting(override)
    if not isinstance(config.data, ImageFiles):
        raise ConfigError(f"{override}: data={config.data.name} is read from no folder. Leave it out.")
    if setting is None:
        raise ConfigError(f"{override} refers to something else. Name the folder itself: data.path=FOLDER")
    there = validate(as_dict(replace(config, data=replace(config.data, path=setting[1]))))
    overrides = [given for given in recorded.overrides if given.lstrip("+").partition("=")[0] != "data.path"]
    return replace(recorded, config=there, overrides=[*overrides, override])


def _refuse_sweep(client: "tracking.MlflowClient", run: runs.RunRecord) -> None:
    children = [
        f"{child.run_id} ({child.name})" for child in runs.with_tags(client, {"mlflow.parentRunId": run.run_id})
    ]
    if children or "sweep" in run.tags:
        raise StoreError(
            f"Run {run.run_id} ({run.name}) is a sweep, which only holds its runs together. Give one of them:"
            f" {_some(children)}. All of them: python scripts/compare.py --sweep {run.run_id}"
        )


def again(recorded: Recorded) -> str:
    """Run it as a new run, which has the tag `reproduces` and stands in the same store and experiment.

    Returns:
        The new run's id; empty in a process that only trains for another one (a worker of a cluster).

    Raises:
        UserError: devices or store cannot be used, or the run that it starts from is gone.
        TrainingError: the new run failed.
    """
    tracked = replace(recorded.config.tracking, uri=recorded.uri, run_name=f"again: {recorded.run.name}")
    config = replace(recorded.config, tracking=tracked, resume=None)
    pretrained.check(config)
    false = recorded.false_overrides()
    overrides = [override for override in recorded.overrides if override not in false]
    run_id = experiment.run(config, overrides, {"reproduces": recorded.run.run_id})
    return "" if cluster.FOLDER in os.environ else run_id


def judge(recorded: Recorded, run_id: str) -> Verdict:
    """Compare every metric of the new run with the recorded one, at every epoch."""
    resolved = tracking.resolve_uri(recorded.uri)
    client = runs.open_store(resolved)
    (new,) = runs.by_id(client, [run_id])
    hardware = _hardware(resolved, run_id)
    changed = recorded.machine_changes(hardware)
    exact = not changed and all(recorded.run.tags.get(key) == new.tags[key] for key in ("code_digest", "versions"))
    images = (
        None
        if exact
        else {
            "test_": recorded.config.data.test_examples,
            "val_": recorded.config.data.validation,
            "best_val_": recorded.config.data.validation,
            "": training_examples(recorded.config),
        }
    )
    rows = compare(recorded.points, _points(client, new), images)
    model = _model(resolved, new, False)
    same_weights = None
    if recorded.model and model:
        same_weights = recorded.model.equals(model) if exact else recorded.model.fits(model) and _as_good(recorded)
    return Verdict(exact, rows, same_weights, recorded.contradictions(), new.run_id, changed)


def _as_good(recorded: Recorded) -> bool:
    """Whether the logged model still has the recorded loss on the test set, within the tolerance, and accuracy."""
    config, store = recorded.config, tracking.resolve_uri(recorded.uri)
    runtime.start(int(config.training.threads), distribution.logical_devices(config.distribution))
    with TemporaryDirectory() as folder:
        file = tracking.download_model_unchecked(store, recorded.run.run_id, Path(folder))
        try:
            model = pretrained.load_model(file, recorded.run.run_id)
        except StoreError:
            return False
    now = Evaluator(model, config.training.loss)(data.load(config.data, config.seed).test).metrics
    then = {name: recorded.run.metrics.get(f"test_{name}", math.nan) for name in now}
    allowed = max(OF_ONE_MODEL, 1 / config.data.test_examples)
    return all(_close(name, then[name], now[name], allowed) for name in now)


def compare(then: Points, now: Points, images: Mapping[str, int] | None) -> list[Row]:
    """A row for each metric that either run has.

    Args:
        images: how many there are behind a metric, by the beginning of its name, for the tolerance; None: all has to be
            equal to the last bit.

    >>> compare({"loss": [(1, 0.5), (2, 0.25)]}, {"loss": [(1, 0.5625), (2, 0.25)]}, None)
    [Row(metric='loss', then=0.25, now=0.25, difference=0.0625, epoch=1, equal=False)]
    """
    rows = []
    for metric in [*then, *(metric for metric in now if metric not in then)]:
        before, after = then.get(metric, []), now.get(metric, [])
        last_then, last_now = (points[-1][1] if points else None for points in (before, after))
        if not before or [epoch for epoch, _ in before] != [epoch for epoch, _ in after]:
            rows.append(Row(metric, last_then, last_now, None, None, False))
            continue
        pairs = [(epoch, a, b) for (epoch, a), (_, b) in zip(before, after, strict=True)]
        count = next(count for start, count in images.items() if metric.startswith(start)) if images else 0
        allowed = max(OF_TWO_MODELS, 2 / count) if count else OF_TWO_MODELS
        equal = all(a == b if images is None else _close(metric, a, b, allowed) for _, a, b in pairs)
        epoch, difference = max(((epoch, abs(a - b)) for epoch, a, b in pairs), key=lambda pair: pair[1])
        rows.append(Row(metric, last_then, last_now, difference, epoch, equal))
    return rows


def _close(metric: str, then: float, now: float, allowed: float) -> bool:
    if metric in NOT_JUDGED:
        return True
    for end, whole in WHOLE.items():
        if metric.endswith(end):
            return abs(now - then) <= whole * allowed + ROUNDING
    return abs(now - then) <= RELATIVE * abs(then)


def _points(client: "tracking.MlflowClient", run: runs.RunRecord) -> Points:
    """What the run itself measured: no times, and nothing that evaluate.py has added since."""
    history = runs.history(client, run).items()
    return {name: points for name, points in history if name not in TIMES and not name.startswith("evaluation_")}


def _hardware(uri: str, run_id: str) -> dict[str, object]:
    try:
        hardware = json.loads(tracking.read(uri, run_id, "environment/hardware.json"))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"Run {run_id}: environment/hardware.json is damaged: {error}") from None
    if not isinstance(hardware, dict):
        raise StoreError(f"Run {run_id}: environment/hardware.json is damaged: it is no mapping.")
    return hardware


def _changed_files(uri: str, run: runs.RunRecord) -> list[str]:
    """The files of the record that are not as they were logged, or gone; none of a run of before there were digests."""
    try:
        digests = dict(json.loads(run.tags.get(experiment.RECORD_DIGESTS, "{}")))
    except (ValueError, TypeError, RecursionError):
        return ["one of its files"]
    return [path for path, digest in digests.items() if _digest(uri, run.run_id, path) != digest]


def _digest(uri: str, run_id: str, path: str) -> str | None:
    try:
        return hashlib.sha256(tracking.read_bytes(uri, run_id, path)).hexdigest()
    except StoreError:
        return None


def _at(tree: Any, key: str) -> Any:
    """What is at a dotted key, where a number is a place in a list; None if there is nothing."""
    for part in key.split("."):
        try:
            tree = tree[int(part)] if isinstance(tree, list) else tree.get(part)
        except (ValueError, IndexError, AttributeError):
            return None
    return tree


def _make(settings: Sequence[Setting], tree: dict[str, Any]) -> bool:
    """Whether a config stays what it is when these are set in it, one after the other, as Hydra does."""
    changed = OmegaConf.create(copy.deepcopy(tree))
    try:
        for _, key, value in settings:
            OmegaConf.update(changed, key, copy.deepcopy(value), merge=True, force_add=True)
        return as_dict(validate(OmegaConf.to_container(changed))) == tree  # type: ignore[arg-type]
    except (ConfigError, OmegaConfBaseException, LookupError, TypeError, ValueError):
        return False


def _model(uri: str, run: runs.RunRecord, logged: bool) -> Model | None:
    """The run's model; one without digest and weights if it is gone, although the run has logged one."""
    with TemporaryDirectory() as folder:
        try:
            content = tracking.download_model_unchecked(uri, run.run_id, Path(folder)).read_bytes()
        except StoreError:
            return Model("", None, {}) if logged or "model_digest" in run.tags else None
    return Model(hashlib.sha256(content).hexdigest(), _network(content), _weights(content))


def _network(content: bytes) -> Any:
    """Keras's description of the network in a `.keras` file, without what no two builds share: names and addresses."""
    try:
        return _nameless(json.loads(zipfile.ZipFile(io.BytesIO(content)).read("config.json")))
    except (*DAMAGED, ValueError, RecursionError):
        return None


def _nameless(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_nameless(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    is_layer = "trainable" in tree or "batch_shape" in tree
    own = {"shared_object_id", *(["name"] if is_layer else [])}
    return {key: _nameless(value) for key, value in tree.items() if key not in own}


def _weights(content: bytes) -> dict[str, np.ndarray]:
    """The weights in a `.keras` file, read without Keras, as somebody may have put anything into it."""
    import h5py

    weights: dict[str, np.ndarray] = {}

    def note(place: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            weights[place] = item[()]

    try:
        stored = zipfile.ZipFile(io.BytesIO(content)).read("model.weights.h5")
        with h5py.File(io.BytesIO(stored), "r") as file:
            file.visititems(note)
    except DAMAGED:
        return {}
    return weights


def _less(fact: object, other: object) -> str:
    """A fact on a machine; of a list or mapping only what the other one has not."""
    fact, other = (
        [f"{key}={value}" for key, value in each.items()] if isinstance(each, dict) else each for each in (fact, other)
    )
    if not isinstance(fact, list):
        return str(fact)
    only_here = Counter(map(str, fact)) - Counter(map(str, other if isinstance(other, list) else []))
    return _some(list(only_here.elements()))


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "none"
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
