"""Resume a run that was cut off, with its recorded config."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from experiments.config.choices import group_names
from experiments.config.identity import affects_result, config_to_dict, flatten_config
from experiments.config.overrides import PRESETS, choice_key, override_key
from experiments.config.schema import Config
from experiments.config.validation import validate_config
from experiments.errors import ConfigError, UserError
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.recorded_config import read_recorded_config
from experiments.tracking.records import RunRecord, find_runs
from experiments.tracking.store import open_existing_store


class NothingToResumeError(UserError):
    """The run is finished, which is not a failure."""

    exit_code = 0


@dataclass(frozen=True)
class ResumedRun:
    """A run to resume, the config it was started with, and the overrides that made it."""

    run: RunRecord
    config: Config
    overrides: list[str]


def find_resumed_run(config: Config, overrides: Sequence[str]) -> ResumedRun:
    """Find the run that `config.resume` names, with its recorded config.

    Args:
        config: composed from the command.
        overrides: given with `resume=`; what they set must agree with the recorded config.

    Raises:
        NothingToResumeError: the run is finished.
        ConfigError: an override disagrees with the recorded config.
        StoreError: there is no such run, or it has no recorded config.
    """
    uri = resolve_tracking_uri(config.tracking.uri)
    client = open_existing_store(uri)
    (run,) = find_runs(client, [str(config.resume)])
    recorded, recorded_overrides = read_recorded_config(uri, run.run_id)
    _check_given_overrides(config_to_dict(config), config_to_dict(recorded), overrides, recorded_overrides, run.run_id)
    if run.status == "FINISHED":
        raise NothingToResumeError(f"Run {run.run_id} ({run.name}) is finished: there is nothing to resume.")
    resumed = replace(
        _with_given_places(recorded, config, overrides),
        resume=run.run_id,
        resume_anyway=config.resume_anyway,
        tracking=replace(recorded.tracking, uri=uri),
    )
    return ResumedRun(run, resumed, recorded_overrides)


def _with_given_places(recorded: Config, config: Config, overrides: Sequence[str]) -> Config:
    """Return the recorded config with the given keys that cannot affect the result, such as the folder of the data."""
    tree, given = config_to_dict(recorded), config_to_dict(config)
    for override in overrides:
        key = override_key(override)
        group, _, name = key.partition(".")
        if group in ("data", "report", "training", "distribution") and name and not affects_result(key):
            tree[group][name] = given[group][name]
    return validate_config(tree)


def _check_given_overrides(
    given: dict, recorded: dict, overrides: Sequence[str], recorded_overrides: list[str], run_id: str
) -> None:
    flat_given, flat_recorded = flatten_config(given), flatten_config(recorded)
    for override in overrides:
        key = override_key(override)
        if not affects_result(key):
            continue
        if key in PRESETS and override not in recorded_overrides:
            raise ConfigError(
                f"{override} disagrees with run {run_id}, which was started with"
                f" {' '.join(recorded_overrides) or 'the defaults'}. Leave it out, or start a new run without resume."
            )
        chosen = [name for name in flat_given if name == key or name.startswith(f"{key}.")] or [key]
        if key in group_names() and key not in PRESETS:
            chosen = [choice_key(key)]
        for name in chosen:
            if flat_given.get(name) != flat_recorded.get(name):
                raise ConfigError(
                    f"{override} disagrees with run {run_id}, which was started with"
                    f" {name}={flat_recorded.get(name)}. Leave it out, or start a new run without resume."
                )
