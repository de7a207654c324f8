"""The config that a run was started with, and what identified its code, packages and data, read back."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from experiments.config.neutral_values import complete
from experiments.config.schema import Config
from experiments.config.validation import validate_config
from experiments.errors import ConfigError
from experiments.tracking.artifacts import read_artifact_text
from experiments.tracking.records import RunRecord, find_runs
from experiments.tracking.store import open_existing_store

CONFIG_ARTIFACT = "config/config.yaml"
OVERRIDES_ARTIFACT = "config/overrides.yaml"


def read_recorded_config(uri: str, run_id: str) -> tuple[Config, list[str]]:
    """Return the config that a run was started with, and the overrides that made it.

    Raises:
        StoreError: the run has none.
        ConfigError: it is damaged, or this version of the code cannot run it.
    """
    config, overrides = (
        _parse_recorded_yaml(read_artifact_text(uri, run_id, path), path, run_id)
        for path in (CONFIG_ARTIFACT, OVERRIDES_ARTIFACT)
    )
    if not isinstance(config, dict):
        raise ConfigError(f"The recorded config of run {run_id} cannot be used: {CONFIG_ARTIFACT} is not a mapping.")
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise ConfigError(
            f"The recorded config of run {run_id} cannot be used: {OVERRIDES_ARTIFACT} is not a list of strings."
        )
    try:
        return validate_config(complete(config)), overrides
    except ConfigError as error:
        raise ConfigError(f"This version of the code cannot use the recorded config of run {run_id}: {error}") from None


def _parse_recorded_yaml(text: str, path: str, run_id: str) -> Any:
    """Parse YAML that JSON can express too: no dates, no objects, no references to itself."""
    try:
        return json.loads(json.dumps(yaml.safe_load(text)))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"The recorded config of run {run_id} cannot be used: {path}: {reason}") from None


IDENTITY_TAGS = {"code_digest": "the project's code", "versions": "the installed packages", "data_digest": "the data"}


def identity_changes(run: RunRecord, tags: Mapping[str, str]) -> list[str]:
    """Return which of code, packages and data differ from the recorded run; `tags` describe the current ones."""
    changes = {
        key: f"{what} ({key} was {run.tags.get(key, 'not recorded')}, is {tags[key]})"
        for key, what in IDENTITY_TAGS.items()
        if run.tags.get(key) != tags[key]
    }
    if run.tags.get("code_digest_rule") != tags["code_digest_rule"]:
        changes["code_digest"] = f"{IDENTITY_TAGS['code_digest']} (recorded by an earlier rule: it cannot be compared)"
    return [changes[key] for key in IDENTITY_TAGS if key in changes]


def check_identity(uri: str, run_id: str, tags: Mapping[str, str], resume_anyway: bool) -> None:
    """Check that a run can be continued: code, packages and data are still those that it recorded.

    Args:
        tags: the identity tags of now.

    Raises:
        ConfigError: they differ, and `resume_anyway` is not set.
        StoreError: there is no such run.
    """
    (run,) = find_runs(open_existing_store(uri), [run_id])
    changed = identity_changes(run, tags)
    if changed and not resume_anyway:
        commit = run.tags.get("git_commit") or "not recorded"
        raise ConfigError(
            f"Run {run_id} cannot be resumed, because these changed: {'; '.join(changed)}. Restore them"
            f" (its commit was {commit}), or add resume_anyway=true."
        )
