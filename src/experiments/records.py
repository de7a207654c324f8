"""Recorded runs as their store has them, to be run again, and whether a record agrees with itself."""

import copy
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments import compose, data, environment, experiment, model_files, report, resume, runs, tracking
from experiments.config import as_dict, fingerprint, flatten, identity, validate
from experiments.errors import ConfigError, StoreError
from experiments.model_files import Model
from experiments.schema import Config, ImageFiles

TIMES = ("epoch_seconds", "examples_per_second", "train_seconds")
# Of environment/hardware.json, what decides the last bits: the name of a processor need not say what it can do.
MACHINE = ("processor", "instructions", "gpus", "threads", "switches")
ALWAYS_RECORDED = ("processor", "gpus", "threads")  # the others are not in earlier records
LONGEST_PARAM = 6000  # characters; MLflow cuts the rest
NOT_FINITE = r" became (nan|-?inf) (in epoch|after training)"  # in the tag end_reason
OF_A_PLACE = ("tracking.", "data.path", "resume")  # where a run was made, which means nothing elsewhere

Points = Mapping[str, list[tuple[int, float]]]  # (epoch, value) of each metric
Setting = tuple[str, str, Any]  # the override, the key and the value that it sets
# What `experiment.record` logs, each with its digest.
FILES = (
    "config/config.yaml",
    "config/overrides.yaml",
    "environment/hardware.json",
    "environment/packages.txt",
    "environment/requirements.lock",
    "environment/uncommitted.diff",
)


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
    model: Model | None = None
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
                if not override.lstrip("+~").startswith(OF_A_PLACE):
                    settings.append((override, *compose.setting(override)))
            except ConfigError:
                found[override] = "is none that a single run has"
        groups = compose.groups()
        settings.sort(key=lambda setting: setting[0].lstrip("+~").partition("=")[0] not in groups)  # Hydra's order
        for place, (override, key, value) in enumerate(settings):
            is_last = not any(_overlap(key, later) for _, later, _ in settings[place + 1 :])
            if is_last and value is not compose.UNKNOWN and not _says(tree, key, value):
                found[override] = f"is not what config/config.yaml says: {_at(tree, key)}"
        return {override: found[override] for override in self.overrides if override in found}

    def changes(self) -> list[str]:
        """What is no longer as it was: code, packages, data. Loads the data.

        Raises:
            DataError: they cannot be had.
        """
        now = identity(self.config, data.load(self.config.data, self.config.seed).digest)
        found, code = resume.changes(self.run, now), environment.code().tags
        if then := self.run.tags.get("git_commit"):  # else it is not known, nor whether there were changes
            found += [
                f"{key} was {was}, is {now or 'not known'}"
                for key, was, now in (
                    ("git_commit", then, code["git_commit"]),
                    ("git_dirty", self.run.tags.get("git_dirty"), code["git_dirty"]),
                )
                if was != now
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
    if wrong := [f"{key} is {value!r}" for key, value in run.metrics.items() if not isinstance(value, int | float)]:
        raise StoreError(f"Run {run.run_id} was changed: its metric {wrong[0]}, no number.")
    config, overrides = resume.recorded(resolved, run.run_id)
    packages = tracking.read(resolved, run.run_id, "environment/packages.txt")
    return Recorded(
        uri,
        run,
        config,
        overrides,
        points(client, run),
        frozenset(packages.splitlines()),
        hardware(resolved, run.run_id),
        model_files.read(resolved, run, config.tracking.log_model),
        _changed_files(resolved, run),
    )


def moved(recorded: Recorded, override: str) -> Recorded:
    """The same run, with its data in another folder now, as an override of `data.path` says.

    Raises:
        ConfigError: its data is in no folder, or it is no override.
    """
    config, (_, folder) = recorded.config, compose.setting(override)
    if not isinstance(config.data, ImageFiles):
        raise ConfigError(f"{override}: data={config.data.name} is read from no folder. Leave it out.")
    if folder is compose.UNKNOWN:
        raise ConfigError(f"{override} refers to something else. Name the folder itself: data.path=FOLDER")
    there = validate(as_dict(replace(config, data=replace(config.data, path=folder))))
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


def points(client: "tracking.MlflowClient", run: runs.RunRecord) -> Points:
    """What the run itself measured: no times, and nothing that evaluate.py has added since."""
    history = runs.history(client, run).items()
    return {name: points for name, points in history if name not in TIMES and not name.startswith("evaluation_")}


def hardware(uri: str, run_id: str) -> dict[str, object]:
    try:
        hardware = json.loads(tracking.read(uri, run_id, "environment/hardware.json"))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"Run {run_id}: environment/hardware.json is damaged: {error}") from None
    if not isinstance(hardware, dict):
        raise StoreError(f"Run {run_id}: environment/hardware.json is damaged: it is no mapping.")
    return hardware


def _changed_files(uri: str, run: runs.RunRecord) -> list[str]:
    """The files of the record that are not as they were logged, or gone; none of a run of before there were digests."""
    if experiment.RECORD_DIGESTS not in run.tags:
        return []
    try:
        digests = dict(json.loads(run.tags[experiment.RECORD_DIGESTS]))
    except (ValueError, TypeError, RecursionError):
        digests = {}
    return [path for path in FILES if digests.get(path, "") != _digest(uri, run.run_id, path)]


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


def _overlap(key: str, other: str) -> bool:
    """Whether one of two dotted keys is the other, or stands within it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _says(tree: dict[str, Any], key: str, value: Any) -> bool:
    """Whether a config stays what it is when a key is set in it as Hydra does."""
    changed = OmegaConf.create(copy.deepcopy(tree))
    try:
        OmegaConf.update(changed, key, value, merge=True, force_add=True)
        return as_dict(validate(OmegaConf.to_container(changed))) == tree  # type: ignore[arg-type]
    except (ConfigError, OmegaConfBaseException, LookupError, TypeError, ValueError, RecursionError):
        return False


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
