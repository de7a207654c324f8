"""Going on with a run that was cut off: its recorded config, and whether code and data are still the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from experiments.config.choices import group_names
from experiments.config.identity import affects_result, config_to_dict, flatten_config
from experiments.config.overrides import PRESETS, choice_key, override_key
from experiments.config.schema import Config
from experiments.config.validation import validate_config
from experiments.errors import ConfigError, UserError
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.recorded_config import identity_changes, read_recorded_config
from experiments.tracking.records import RunRecord, find_runs
from experiments.tracking.store import open_existing_store


class NothingToResumeError(UserError):
    """The run is finished: said, but no failure."""

    exit_code = 0


@dataclass(frozen=True)
class ResumedRun:
    """A run to go on with: its record, the config it was started with, and the overrides that made it."""

    run: RunRecord
    config: Config
    overrides: list[str]

    def check(self, tags: Mapping[str, str]) -> None:
        """Compare the identity of code, packages and data then with that of now.

        Raises:
            ConfigError: they differ, and `resume_anyway` is not set.
        """
        changed = identity_changes(self.run, tags)
        if changed and not self.config.resume_anyway:
            commit = self.run.tags.get("git_commit") or "not recorded"
            raise ConfigError(
                f"Run {self.run.run_id} cannot go on as it began, for these differ: {'; '.join(changed)}. Bring them"
                f" back (its commit was {commit}), or add resume_anyway=true."
            )


def find_resumed_run(config: Config, overrides: Sequence[str]) -> ResumedRun:
    """The run that `config.resume` names, to go on with as it was recorded.

    Args:
        overrides: given beside `resume=`; what they set must be what was recorded.

    Raises:
        NothingToResumeError: the run is finished.
        ConfigError: an override disagrees with the record.
        StoreError: there is no such run, or it has no config.
    """
    uri = resolve_tracking_uri(config.tracking.uri)
    client = open_existing_store(uri)
    (run,) = find_runs(client, [str(config.resume)])
    then, given = read_recorded_config(uri, run.run_id)
    _check_given_overrides(config_to_dict(config), config_to_dict(then), overrides, given, run.run_id)
    if run.status == "FINISHED":
        raise NothingToResumeError(f"Run {run.run_id} ({run.name}) is finished: there is nothing to resume.")
    then = replace(
        _with_new_places(then, config, overrides),
        resume=run.run_id,
        resume_anyway=config.resume_anyway,
        tracking=replace(then.tracking, uri=uri),
    )
    return ResumedRun(run, then, given)


def _with_new_places(then: Config, config: Config, overrides: Sequence[str]) -> Config:
    """The recorded config with what is given anew and cannot change the result: where the data is now, the report."""
    tree, now = config_to_dict(then), config_to_dict(config)
    for override in overrides:
        key = override_key(override)
        group, _, name = key.partition(".")
        if group in ("data", "report", "training", "distribution") and name and not affects_result(key):
            tree[group][name] = now[group][name]
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
