"""A recorded run as one file of JSON, which somebody with a clone but without the store can run again.

A bundle is data, whoever made it: the schema of configs says what it may describe, and the store, the data's folder and
the run to go on with are those of whoever runs it, not the bundle's. Its diff and lock file are there to be read.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from experiments.config.identity import config_to_dict
from experiments.config.overrides import override_key
from experiments.config.validation import validate_config
from experiments.errors import ConfigError, UserError
from experiments.reproduction.record import PLACE_KEYS, Record, find_record
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import read_artifact_bytes, read_artifact_text
from experiments.tracking.recorded_config import IDENTITY_TAGS
from experiments.tracking.records import RunRecord

BUNDLE_FORMAT = "keras-hydra-experiments run 1"
LARGEST_BUNDLE = 64 * 2**20  # bytes
BUNDLED_TAGS = (*IDENTITY_TAGS, "fingerprint", "git_commit", "git_dirty")  # no names of users and machines


class BundleError(UserError):
    """A file that is no bundle, or describes what no run can be."""


def _check_printable(value: Any) -> Any:
    """Refuse control characters, which could write over what a terminal shows, wherever they are."""
    if isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{value!r} is not printable")
    within = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    for item in within:
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
MetricPoint = tuple[int, float]


@dataclass(config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False), kw_only=True)
class Bundle:
    """What the file holds.

    Attributes:
        points: (epoch, value) of each metric that is not a time; metrics are the last values.
        config: resolved; without store, folder of the data, and run to resume.
        packages: installed then, name==version each.
    """

    format: Literal[BUNDLE_FORMAT]  # type: ignore[valid-type]
    run_id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    name: BundleLine
    params: dict[BundleLine, BundleLine]
    tags: dict[Literal[BUNDLED_TAGS], BundleLine]  # type: ignore[valid-type]
    metrics: dict[BundleLine, float]
    points: dict[BundleLine, list[MetricPoint]]
    config: Annotated[dict[str, Any], AfterValidator(_check_printable)]
    overrides: Annotated[list[BundleOverride], Field(max_length=1000)]
    packages: list[BundleLine]
    hardware: Annotated[dict[str, Any], AfterValidator(_check_printable)]
    lock: BundleText
    uncommitted_diff: BundleText


def write_bundle(run_id: str, uri: str | None, file: Path) -> None:
    """Write the bundle of a finished run.

    Raises:
        StoreError: there is no such run, it is not finished, or parts of its record are missing.
        BundleError: the run needs the weights of another, the file exists or cannot be written, or would be too large.
    """
    recorded = find_record(run_id, uri)
    run, store = recorded.run, resolve_tracking_uri(uri)
    if start := recorded.config.model.weights:
        raise BundleError(
            f"Run {run.run_id} cannot be put into a bundle: it starts from the weights of run {start} (model.weights),"
            f" which a bundle does not hold. Export that run instead: python scripts/reproduce.py {start} --export FILE"
        )
    if changed := recorded.contradictions():
        raise BundleError(f"Run {run.run_id} cannot be put into a bundle: its record was changed: {changed[0]}.")
    lock = read_artifact_text(store, run.run_id, "environment/requirements.lock")
    diff = read_artifact_bytes(store, run.run_id, "environment/uncommitted.diff")
    parts = {
        "format": BUNDLE_FORMAT,
        "run_id": run.run_id,
        "name": run.name,
        "params": {key: "None" if key == "data.path" else value for key, value in run.params.items()},
        "tags": {key: run.tags[key] for key in BUNDLED_TAGS if key in run.tags},
        "metrics": {key: run.metrics[key] for key in recorded.points},
        "points": recorded.points,
        "config": _without_places(config_to_dict(recorded.config)),
        "overrides": [o for o in recorded.overrides if not override_key(o).startswith(PLACE_KEYS)],
        "packages": sorted(recorded.packages, key=str.lower),
        "hardware": recorded.hardware,
        "lock": lock,
        "uncommitted_diff": diff.decode(errors="backslashreplace"),  # JSON is text; a file may be in any encoding
    }
    content = json.dumps(parts, indent=1).encode()
    _parse_bundle(content, f"Run {run.run_id} cannot be put into a bundle")
    try:
        with file.open("xb") as opened:
            opened.write(content)
    except OSError as error:
        raise BundleError(f"The bundle {file} cannot be written: {error.strerror}. Choose another file.") from None


def read_bundle(file: Path, uri: str | None) -> Record:
    """The run in a bundle, to be run again in the store `uri`, with data from where it lies here.

    Raises:
        BundleError: it is no bundle, or too large.
        ConfigError: its config cannot be run.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_BUNDLE + 1)
    except OSError as error:
        raise BundleError(f"The bundle {file} cannot be read: {error.strerror}.") from None
    bundle = _parse_bundle(content, f"{file} is no bundle of a run")
    try:
        config = validate_config(_without_places(bundle.config))
    except ConfigError as error:
        raise ConfigError(f"The config in {file} cannot be run by this code: {error}") from None
    run = RunRecord(bundle.run_id, bundle.name, "FINISHED", 0, None, bundle.params, bundle.metrics, bundle.tags)
    packages = frozenset(bundle.packages)
    return Record(uri, run, config, bundle.overrides, bundle.points, packages, bundle.hardware)


def _parse_bundle(content: bytes, otherwise: str) -> Bundle:
    if len(content) > LARGEST_BUNDLE:
        raise BundleError(f"{otherwise}: it is larger than {LARGEST_BUNDLE:,} bytes.")
    try:
        bundle = TypeAdapter(Bundle).validate_json(content)
    except ValidationError as error:
        finding = error.errors(include_url=False)[0]
        where = ".".join(map(str, finding["loc"])) or "the file"
        raise BundleError(f"{otherwise}: {ascii(where)[1:-1]}: {finding['msg']}.") from None
    if alone := sorted(bundle.points.keys() ^ bundle.metrics.keys()):
        raise BundleError(f"{otherwise}: {ascii(alone[0])[1:-1]} is in only one of points and metrics.")
    return bundle


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without where it was run; groups that are no mappings are left for the schema to refuse."""
    tree = dict(config) | {"resume": None, "resume_anyway": False}
    for group, key in (("tracking", "uri"), ("data", "path")):
        if isinstance(tree.get(group), dict) and key in tree[group]:
            tree[group] = tree[group] | {key: None}
    return tree
