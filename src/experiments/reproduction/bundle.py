"""A recorded run as one JSON file, which can be run again with a clone of the project but without the store.

The contents of a bundle are untrusted: the schema of configs limits what it can describe, and it does not choose the
store, the folder of the data or a run to resume. Its diff and lock file are for reading only.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from experiments.config.facts import initial_weights_file
from experiments.config.identity import complete, config_to_dict
from experiments.config.overrides import override_key
from experiments.config.validation import validate_config
from experiments.errors import ConfigError, UserError
from experiments.reproduction.original_run import OriginalRun, find_original_run
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import read_artifact_bytes, read_artifact_text
from experiments.tracking.recorded_config import IDENTITY_TAGS, require_own_code
from experiments.tracking.records import RunRecord

BUNDLE_FORMAT = "keras-hydra-experiments run 1"
LARGEST_BUNDLE = 64 * 2**20  # bytes
# No names of users or machines.
BUNDLED_TAGS = (*IDENTITY_TAGS, "code_digest_rule", "fingerprint", "git_commit", "git_dirty")
PLACE_KEYS = ("tracking.", "data.path", "resume")  # where a run was made, which means nothing elsewhere


class BundleError(UserError):
    """A file that is not a bundle, or does not describe a run."""


def _check_printable(value: Any) -> Any:
    """Refuse control characters at any depth: they could overwrite what a terminal shows."""
    if isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{value!r} is not printable")
    within = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    for item in within if isinstance(within, list) else ():
        _check_printable(item)
    return value


def _check_bundled_override(value: str) -> str:
    key = re.match(r"[+~]{0,2}([A-Za-z_][\w./@]*)", value)
    if key is None or key[1].startswith(("hydra", *PLACE_KEYS)):
        raise ValueError(f"{value!r} is not an override of an experiment")
    return value


BundleLine = Annotated[str, Field(max_length=20_000), AfterValidator(_check_printable)]
BundleText = Annotated[str, Field(max_length=LARGEST_BUNDLE)]
BundleOverride = Annotated[BundleLine, AfterValidator(_check_bundled_override)]


@dataclass(config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False), kw_only=True)
class Bundle:
    """The contents of the file."""

    format: Literal[BUNDLE_FORMAT]  # type: ignore[valid-type]
    run_id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    name: BundleLine
    params: dict[BundleLine, BundleLine]
    tags: dict[Literal[BUNDLED_TAGS], BundleLine]  # type: ignore[valid-type]
    metrics: dict[BundleLine, float]  # the last value of each metric that is not a time
    points: dict[BundleLine, list[tuple[int, float]]]  # (epoch, value)
    config: Annotated[dict[str, Any], AfterValidator(_check_printable)]  # resolved, without PLACE_KEYS
    overrides: Annotated[list[BundleOverride], Field(max_length=1000)]
    packages: list[BundleLine]  # `name==version`
    hardware: Annotated[dict[str, Any], AfterValidator(_check_printable)]
    lock: BundleText
    uncommitted_diff: BundleText


def write_bundle(run_id: str, uri: str | None, file: Path) -> None:
    """Write the bundle of a finished run.

    Raise a StoreError if there is none or parts of its record are missing, a BundleError if it was changed or needs the
    weights of another run, or if the file exists, cannot be written or would be too large.
    """
    original = find_original_run(run_id, uri)
    run, store = original.run, resolve_tracking_uri(uri)
    model = original.config.model
    if initial_weights_file(original.config):
        raise BundleError(
            f"Run {run.run_id} cannot be exported: it starts from the file {model.weights} (model.weights), which a"
            " bundle does not contain. Share its config and that file instead."
        )
    for key, start in (("weights", model.weights), ("continue", model.continue_)):
        if start:
            raise BundleError(
                f"Run {run.run_id} cannot be exported: it starts from the weights of run {start} (model.{key}), which a"
                f" bundle does not contain. Export that run instead: python scripts/reproduce.py {start} --export FILE"
            )
    if changes := original.record_changes():
        raise BundleError(f"Run {run.run_id} cannot be exported: its record was changed: {changes[0]}.")
    diff = read_artifact_bytes(store, run.run_id, "environment/uncommitted.diff")
    parts = {
        "format": BUNDLE_FORMAT,
        "run_id": run.run_id,
        "name": run.name,
        "params": {key: "None" if key == "data.path" else value for key, value in run.params.items()},
        "tags": {key: run.tags[key] for key in BUNDLED_TAGS if key in run.tags},
        "metrics": {key: run.metrics[key] for key in original.points},
        "points": original.points,
        "config": _without_places(config_to_dict(original.config)),
        "overrides": [o for o in original.overrides if not override_key(o).startswith(PLACE_KEYS)],
        "packages": sorted(original.packages, key=str.lower),
        "hardware": original.hardware,
        "lock": read_artifact_text(store, run.run_id, "environment/requirements.lock"),
        "uncommitted_diff": diff.decode(errors="backslashreplace"),  # JSON needs text; files may have any encoding
    }
    content = json.dumps(parts, indent=1).encode()
    _parse_bundle(content, f"Run {run.run_id} cannot be exported")
    try:
        with file.open("xb") as opened:
            opened.write(content)
    except OSError as error:
        raise BundleError(f"The bundle {file} cannot be written: {error.strerror}. Choose another file.") from None


def read_bundle(file: Path, uri: str | None) -> OriginalRun:
    """Read the run in a bundle, to be repeated in the store `uri` with the data on this machine.

    Raise a BundleError if the file is not a bundle, a ConfigError if this version of the code cannot run its config.
    """
    try:
        if file.exists() and not file.is_file():  # reading a pipe could wait for ever
            raise BundleError(f"The bundle {file} cannot be read: it is not a regular file.")
        with file.open("rb") as opened:
            content = opened.read(LARGEST_BUNDLE + 1)
    except OSError as error:
        raise BundleError(f"The bundle {file} cannot be read: {error.strerror}.") from None
    bundle = _parse_bundle(content, f"{file} is not a bundle of a run")
    require_own_code(bundle.tags, f"The run in {file}", "ask whoever made the bundle", other_code=True)
    try:
        config = validate_config(complete(_without_places(bundle.config)))
    except ConfigError as error:
        raise ConfigError(f"This version of the code cannot run the config in {file}: {error}") from None
    run = RunRecord(bundle.run_id, bundle.name, "FINISHED", 0, None, bundle.params, bundle.metrics, bundle.tags)
    packages = frozenset(bundle.packages)
    return OriginalRun(uri, run, config, bundle.overrides, bundle.points, packages, bundle.hardware)


def _parse_bundle(content: bytes, error_start: str) -> Bundle:
    if len(content) > LARGEST_BUNDLE:
        raise BundleError(f"{error_start}: it is larger than {LARGEST_BUNDLE:,} bytes.")
    try:
        bundle = TypeAdapter(Bundle).validate_json(content)
    except ValidationError as error:
        finding = error.errors(include_url=False)[0]
        where = ".".join(map(str, finding["loc"])) or "the file"
        raise BundleError(f"{error_start}: {ascii(where)[1:-1]}: {finding['msg']}.") from None
    if unpaired := sorted(bundle.points.keys() ^ bundle.metrics.keys()):
        raise BundleError(f"{error_start}: {ascii(unpaired[0])[1:-1]} is only in one of points and metrics.")
    return bundle


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config without where it was run; groups that are not mappings are left for validation to refuse."""
    tree = dict(config) | {"resume": None, "resume_anyway": False}
    for group, key in (("tracking", "uri"), ("data", "path")):
        if isinstance(tree.get(group), dict) and key in tree[group]:
            tree[group] = tree[group] | {key: None}
    return tree
