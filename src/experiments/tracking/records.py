"""Read runs back from a tracking store as plain records."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import yaml

from experiments.config.identity import flatten_config
from experiments.errors import StoreError
from experiments.formatting import shorten_marked
from experiments.tracking.addresses import hide_credentials
from experiments.tracking.liveness import mark_dead_runs
from experiments.tracking.store import (
    all_experiment_ids,
    deleted_run_advice,
    latest_experiment_id,
    search_pages,
    store_errors,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

CONFIG_ARTIFACT = "config/config.yaml"
LONGEST_PARAM = 5999  # characters; MLflow cuts more to 6,000 without a word, as in runs of earlier versions

_IDS_PER_SEARCH = 100  # MLflow parses filters with a library that is slow on long ones, and then fails


@dataclass(frozen=True)
class RunRecord:
    """A run as read from a store, without artifacts. Times are milliseconds since 1970."""

    run_id: str
    name: str
    status: str  # RUNNING, SCHEDULED, FINISHED, FAILED, KILLED
    start_time: int
    end_time: int | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]  # the last value of each
    tags: Mapping[str, str]


def find_runs(client: "MlflowClient", run_ids: Sequence[str]) -> list[RunRecord]:
    """Find the runs with these ids or unique prefixes of ids, each once, in the given order.

    Raise a StoreError if an id is unknown, or a prefix of several.
    """
    wanted = [run_id.strip().lower() for run_id in run_ids]
    full = [run_id for run_id in wanted if re.fullmatch("[0-9a-f]{32}", run_id)]
    filters = [
        f"attributes.run_id IN ({', '.join(map(repr, full[start : start + _IDS_PER_SEARCH]))})"
        for start in range(0, len(full), _IDS_PER_SEARCH)
    ]
    filters += [f"attributes.run_id LIKE '{i}%'" for i in wanted if re.fullmatch("[0-9a-f]{1,31}", i)]
    with store_errors(client.tracking_uri):
        experiments = all_experiment_ids(client)
        found = {run.run_id: run for filter_ in filters for run in _search_runs(client, experiments, filter_)}
    chosen: dict[str, RunRecord] = {}
    for run_id in wanted:
        matches = [found[run_id]] if run_id in found else [run for i, run in found.items() if i.startswith(run_id)]
        if not matches or not run_id:
            if deleted := deleted_run_advice(client, run_id):
                raise StoreError(deleted)
            raise StoreError(
                f"There is no run {run_id!r} in {hide_credentials(client.tracking_uri)}. Give the id of a run, 32 hex"
                " digits, or a prefix of it. To list the latest runs: python scripts/compare.py"
            )
        if len(matches) > 1:
            choices = ", ".join(f"{run.run_id} ({run.name})" for run in matches[:5])
            more = f" and {len(matches) - 5} more" if len(matches) > 5 else ""
            raise StoreError(
                f"The run id {run_id!r} is ambiguous: it is a prefix of {choices}{more}. Give more digits."
            )
        chosen[matches[0].run_id] = matches[0]
    return list(chosen.values())


def sweep_children(client: "MlflowClient", parent_id: str) -> list[RunRecord]:
    """Find the runs of a sweep, by its id or a unique prefix of it, newest first; raise a StoreError without any."""
    (parent,) = find_runs(client, [parent_id])
    found = runs_with_tags(client, {"mlflow.parentRunId": parent.run_id})
    if not found:
        raise StoreError(f"Run {parent.run_id} ({parent.name}) is not a sweep, or it has no runs yet.")
    return found


def runs_with_tags(client: "MlflowClient", tags: Mapping[str, str], experiment: str | None = None) -> list[RunRecord]:
    """Find the runs with all these tags, in all experiments or in the one of this name, newest first."""
    with store_errors(client.tracking_uri):
        found = client.get_experiment_by_name(experiment) if experiment else None
        ids = [found.experiment_id] if found else [] if experiment else all_experiment_ids(client)
        return _search_runs(client, ids, " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items()))


def runs_that_start_from(client: "MlflowClient", run_ids: Collection[str]) -> list[tuple[RunRecord, str]]:
    """Find the runs that start from the weights or the state of one of these, with its id."""
    an_id = "_" * 32  # of any characters
    found = []
    with store_errors(client.tracking_uri):
        for key in ("model.weights", "model.continue"):
            for run in _search_runs(client, all_experiment_ids(client), f"params.`{key}` LIKE '{an_id}'"):
                found += [(run, run.params[key])] if run.params[key] in run_ids else []
    return found


def experiment_runs(
    client: "MlflowClient", name: str | None = None, newest: int | None = None
) -> tuple[str, list[RunRecord], bool]:
    """Find the `newest` runs, or all, of an experiment, by default of that with the latest run; newest first.

    Return its name, the runs, and whether there are older ones; raise a StoreError if there is no such experiment.
    """
    with store_errors(client.tracking_uri):
        experiment_id = latest_experiment_id(client, name)
        found = _search_runs(client, [experiment_id], "", newest and newest + 1)
        title = client.get_experiment(experiment_id).name
    return title, found[:newest], newest is not None and len(found) > newest


def metric_history(client: "MlflowClient", run: RunRecord) -> dict[str, list[tuple[int, float]]]:
    """Return every point of every metric of a run: (epoch, value), sorted by epoch."""
    with store_errors(client.tracking_uri):
        return {
            key: sorted((point.step, point.value) for point in client.get_metric_history(run.run_id, key))
            for key in run.metrics
        }


def _search_runs(
    client: "MlflowClient", experiment_ids: list[str], filter_string: str, limit: int | None = None
) -> list[RunRecord]:
    if not experiment_ids:
        return []
    runs = search_pages(client.search_runs, limit, experiment_ids=experiment_ids, filter_string=filter_string)
    running = {run.info.experiment_id for run in runs if run.info.status == "RUNNING"}
    dead = mark_dead_runs(client, sorted(running)) if running else []
    records = []
    for info, data in ((run.info, run.data) for run in runs):
        status = "KILLED" if info.run_id in dead else info.status
        facts = (info.run_id, info.run_name or "", status, info.start_time or 0, info.end_time)
        params = _distinct_params(client, info.run_id, data.params)
        records.append(RunRecord(*facts, params, dict(data.metrics), dict(data.tags)))
    return records


def _distinct_params(client: "MlflowClient", run_id: str, params: Mapping[str, str]) -> dict[str, str]:
    """Return a run's params, with a digest of the whole value in those that MLflow cut, if the run has its config."""
    cut = [key for key, value in params.items() if len(value) > LONGEST_PARAM]
    if not cut:
        return dict(params)
    try:
        with TemporaryDirectory() as folder:
            text = Path(client.download_artifacts(run_id, CONFIG_ARTIFACT, folder)).read_text(encoding="utf-8")
        whole = flatten_config(yaml.safe_load(text))
    except Exception:  # of another program, or damaged: resuming or repeating the run says so
        return dict(params)
    return {**params, **{key: shorten_marked(str(whole[key]), LONGEST_PARAM) for key in cut if key in whole}}
