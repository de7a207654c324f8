"""The record of how a run started: config, data, environment and digests, written, and its config read back."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from experiments import RESOURCES
from experiments.config.identity import complete, config_to_dict, flatten_config
from experiments.config.own_code import OwnCode, load_trusted_code, loaded_own_code
from experiments.config.schema import Config
from experiments.config.validation import validate_config
from experiments.config.yaml_files import read_yaml
from experiments.data.datasets import Dataset
from experiments.errors import ConfigError, StoreError
from experiments.formatting import printable, shorten
from experiments.tracking.addresses import hide_credentials, resolve_tracking_uri
from experiments.tracking.artifacts import read_artifact_bytes, read_artifact_text
from experiments.tracking.environment import CodeState, describe_hardware, installed_packages
from experiments.tracking.liveness import is_process_dead, process_tags
from experiments.tracking.records import CONFIG_ARTIFACT, RunRecord, find_runs, runs_with_tags
from experiments.tracking.run import TrackedRun, temporary_folder
from experiments.tracking.store import connect_store, get_mlflow_run, open_existing_store
from experiments.training.checkpoints import pending_start_path, start_path, write_flushed

OVERRIDES_ARTIFACT = "config/overrides.yaml"
RECORDED_FILES = (
    *(CONFIG_ARTIFACT, OVERRIDES_ARTIFACT, "environment/hardware.json", "environment/packages.txt"),
    *("environment/requirements.lock", "environment/uncommitted.diff"),
)
OWN_CODE_ARTIFACT = "code"  # folder with the files of the user's own code
START_TAG = "start_record"  # tag with the name under which `keep_start` has kept config and overrides
RECORD_DIGESTS = "record_digests"  # tag with the SHA-256 (hex) of each recorded file, as JSON
IDENTITY_TAGS = {
    "code_digest": "the project's code",
    "own_code_digest": "your own code",
    "versions": "the installed packages",
    "data_digest": "the data",
    "weights_digest": "the file of model.weights",
    "environment_variables": "environment variables",  # a tag only where they can change a result
}


def run_params(config: Config) -> dict[str, object]:
    """Return the config as MLflow's params, flat and dotted, without what only config.yaml needs to keep."""
    left_out = ("data.checksums", "resume", "tracking.uri", "tracking.run_name", "objective.", "sweep.", "expected")
    return {key: value for key, value in flatten_config(config_to_dict(config)).items() if not key.startswith(left_out)}


def keep_start(config: Config, overrides: Sequence[str]) -> Path:
    """Write config and overrides to disk before their run exists, as a kill may come before `record_start`.

    The name of the file is to be the run's tag START_TAG, until the file is renamed to the run's `start_path`.
    """
    path = pending_start_path(uuid4().hex)
    origin = {"store": hide_credentials(resolve_tracking_uri(config.tracking.uri)), "process": process_tags()}
    write_flushed(path, json.dumps(origin | _start_texts(config, overrides)).encode())
    return path


def settle_starts(uri: str) -> None:
    """Delete what `keep_start` kept for runs in this store that a kill prevented; if a run was made, it gets the file.

    Raise a StoreError if the store cannot tell.
    """
    every = pending_start_path("*")
    for path in every.parent.glob(every.name):
        # Another process may have been faster, and another user or program may have made the file.
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            kept = json.loads(path.read_bytes())
            if kept["store"] == hide_credentials(uri) and is_process_dead(kept["process"], process_tags()):
                made = runs_with_tags(open_existing_store(uri), {START_TAG: path.stem})
                path.rename(start_path(made[0].run_id)) if made else path.unlink()


def _kept_start(uri: str, run_id: str) -> dict[str, str]:
    """Return the texts of `keep_start`; none for runs that are finished, of another machine or of earlier versions."""
    path = start_path(run_id)
    if not path.exists():
        client = connect_store(uri)
        name = get_mlflow_run(client, uri, run_id).data.tags.get(START_TAG, "")
        if re.fullmatch("[0-9a-f]{32}", name):
            with suppress(FileNotFoundError):
                pending_start_path(name).rename(path)  # the process was killed before it could
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):  # none, or damaged
        return {}


def _start_texts(config: Config, overrides: Sequence[str]) -> dict[str, str]:
    without_uri = replace(config, tracking=replace(config.tracking, uri=None))  # it may contain a password
    return {
        CONFIG_ARTIFACT: yaml.safe_dump(config_to_dict(without_uri), sort_keys=False, allow_unicode=True),
        OVERRIDES_ARTIFACT: yaml.safe_dump([hide_credentials(o) for o in overrides], allow_unicode=True),
    }


def record_start(run: TrackedRun, config: Config, overrides: Sequence[str], dataset: Dataset, code: CodeState) -> None:
    """Log all that is needed to repeat the run: config, overrides, data and environment."""
    run.log_params(run_params(config))  # also of a run that was killed before it had them
    counts = {name: len(getattr(dataset, name).targets) for name in ("train", "validation", "test")}
    run.log_dataset(dataset.name, dataset.digest, dataset.source, counts)
    texts = _start_texts(config, overrides) | {
        "environment/packages.txt": installed_packages(),
        "environment/hardware.json": json.dumps(describe_hardware(), indent=2),
        "environment/requirements.lock": (RESOURCES / "requirements.lock").read_text(),
    }
    contents = {path: text.encode() for path, text in texts.items()} | {"environment/uncommitted.diff": code.diff}
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    run.set_tags({RECORD_DIGESTS: json.dumps(digests)})
    own = loaded_own_code()
    contents |= {f"{OWN_CODE_ARTIFACT}/{name}": content for name, content in own.files.items()} if own else {}
    with temporary_folder() as folder:
        for path, content in contents.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        run.log_artifacts(folder)


