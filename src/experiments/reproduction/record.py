"""Recorded runs as their store has them, to be run again, and whether a record agrees with itself."""

import copy
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import QuotedString
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config.choices import choice_files, group_names
from experiments.config.composition import composing
from experiments.config.data_schema import ImageFileData
from experiments.config.identity import config_to_dict, fingerprint_of, flatten_config, identity_tags
from experiments.config.overrides import choice_key, is_hydra_key, override_key, parse_overrides, refuse_several_values
from experiments.config.schema import Config
from experiments.config.validation import validate_config
from experiments.data.datasets import load_dataset
from experiments.errors import ConfigError, StoreError
from experiments.experiment import RECORD_DIGESTS, run_params
from experiments.reports.report import best_epoch_metrics
from experiments.reproduction.logged_model import LoggedModel, read_logged_model
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import read_artifact_bytes, read_artifact_text
from experiments.tracking.environment import installed_packages, read_code_state
from experiments.tracking.recorded_config import IDENTITY_TAGS, identity_changes, read_recorded_config
from experiments.tracking.records import RunRecord, find_runs, metric_history, runs_with_tags
from experiments.tracking.store import open_existing_store

if TYPE_CHECKING:
    from experiments.tracking.store import MlflowClient


TIME_METRICS = ("epoch_seconds", "examples_per_second", "train_seconds")
# Of environment/hardware.json, what decides the last bits: the name of a processor need not say what it can do.
MACHINE_FACTS = ("processor", "instructions", "gpus", "threads", "switches")
ALWAYS_RECORDED = ("processor", "gpus", "threads")  # the others are not in earlier records
LONGEST_PARAM = 6000  # characters; MLflow cuts the rest
UNKNOWN = ...  # what an override sets, where it alone does not tell
NOT_FINITE = r" became (nan|-?inf) (in epoch|after training)"  # in the tag end_reason
PLACE_KEYS = ("tracking.", "data.path", "resume")  # where a run was made, which means nothing elsewhere

MetricPoints = Mapping[str, list[tuple[int, float]]]  # (epoch, value) of each metric
Setting = tuple[str, str, Any]  # the override, the key and the value that it sets
# What `experiment.record` logs, each with its digest.
RECORDED_FILES = (
    "config/config.yaml",
    "config/overrides.yaml",
    "environment/hardware.json",
    "environment/packages.txt",
    "environment/requirements.lock",
    "environment/uncommitted.diff",
)


