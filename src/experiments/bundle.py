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

from experiments import records, runs, tracking
from experiments.config import as_dict, validate
from experiments.errors import ConfigError, UserError
from experiments.resume import IDENTITY

FORMAT = "keras-hydra-experiments run 1"
LARGEST = 64 * 2**20  # bytes
TAGS = (*IDENTITY, "fingerprint", "git_commit", "git_dirty")  # no names of users and machines


class BundleError(UserError):
    """A file that is no bundle, or describes what no run can be."""


def _printable(value: Any) -> Any:
    """Refuse control characters, which could write over what a terminal shows, wherever they are."""
    if isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{value!r} is not printable")
    within = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    for item in within:
        _printable(item)
    return value


def _override(value: str) -> str:
    key = re.match(r"[+~]{0,2}([A-Za-z_][\w./@]*)", value)
    if key is None or key[1].startswith(("hydra", *records.OF_A_PLACE)):
        raise ValueError(f"{value!r} is not an override of an experiment")
    return value


Line = Annotated[str, Field(max_length=20_000), AfterValidator(_printable)]
Text = Annotated[str, Field(max_length=LARGEST)]
Override = Annotated[Line, AfterValidator(_override)]
Point = tuple[int, float]


@dataclass(config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False), kw_only=True)
class Bundle:
    """What the file holds.

    Attributes:
        points: (epoch, value) of each metric that is not a time; metrics are the last values.
        config: resolved; without store, folder of the data, and run to resume.
        packages: installed then, name==version each.
    """

    format: Literal[FORMAT]  # type: ignore[valid-type]
    run_id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    name: Line
    params: dict[Line, Line]
    tags: dict[Literal[TAGS], Line]  # type: ignore[valid-type]
    metrics: dict[Line, float]
    points: dict[Line, list[Point]]
    config: Annotated[dict[str, Any], AfterValidator(_printable)]
    overrides: Annotated[list[Override], Field(max_length=1000)]
    packages: list[Line]
    hardware: Annotated[dict[str, Any], AfterValidator(_printable)]
    lock: Text
    uncommitted_diff: Text


def write(run_id: str, uri: str | None, file: Path) -> None:
    """Write the bundle of a finished run.

    Raises:
        StoreError: there is no such run, it is not finished, or parts of its record are missing.
        BundleError: the run needs the weights of another, the file exists or cannot be written, or would be too large.
    """
    recorded = records.find(run_id, uri)
    run, store = recorded.run, tracking.resolve_uri(uri)
    if start := recorded.config.model.weights:
        raise BundleError(
            f"Run {run.run_id} cannot be put into a bundle: it starts from the weights of run {start} (model.weights),"
            f" which a bundle does not hold. Export that run instead: python scripts/reproduce.py {start} --export FILE"
        )
    if changed := recorded.contradictions():
        raise BundleError(f"Run {run.run_id} cannot be put into a bundle: its record was changed: {changed[0]}.")
    lock = tracking.read(store, run.run_id, "environment/requirements.lock")
    diff = tracking.read_bytes(store, run.run_id, "environment/uncommitted.diff")
    parts = {
        "format": FORMAT,
        "run_id": run.run_id,
        "name": run.name,
        "params": {key: "None" if key == "data.path" else value for key, value in run.params.items()},
        "tags": {key: run.tags[key] for key in TAGS if key in run.tags},
        "metrics": {key: run.metrics[key] for key in recorded.points},
        "points": recorded.points,
        "config": _placeless(as_dict(recorded.config)),
        "overrides": [o for o in recorded.overrides if not o.lstrip("+~").startswith(records.OF_A_PLACE)],
        "packages": sorted(recorded.packages, key=str.lower),
        "hardware": recorded.hardware,
        "lock": lock,
        "uncommitted_diff": diff.decode(errors="backslashreplace"),  # JSON is text; a file may be in any encoding
    }
    content = json.dumps(parts, indent=1).encode()
    _parse(content, f"Run {run.run_id} cannot be put into a bundle")
    try:
        with file.open("xb") as opened:
            opened.write(content)
    except OSError as error:
        raise BundleError(f"The bundle {file} cannot be written: {error.strerror}. Choose another file.") from None


def read(file: Path, uri: str | None) -> records.Recorded:
    """The run in a bundle, to be run again in the store `uri`, with data from where it lies here.

    Raises:
        BundleError: it is no bundle, or too large.
        ConfigError: its config cannot be run.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
    except OSError as error:
        raise BundleError(f"The bundle {file} cannot be read: {error.strerror}.") from None
    bundle = _parse(content, f"{file} is no bundle of a run")
    try:
        config = validate(_placeless(bundle.config))
    except ConfigError as error:
        raise ConfigError(f"The config in {file} cannot be run by this code: {error}") from None
    run = runs.RunRecord(bundle.run_id, bundle.name, "FINISHED", 0, None, bundle.params, bundle.metrics, bundle.tags)
    packages = frozenset(bundle.packages)
    return records.Recorded(uri, run, config, bundle.overrides, bundle.points, packages, bundle.hardware)


def _parse(content: bytes, otherwise: str) -> Bundle:
    if len(content) > LARGEST:
        raise BundleError(f"{otherwise}: it is larger than {LARGEST:,} bytes.")
    try:
        bundle = TypeAdapter(Bundle).validate_json(content)
    except ValidationError as error:
        finding = error.errors(include_url=False)[0]
        where = ".".join(map(str, finding["loc"])) or "the file"
        raise BundleError(f"{otherwise}: {ascii(where)[1:-1]}: {finding['msg']}.") from None
    if alone := sorted(bundle.points.keys() ^ bundle.metrics.keys()):
        raise BundleError(f"{otherwise}: {ascii(alone[0])[1:-1]} is in only one of points and metrics.")
    return bundle


def _placeless(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without where it was run; groups that are no mappings are left for the schema to refuse."""
    tree = dict(config) | {"resume": None, "resume_anyway": False}
    for group, key in (("tracking", "uri"), ("data", "path")):
        if isinstance(tree.get(group), dict) and key in tree[group]:
            tree[group] = tree[group] | {key: None}
    return tree