def read_recorded_config(uri: str, run_id: str, *, other_code: bool = False) -> tuple[Config, list[str]]:
    """Return the config that a run was started with, and the overrides that made it.

    With `other_code`, code of the user's own may have changed since: the caller says so. Raise a StoreError if the run
    has no config, a ConfigError if this version of the code cannot use it.
    """
    kept = _kept_start(uri, run_id)
    config, overrides = (
        _read_recorded_yaml(uri, run_id, path, kept.get(path)) for path in (CONFIG_ARTIFACT, OVERRIDES_ARTIFACT)
    )
    (run,) = find_runs(open_existing_store(uri), [run_id])
    copy = f"mlflow artifacts download -r {run_id} -a {OWN_CODE_ARTIFACT} -d FOLDER"
    require_own_code(run.tags, f"Run {run_id}", copy, other_code)
    if not isinstance(config, dict):
        raise _damaged_record(run_id, CONFIG_ARTIFACT, "it is not a mapping")
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise _damaged_record(run_id, OVERRIDES_ARTIFACT, "it is not a list of strings")
    try:
        return validate_config(complete(config)), overrides
    except RecursionError:
        raise _damaged_record(run_id, CONFIG_ARTIFACT, "it is nested too deeply") from None
    except ConfigError as error:
        own, digest = loaded_own_code(), run.tags.get("own_code_digest")
        if own and digest and own.digest != digest:
            raise ConfigError(f"Run {run_id} was {_made_with_other(own, run.tags)}: {error}") from None
        raise ConfigError(f"This version of the code cannot use the recorded config of run {run_id}: {error}") from None


def _made_with_other(own: OwnCode, tags: Mapping[str, str]) -> str:
    made = f"{tags.get('own_code', 'a folder')} with the digest {tags['own_code_digest']}"
    return f"made with other code of its user's, {made}; loaded is {own.folder.name} with {own.digest}"


def require_own_code(tags: Mapping[str, str], what: str, copy: str, other_code: bool) -> None:
    """Raise a ConfigError if a run was made with code of its user's that is not loaded, nor in a trusted folder.

    `tags` are the run's, `copy` says how to get a copy of that code, and with `other_code` it may be another version.
    """
    digest = tags.get("own_code_digest")
    if digest and not other_code and (own := loaded_own_code()) and own.digest != digest:
        raise ConfigError(f"{what} was {_made_with_other(own, tags)}. Load the code of the run. A copy: {copy}")
    if digest and not loaded_own_code() and not load_trusted_code(digest):
        raise ConfigError(
            f"{what} was made with code of its user's, {tags.get('own_code', 'a folder')} with the digest {digest},"
            f" which is not loaded. Add --code FOLDER. A copy: {copy}"
        )


def _read_recorded_yaml(uri: str, run_id: str, path: str, kept: str | None) -> Any:
    """Read YAML that JSON can express too: no dates, no objects, no references to itself."""
    try:
        return json.loads(json.dumps(read_yaml(kept or read_artifact_text(uri, run_id, path), "it")))
    except RecursionError:
        raise _damaged_record(run_id, path, "it is nested too deeply") from None
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise _damaged_record(run_id, path, " ".join(str(error).split())) from None


def _damaged_record(run_id: str, path: str, reason: str) -> ConfigError:
    return ConfigError(
        f"{path} of run {run_id} is damaged: {shorten(printable(reason).removesuffix('.'), 300)}. Without it the run"
        " cannot be resumed, repeated, evaluated or used to predict; its metrics and model are still in the store."
        " Restore the file from a copy, or make a new run."
    )


def is_record_lost(uri: str, run_id: str) -> bool:
    """Return whether a run that was cut off has no whole record, though this machine knows how it was started."""
    (run,) = find_runs(open_existing_store(uri), [run_id])
    return bool(_kept_start(uri, run_id)) and (RECORD_DIGESTS not in run.tags or bool(changed_files(uri, run)))


def changed_files(uri: str, run: RunRecord) -> list[str]:
    """List the recorded files that are missing or changed; none for runs recorded before digests existed."""
    if RECORD_DIGESTS not in run.tags:
        return []
    try:
        digests = dict(json.loads(run.tags[RECORD_DIGESTS]))
    except (ValueError, TypeError, RecursionError):
        digests = {}
    changed = []
    for path in RECORDED_FILES:
        try:
            digest = hashlib.sha256(read_artifact_bytes(uri, run.run_id, path)).hexdigest()
        except StoreError:
            digest = "missing"
        if digests.get(path) != digest:
            changed.append(path)
    return changed


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


def check_identity(
    uri: str, run_id: str, tags: Mapping[str, str], resume_anyway: bool, action: str = "resumed"
) -> None:
    """Raise a ConfigError if a run cannot be continued, as code, packages or data differ from what it recorded.

    `tags` identify the current ones. With `resume_anyway` they may differ.
    """
    (run,) = find_runs(open_existing_store(uri), [run_id])
    changed = identity_changes(run, tags)
    if changed and not resume_anyway:
        commit = run.tags.get("git_commit") or "not recorded"
        raise ConfigError(
            f"Run {run_id} cannot be {action}, because these changed: {'; '.join(changed)}. Restore them"
            f" (its commit was {commit}), or add resume_anyway=true."
        )
