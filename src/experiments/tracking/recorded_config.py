"""The record of how a run started: config, data, environment and digests, written, and its config read back."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from experiments import PROJECT
from experiments.config.identity import complete, config_to_dict, flatten_config
from experiments.config.schema import Config
from experiments.config.validation import validate_config
from experiments.data.datasets import Dataset
from experiments.errors import ConfigError
from experiments.tracking.addresses import hide_credentials
from experiments.tracking.artifacts import read_artifact_text
from experiments.tracking.environment import CodeState, describe_hardware, installed_packages
from experiments.tracking.records import RunRecord, find_runs
from experiments.tracking.run import TrackedRun
from experiments.tracking.store import open_existing_store

CONFIG_ARTIFACT = "config/config.yaml"
OVERRIDES_ARTIFACT = "config/overrides.yaml"
RECORD_DIGESTS = "record_digests"  # tag with the SHA-256 (hex) of each recorded file, as JSON
IDENTITY_TAGS = {
    "code_digest": "the project's code",
    "versions": "the installed packages",
    "data_digest": "the data",
    "environment_variables": "environment variables",  # a tag only where they can change a result
}


def run_params(config: Config) -> dict[str, object]:
    """Return the config as MLflow's params, flat and dotted, without what only config.yaml needs to keep."""
    left_out = ("data.checksums", "resume", "tracking.uri", "tracking.run_name", "objective.", "sweep.", "expected")
    return {key: value for key, value in flatten_config(config_to_dict(config)).items() if not key.startswith(left_out)}


def record_start(run: TrackedRun, config: Config, overrides: Sequence[str], dataset: Dataset, code: CodeState) -> None:
    """Log all that is needed to repeat the run: config, overrides, data and environment."""
    run.log_params(run_params(config))  # also of a run that was killed before it had them
    without_uri = replace(config, tracking=replace(config.tracking, uri=None))  # it may contain a password
    counts = {name: len(getattr(dataset, name).targets) for name in ("train", "validation", "test")}
    run.log_dataset(dataset.name, dataset.digest, dataset.source, counts)
    texts = {
        CONFIG_ARTIFACT: yaml.safe_dump(config_to_dict(without_uri), sort_keys=False, allow_unicode=True),
        OVERRIDES_ARTIFACT: yaml.safe_dump([hide_credentials(o) for o in overrides], allow_unicode=True),
        "environment/packages.txt": installed_packages(),
        "environment/hardware.json": json.dumps(describe_hardware(), indent=2),
        "environment/requirements.lock": (PROJECT / "requirements.lock").read_text(),
    }
    contents = {path: text.encode() for path, text in texts.items()} | {"environment/uncommitted.diff": code.diff}
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    run.set_tags({RECORD_DIGESTS: json.dumps(digests)})
    with TemporaryDirectory() as folder:
        for path, content in contents.items():
            target = Path(folder, path)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
        run.log_artifacts(Path(folder))


def read_recorded_config(uri: str, run_id: str) -> tuple[Config, list[str]]:
    """Return the config that a run was started with, and the overrides that made it.

    Raise a StoreError if it has none, a ConfigError if this version of the code cannot use it.
    """
    config, overrides = (_read_recorded_yaml(uri, run_id, path) for path in (CONFIG_ARTIFACT, OVERRIDES_ARTIFACT))
    damaged = f"The recorded config of run {run_id} cannot be used:"
    if not isinstance(config, dict):
        raise ConfigError(f"{damaged} {CONFIG_ARTIFACT} is not a mapping.")
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise ConfigError(f"{damaged} {OVERRIDES_ARTIFACT} is not a list of strings.")
    try:
        return validate_config(complete(config)), overrides
    except ConfigError as error:
        raise ConfigError(f"This version of the code cannot use the recorded config of run {run_id}: {error}") from None


def _read_recorded_yaml(uri: str, run_id: str, path: str) -> Any:
    """Read YAML that JSON can express too: no dates, no objects, no references to itself."""
    try:
        return json.loads(json.dumps(yaml.safe_load(read_artifact_text(uri, run_id, path))))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"The recorded config of run {run_id} cannot be used: {path}: {reason}") from None


def identity_changes(run: RunRecord, tags: Mapping[str, str]) -> list[str]:
    """Return what of IDENTITY_TAGS differs from the recorded run; `tags` describe the current state."""
    changes = {
        key: f"{what} ({key} was {run.tags.get(key, 'not recorded')}, is {tags.get(key, 'not set')})"
        for key, what in IDENTITY_TAGS.items()
        if run.tags.get(key) != tags.get(key)
    }
    if run.tags.get("code_digest_rule") != tags["code_digest_rule"]:
        changes["code_digest"] = f"{IDENTITY_TAGS['code_digest']} (recorded by an earlier rule: it cannot be compared)"
    return [changes[key] for key in IDENTITY_TAGS if key in changes]


def check_identity(uri: str, run_id: str, tags: Mapping[str, str], resume_anyway: bool) -> None:
    """Raise a ConfigError if a run cannot be continued, as code, packages or data differ from what it recorded.

    `tags` identify the current ones. With `resume_anyway` they may differ.
    """
    (run,) = find_runs(open_existing_store(uri), [run_id])
    changed = identity_changes(run, tags)
    if changed and not resume_anyway:
        commit = run.tags.get("git_commit") or "not recorded"
        raise ConfigError(
            f"Run {run_id} cannot be resumed, because these changed: {'; '.join(changed)}. Restore them"
            f" (its commit was {commit}), or add resume_anyway=true."
        )
