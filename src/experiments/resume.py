"""Going on with a run that was cut off: its recorded config, and whether code and data are still the same."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from experiments import runs, tracking
from experiments.compose import CHOSEN, PRESETS, groups
from experiments.config import as_dict, can_change_the_result, flatten, validate
from experiments.errors import ConfigError, UserError
from experiments.schema import Config

IDENTITY = {"code_digest": "the project's code", "versions": "the installed packages", "data_digest": "the data"}
CONFIG, OVERRIDES = "config/config.yaml", "config/overrides.yaml"


class NothingToResumeError(UserError):
    """The run is finished: said, but no failure."""

    exit_code = 0


@dataclass(frozen=True)
class Resumed:
    """A run to go on with: its record, the config it was started with, and the overrides that made it."""

    run: runs.RunRecord
    config: Config
    overrides: list[str]

    def check(self, tags: Mapping[str, str]) -> None:
        """Compare the identity of code, packages and data then with that of now.

        Raises:
            ConfigError: they differ, and `resume_anyway` is not set.
        """
        changed = changes(self.run, tags)
        if changed and not self.config.resume_anyway:
            commit = self.run.tags.get("git_commit") or "not recorded"
            raise ConfigError(
                f"Run {self.run.run_id} cannot go on as it began, for these differ: {'; '.join(changed)}. Bring them"
                f" back (its commit was {commit}), or add resume_anyway=true."
            )


def find(config: Config, overrides: Sequence[str]) -> Resumed:
    """The run that `config.resume` names, to go on with as it was recorded.

    Args:
        overrides: given beside `resume=`; what they set must be what was recorded.

    Raises:
        NothingToResumeError: the run is finished.
        ConfigError: an override disagrees with the record.
        StoreError: there is no such run, or it has no config.
    """
    uri = tracking.resolve_uri(config.tracking.uri)
    client = runs.open_store(uri)
    (run,) = runs.by_id(client, [str(config.resume)])
    then, given = recorded(uri, run.run_id)
    _check_overrides(as_dict(config), as_dict(then), overrides, given, run.run_id)
    if run.status == "FINISHED":
        raise NothingToResumeError(f"Run {run.run_id} ({run.name}) is finished: there is nothing to resume.")
    then = replace(
        _with_places(then, config, overrides),
        resume=run.run_id,
        resume_anyway=config.resume_anyway,
        tracking=replace(then.tracking, uri=uri),
    )
    return Resumed(run, then, given)


def _with_places(then: Config, config: Config, overrides: Sequence[str]) -> Config:
    """The recorded config with what is given anew and cannot change the result: where the data is now, the report."""
    tree, now = as_dict(then), as_dict(config)
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        group, _, name = key.partition(".")
        if group in ("data", "report", "training", "distribution") and name and not can_change_the_result(key):
            tree[group][name] = now[group][name]
    return validate(tree)


def recorded(uri: str, run_id: str) -> tuple[Config, list[str]]:
    """The config that a run was started with, and the overrides that made it.

    Raises:
        StoreError: the run has none.
        ConfigError: it is no longer one that can be run.
    """
    config, overrides = (_plain(tracking.read(uri, run_id, path), path, run_id) for path in (CONFIG, OVERRIDES))
    for path, fits, form in (
        (CONFIG, isinstance(config, dict), "a mapping"),
        (OVERRIDES, isinstance(overrides, list) and all(isinstance(o, str) for o in overrides), "a list of texts"),
    ):
        if not fits:
            raise ConfigError(f"The config that run {run_id} recorded cannot be run: {path} is not {form}.")
    try:
        return validate(config), overrides
    except ConfigError as error:
        raise ConfigError(f"The config that run {run_id} recorded cannot be run by this code: {error}") from None


def _plain(text: str, path: str, run_id: str) -> Any:
    """What a YAML file holds, if it is what JSON can hold too: no dates, no objects, nothing that holds itself."""
    try:
        return json.loads(json.dumps(yaml.safe_load(text)))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"The config that run {run_id} recorded cannot be run: {path}: {reason}") from None


def changes(run: runs.RunRecord, tags: Mapping[str, str]) -> list[str]:
    """Which of code, packages and data are no longer what the run recorded; `tags` are those of now."""
    return [
        f"{what} ({key} was {run.tags.get(key, 'not recorded')}, is {tags[key]})"
        for key, what in IDENTITY.items()
        if run.tags.get(key) != tags[key]
    ]


def _check_overrides(
    given: dict, recorded: dict, overrides: Sequence[str], recorded_overrides: list[str], run_id: str
) -> None:
    flat_given, flat_recorded = flatten(given), flatten(recorded)
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        if not can_change_the_result(key):
            continue
        if key in PRESETS and override not in recorded_overrides:
            raise ConfigError(
                f"{override} disagrees with run {run_id}, which was started with"
                f" {' '.join(recorded_overrides) or 'the defaults'}. Leave it out, or start a new run without resume."
            )
        chosen = [name for name in flat_given if name == key or name.startswith(f"{key}.")] or [key]
        if key in groups() and key not in PRESETS:
            chosen = [f"{key}.{CHOSEN.get(key, 'name')}"]
        for name in chosen:
            if flat_given.get(name) != flat_recorded.get(name):
                raise ConfigError(
                    f"{override} disagrees with run {run_id}, which was started with"
                    f" {name}={flat_recorded.get(name)}. Leave it out, or start a new run without resume."
                )
