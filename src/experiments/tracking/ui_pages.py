"""Addresses of pages of MLflow's UI, and the views (columns, order, charts) with which they open."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from experiments.config.metrics import finished_run_metrics
from experiments.tracking.operations import view_tag
from experiments.tracking.store import get_mlflow_run, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

TABLE_PARAMS = ("data.name", "model.name", "optimizer.name", "optimizer.learning_rate")
VIEW_NAME = "results"  # the view of an experiment's runs with these columns
CHILDREN_FILTER = "tags.`mlflow.parentRunId` = '{}'"
_MOST_AXES = 12  # params in the charts of a sweep
_MOST_CHARTED = 1000  # runs in the charts of a sweep


def runs_table_page(experiment_id: str, tags: Mapping[str, str]) -> str:
    """Return the address, without the server, of the table of an experiment's runs, in our view if `tags` have it."""
    view = f"&viewStateShareKey={VIEW_NAME}" if view_tag(VIEW_NAME) in tags else ""
    return f"{_table_address(experiment_id)}{view}"


def sweep_table_page(experiment_id: str, parent_id: str) -> str:
    """Return the address of the table of a sweep's runs, best first, in the view made by `sweep_view`."""
    return f"{_table_address(experiment_id)}&viewStateShareKey={parent_id}"


def charts_page(table: str) -> str:
    """Return the address of the charts for a table of runs."""
    return f"{table}&compareRunsMode=CHART"


def compare_page(experiment_id: str, run_ids: Sequence[str]) -> str:
    """Return the address of the page that compares runs side by side."""
    lists = (quote(json.dumps(ids, separators=(",", ":"))) for ids in (run_ids, [experiment_id]))
    return "/#/compare-runs?runs={}&experiments={}&workflowType=machine_learning".format(*lists)


def run_page(experiment_id: str, run_id: str) -> str:
    """Return the address of the page of a run."""
    return f"/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def table_columns() -> list[str]:
    """Return the columns of the runs table: by default the UI shows neither metrics nor params.

    Those that no run has are hidden.
    """
    metrics = [name for name, metric in finished_run_metrics().items() if metric.column]
    return [*(f"metrics.`{name}`" for name in metrics), *(f"params.`{name}`" for name in TABLE_PARAMS)]


def sweep_metrics() -> list[str]:
    """Return the columns beside the objective in the runs table of a sweep."""
    final = finished_run_metrics().items()
    return [n for n, m in final if m.column and m.ranked and m.direction and not n.startswith("best_")]


def runs_view() -> str:
    """Return the state of the runs table, in the form that the UI uses for shared views."""
    return json.dumps({"selectedColumns": ["attributes.`Duration`", *table_columns()]})


def sweep_view(
    parent_id: str, params: Sequence[str], charted: Sequence[str], metric: str, mode: Literal["min", "max"]
) -> str:
    """Return the state of the runs table and the charts for the children of a run.

    Columns are `params` and the seed, axes `charted`, params with single values. The best of `metric` comes first.
    """
    # Params come before metrics, and the most important first, because the UI cuts columns off on the right.
    metrics = list(dict.fromkeys([metric, *sweep_metrics()]))
    varied = list(dict.fromkeys([*params, "seed"]))
    columns = [*(f"params.`{name}`" for name in varied), *(f"metrics.`{name}`" for name in metrics)]
    chart = {"metricSectionId": "sweep", "runsCountToCompare": _MOST_CHARTED, "deleted": False, "isGenerated": False}
    axes = list(charted)[:_MOST_AXES]
    parallel = {"type": "PARALLEL", "selectedParams": axes, "selectedMetrics": [metric], "showAllRuns": False}
    scatter: dict[str, object] = {"type": "SCATTER", "yaxis": {"key": metric, "type": "METRIC"}}
    charts: list[dict[str, object]] = [parallel]
    charts += [{**scatter, "xaxis": {"key": name, "type": "PARAM"}} for name in axes]
    # Below this section the UI adds its own, with all metrics.
    section = {"uuid": "sweep", "name": "Sweep", "display": True, "isReordered": False}
    state = {
        "selectedColumns": [*columns, "attributes.`Duration`"],
        "columnOrder": ["attributes.`Run Name`", *columns, "duration", "runDateAndNestInfo"],
        "columnWidths": {"attributes.`Run Name`": 300} | {name: 24 + 8 * max(9, len(name) - 10) for name in columns},
        "searchFilter": CHILDREN_FILTER.format(parent_id),
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": mode == "min",
        "runsHiddenMode": "SHOW_ALL",  # otherwise the charts show only the first ten
        "isAccordionReordered": True,  # otherwise the UI puts its own section first
    }
    if axes:
        charts = [{"uuid": f"sweep-{number}", **chart, **own} for number, own in enumerate(charts)]
        state |= {"compareRunCharts": charts, "compareRunSections": [section]}
    return json.dumps(state)


def _table_address(experiment_id: str) -> str:
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def sweep_page(client: "MlflowClient", parent_id: str) -> str:
    """Return the address of the table of a sweep's runs, or raise a StoreError.

    It is filtered if the sweep has no view, as those of other programs.
    """
    with store_errors(client.tracking_uri):
        experiment_id = get_mlflow_run(client, client.tracking_uri, parent_id).info.experiment_id
        if view_tag(parent_id) in client.get_experiment(experiment_id).tags:
            return sweep_table_page(experiment_id, parent_id)
        return f"{_table_address(experiment_id)}&searchFilter={quote(CHILDREN_FILTER.format(parent_id))}"
