"""The config that a run was started with, read back."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from experiments.config.schema import Config
from experiments.config.validation import validate_config
from experiments.errors import ConfigError
from experiments.tracking.artifacts import read_artifact_text
from experiments.tracking.records import RunRecord

CONFIG_ARTIFACT = "config/config.yaml"
OVERRIDES_ARTIFACT = "config/overrides.yaml"


def read_recorded_config(uri: str, run_id: str) -> tuple[Config, list[str]]:
    """The config that a run was started with, and the overrides that made it.

    Raises:
        StoreError: the run has none.
        ConfigError: it is no longer one that can be run.
    """
    config, overrides = (
        _parse_recorded_yaml(read_artifact_text(uri, run_id, path), path, run_id)
        for path in (CONFIG_ARTIFACT, OVERRIDES_ARTIFACT)
    )
    for path, fits, form in (
        (CONFIG_ARTIFACT, isinstance(config, dict), "a mapping"),
        (
            OVERRIDES_ARTIFACT,
            isinstance(overrides, list) and all(isinstance(o, str) for o in overrides),
            "a list of texts",
        ),
    ):
        if not fits:
            raise ConfigError(f"The config that run {run_id} recorded cannot be run: {path} is not {form}.")
    try:
        return validate_config(config), overrides
    except ConfigError as error:
        raise ConfigError(f"The config that run {run_id} recorded cannot be run by this code: {error}") from None


def _parse_recorded_yaml(text: str, path: str, run_id: str) -> Any:
    """What a YAML file holds, if it is what JSON can hold too: no dates, no objects, nothing that holds itself."""
    try:
        return json.loads(json.dumps(yaml.safe_load(text)))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"The config that run {run_id} recorded cannot be run: {path}: {reason}") from None


IDENTITY_TAGS = {"code_digest": "the project's code", "versions": "the installed packages", "data_digest": "the data"}


def identity_changes(run: RunRecord, tags: Mapping[str, str]) -> list[str]:
    """Which of code, packages and data are no longer what the run recorded; `tags` are those of now."""
    return [
        f"{what} ({key} was {run.tags.get(key, 'not recorded')}, is {tags[key]})"
        for key, what in IDENTITY_TAGS.items()
        if run.tags.get(key) != tags[key]
    ]
