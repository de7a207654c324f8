"""Resume a run that was cut off, or train a finished one further, with its recorded config."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from experiments.config.choices import group_names
from experiments.config.identity import affects_result, config_to_dict, flatten_config
from experiments.config.overrides import PRESETS, choice_key, override_key
from experiments.config.schema import Config
from experiments.config.validation import show_value, validate_config
from experiments.errors import ConfigError, UserError
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.kept_state import CONTINUED_KEYS
from experiments.tracking.recorded_config import read_recorded_config
from experiments.tracking.records import find_runs
from experiments.tracking.store import open_existing_store
from experiments.training.checkpoints import drop_checkpoint


class NothingToResumeError(UserError):
    """The run is finished, which is not a failure."""

    exit_code = 0


def find_resumed_run(config: Config, overrides: Sequence[str]) -> tuple[Config, list[str]]:
    """Return the recorded config of the run that `config.resume` names, to resume it, and the overrides that made it.

    Raise a NothingToResumeError if it is finished, a ConfigError if an override disagrees with the recorded config, a
    StoreError if there is no such run or recorded config.
    """
    uri = resolve_tracking_uri(config.tracking.uri)
    client = open_existing_store(uri)
    (run,) = find_runs(client, [str(config.resume)])
    recorded, recorded_overrides = read_recorded_config(uri, run.run_id, other_code=True)
    _check_given_overrides(config, recorded, overrides, recorded_overrides, run.run_id, "resume")
    if run.status == "FINISHED":
        drop_checkpoint(run.run_id)  # which is kept if the store did not answer when the run ended
        raise NothingToResumeError(f"Run {run.run_id} ({run.name}) is finished: there is nothing to resume.")
    tree, tracking = _with_given(recorded, config, overrides), replace(recorded.tracking, uri=config.tracking.uri)
    resumed = replace(validate_config(tree), resume=run.run_id, resume_anyway=config.resume_anyway, tracking=tracking)
    return resumed, recorded_overrides


def find_continued_run(config: Config, overrides: Sequence[str]) -> Config:
    """Return the config that trains the run of `model.continue` further: the recorded one of that run, for more epochs.

    Raise a ConfigError if an override disagrees with the recorded config, a StoreError if there is no such run or
    recorded config. Whether its state can be used is checked where it is loaded.
    """
    uri = resolve_tracking_uri(config.tracking.uri)
    (run,) = find_runs(open_existing_store(uri), [str(config.model.continue_)])
    recorded, recorded_overrides = read_recorded_config(uri, run.run_id, other_code=True)
    agreeing = [override for override in overrides if override_key(override) not in CONTINUED_KEYS]
    _check_given_overrides(config, recorded, agreeing, recorded_overrides, run.run_id, "model.continue")
    own_name = replace(recorded, tracking=replace(recorded.tracking, uri=config.tracking.uri, run_name=None))
    tree = _with_given(own_name, config, overrides)
    tree["model"]["continue"] = run.run_id  # of which a prefix may have been given
    return replace(validate_config(tree), resume_anyway=config.resume_anyway)


def _with_given(recorded: Config, given: Config, overrides: Sequence[str]) -> dict[str, Any]:
    """Return a recorded config with the given values of what a run may change when it goes on, as plain dictionaries.

    `overrides` are those of the command line: a key that it does not name stays as recorded.
    """
    tree, changes = config_to_dict(recorded), config_to_dict(given)
    for key in map(override_key, overrides):
        group, _, name = key.partition(".")
        if group not in ("data", "model", "report", "tracking", "training", "distribution") or not name:
            continue
        if key in CONTINUED_KEYS or not affects_result(key):  # such as the folder of the data
            tree[group][name] = changes[group][name]
    return tree


def _check_given_overrides(
    given: Config,
    recorded: Config,
    overrides: Sequence[str],
    recorded_overrides: list[str],
    run_id: str,
    key_of_run: str,
) -> None:
    flat_given, flat_recorded = (flatten_config(config_to_dict(config)) for config in (given, recorded))
    for override in overrides:
        key = override_key(override)
        if not affects_result(key):
            continue
        started_with = []
        if key in PRESETS and override not in recorded_overrides:
            started_with = [" ".join(recorded_overrides) or "the defaults"]
        chosen = [name for name in flat_given if name == key or name.startswith(f"{key}.")] or [key]
        if key in group_names() and key not in PRESETS:
            chosen = [choice_key(key)]
        differing = [name for name in chosen if flat_given.get(name) != flat_recorded.get(name)]
        started_with += [f"{name}={show_value(flat_recorded.get(name))}" for name in differing]
        if started_with:
            raise ConfigError(
                f"{override} disagrees with run {run_id}, which was started with {started_with[0]}. Leave it out, or"
                f" start a new run without {key_of_run}."
            )
