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
from experiments.tracking.records import RunRecord

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
    """List which of code, packages and data differ from the recorded run; `tags` describe the current ones."""
    return [
        f"{what} ({key} was {run.tags.get(key, 'not recorded')}, is {tags[key]})"
        for key, what in IDENTITY_TAGS.items()
        if run.tags.get(key) != tags[key]
    ]