@dataclass(frozen=True)
class Record:
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
    run: RunRecord
    config: Config
    overrides: list[str]
    points: MetricPoints
    packages: frozenset[str]
    hardware: Mapping[str, object]
    model: LoggedModel | None = None
    changed_files: Sequence[str] = ()

    def contradictions(self) -> list[str]:
        """Where the record does not agree with itself: it was changed after the run."""
        found = [
            f"{path} is not the file that was logged, by its digest in the tag {RECORD_DIGESTS}"
            for path in self.changed_files
        ]
        config = {key: str(value)[:LONGEST_PARAM] for key, value in flatten_config(config_to_dict(self.config)).items()}
        for key in sorted(run_params(self.config).keys() | self.run.params.keys()):
            param, value = self.run.params.get(key, "missing"), config.get(key, "missing")
            if param != value and key != "data.path":  # where the data was found may have changed
                found.append(f"the param {key} is {param}, in config/config.yaml it is {value}")
        parts = {key: self.run.tags.get(key, "") for key in IDENTITY_TAGS}
        if self.run.tags.get("fingerprint") != fingerprint_of(self.config, parts):
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
        return best_epoch_metrics(history) | ({} if accuracy is None else {"test_error_percent": 100 * (1 - accuracy)})

    def false_overrides(self) -> dict[str, str]:
        """The overrides that cannot have made the config, each with what the config says instead."""
        tree, found, settings = config_to_dict(self.config), {}, list[Setting]()
        for override in self.overrides:
            try:
                if not override_key(override).startswith(PLACE_KEYS):
                    settings.append((override, *override_setting(override)))
            except ConfigError:
                found[override] = "is none that a single run has"
        groups = group_names()
        settings.sort(key=lambda setting: override_key(setting[0]) not in groups)  # Hydra's order
        for place, (override, key, value) in enumerate(settings):
            is_last = not any(_overlap(key, later) for _, later, _ in settings[place + 1 :])
            if is_last and value is not UNKNOWN and not _says(tree, key, value):
                found[override] = f"is not what config/config.yaml says: {_at(tree, key)}"
        return {override: found[override] for override in self.overrides if override in found}

    def changes(self) -> list[str]:
        """What is no longer as it was: code, packages, data. Loads the data.

        Raises:
            DataError: they cannot be had.
        """
        now = identity_tags(self.config, load_dataset(self.config.data, self.config.seed).digest)
        found, code = identity_changes(self.run, now), read_code_state().tags
        if then := self.run.tags.get("git_commit"):  # else it is not known, nor whether there were changes
            found += [
                f"{key} was {was}, is {now or 'not known'}"
                for key, was, now in (
                    ("git_commit", then, code["git_commit"]),
                    ("git_dirty", self.run.tags.get("git_dirty"), code["git_dirty"]),
                )
                if was != now
            ]
        packages = frozenset(installed_packages().splitlines())
        if self.packages != packages:
            gone, new = sorted(self.packages - packages, key=str.lower), sorted(packages - self.packages, key=str.lower)
            found.append(f"installed packages: was {_some_of(gone)}, is {_some_of(new)}")
        return found

    def machine_changes(self, hardware: Mapping[str, object]) -> list[str]:
        """What of the machine can change a result and is no longer as it was, given what it is now."""
        return [
            f"{key} was {_only_here(self.hardware.get(key, 'not recorded'), now)}, is"
            f" {_only_here(now, self.hardware.get(key))}"
            for key in MACHINE_FACTS
            if self.hardware.get(key) != (now := hardware[key])
        ]


def find_record(run_id: str, uri: str | None) -> Record:
    """The run with this id, or unique beginning of an id, as it was recorded.

    Raises:
        StoreError: there is no such run, it is a sweep or not finished, or parts of its record are missing.
        ConfigError: its config cannot be run.
    """
    resolved = resolve_tracking_uri(uri)
    client = open_existing_store(resolved)
    (run,) = find_runs(client, [run_id])
    _refuse_sweep_parent(client, run)
    if run.status != "FINISHED":
        reason = run.tags.get("end_reason", "")
        way = f"Go on with it first: python run.py resume={run.run_id}"
        if re.search(NOT_FINITE, reason):
            way = f"To go on with it would only fail again: {reason}"
        raise StoreError(f"Run {run.run_id} ({run.name}) is {run.status}: only a finished run can be reproduced. {way}")
    if wrong := [f"{key} is {value!r}" for key, value in run.metrics.items() if not isinstance(value, int | float)]:
        raise StoreError(f"Run {run.run_id} was changed: its metric {wrong[0]}, no number.")
    config, overrides = read_recorded_config(resolved, run.run_id)
    packages = read_artifact_text(resolved, run.run_id, "environment/packages.txt")
    return Record(
        uri,
        run,
        config,
        overrides,
        recorded_points(client, run),
        frozenset(packages.splitlines()),
        recorded_hardware(resolved, run.run_id),
        read_logged_model(resolved, run, config.tracking.log_model),
        _changed_record_files(resolved, run),
    )


def with_moved_data(recorded: Record, override: str) -> Record:
    """The same run, with its data in another folder now, as an override of `data.path` says.

    Raises:
        ConfigError: its data is in no folder, or it is no override.
    """
    config, (_, folder) = recorded.config, override_setting(override)
    if not isinstance(config.data, ImageFileData):
        raise ConfigError(f"{override}: data={config.data.name} is read from no folder. Leave it out.")
    if folder is UNKNOWN:
        raise ConfigError(f"{override} refers to something else. Name the folder itself: data.path=FOLDER")
    there = validate_config(config_to_dict(replace(config, data=replace(config.data, path=folder))))
    overrides = [given for given in recorded.overrides if override_key(given) != "data.path"]
    return replace(recorded, config=there, overrides=[*overrides, override])


def _refuse_sweep_parent(client: "MlflowClient", run: RunRecord) -> None:
    children = [
        f"{child.run_id} ({child.name})" for child in runs_with_tags(client, {"mlflow.parentRunId": run.run_id})
    ]
    if children or "sweep" in run.tags:
        raise StoreError(
            f"Run {run.run_id} ({run.name}) is a sweep, which only holds its runs together. Give one of them:"
            f" {_some_of(children)}. All of them: python scripts/compare.py --sweep {run.run_id}"
        )


def recorded_points(client: "MlflowClient", run: RunRecord) -> MetricPoints:
    """What the run itself measured: no times, and nothing that evaluate.py has added since."""
    history = metric_history(client, run).items()
    return {name: points for name, points in history if name not in TIME_METRICS and not name.startswith("evaluation_")}


def recorded_hardware(uri: str, run_id: str) -> dict[str, object]:
    try:
        hardware = json.loads(read_artifact_text(uri, run_id, "environment/hardware.json"))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"Run {run_id}: environment/hardware.json is damaged: {error}") from None
    if not isinstance(hardware, dict):
        raise StoreError(f"Run {run_id}: environment/hardware.json is damaged: it is no mapping.")
    return hardware


def _changed_record_files(uri: str, run: RunRecord) -> list[str]:
    """The files of the record that are not as they were logged, or gone; none of a run of before there were digests."""
    if RECORD_DIGESTS not in run.tags:
        return []
    try:
        digests = dict(json.loads(run.tags[RECORD_DIGESTS]))
    except (ValueError, TypeError, RecursionError):
        digests = {}
    return [path for path in RECORDED_FILES if digests.get(path, "") != _artifact_digest(uri, run.run_id, path)]


def _artifact_digest(uri: str, run_id: str, path: str) -> str | None:
    try:
        return hashlib.sha256(read_artifact_bytes(uri, run_id, path)).hexdigest()
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
        return config_to_dict(validate_config(OmegaConf.to_container(changed))) == tree  # type: ignore[arg-type]
    except (ConfigError, OmegaConfBaseException, LookupError, TypeError, ValueError, RecursionError):
        return False


def _only_here(fact: object, other: object) -> str:
    """A fact on a machine; of a list or mapping only what the other one has not."""
    fact, other = (
        [f"{key}={value}" for key, value in each.items()] if isinstance(each, dict) else each for each in (fact, other)
    )
    if not isinstance(fact, list):
        return str(fact)
    only_here = Counter(map(str, fact)) - Counter(map(str, other if isinstance(other, list) else []))
    return _some_of(list(only_here.elements()))


def _some_of(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "none"
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def override_setting(override: str) -> tuple[str, Any]:
    """The key and the value that an override sets; a choice such as model=mlp sets model.name.

    What cannot be told from the override alone is UNKNOWN: the value of a deletion, of a preset, of what refers to
    other keys or to chance, and of the choice of a file that is not in conf/ or calls itself otherwise.

    Raises:
        ConfigError: it is no override, or names several values.

    >>> setting("model.units=[16]"), setting("data=digits"), setting("~expected")
    (('model.units', [16]), ('data.name', 'digits'), ('expected', Ellipsis))
    """
    with composing():
        (parsed,) = parse_overrides([override])
        refuse_several_values([parsed])
    key = parsed.key_or_group
    if parsed.is_delete() or parsed.package or is_hydra_key(key) or re.search(r"\$\{|\w\(", override):
        return key, UNKNOWN
    value = _unquote(parsed.value())
    if key not in group_names():
        return key, UNKNOWN if (key, value) == ("training.threads", "auto") else value  # resolved in the config
    named = choice_key(key).rpartition(".")[2]
    file = next((file for file in choice_files(key) if file.stem == value), None)
    if file and re.search(rf"^{named}: {re.escape(file.stem)}\b", file.read_text(encoding="utf-8"), re.MULTILINE):
        return f"{key}.{named}", value
    return key, UNKNOWN


def _unquote(value: Any) -> Any:
    """A value as Hydra parses it, with its quoted texts as texts."""
    if isinstance(value, Mapping):
        return {str(key): _unquote(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unquote(item) for item in value]
    return value.text if isinstance(value, QuotedString) else value
