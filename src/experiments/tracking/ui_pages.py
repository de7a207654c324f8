"""Pages of MLflow's UI that show our runs: their addresses, and the views (columns, order, charts) they open with."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from experiments.config.metrics import FINAL_METRICS
from experiments.tracking.store import get_mlflow_run, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient


# The columns of the runs table. MLflow's own choice has neither metrics nor params; what no run has is not shown.
TABLE_COLUMNS = {
    "metrics": [name for name, metric in FINAL_METRICS.items() if metric.column],
    "params": ["data.name", "model.name", "optimizer.name", "optimizer.learning_rate"],
}
# The columns beside the objective in the runs table of a sweep.
SWEEP_METRICS = [
    name
    for name, metric in FINAL_METRICS.items()
    if metric.column and metric.ranked and metric.direction and not name.startswith("best_")
]
VIEW_NAME = "results"  # the name of the view of an experiment's runs that has these columns
_MOST_AXES = 12  # parameters in the charts of a sweep
_MOST_CHARTED = 1000  # runs in them


def runs_table_page(experiment_id: str, tags: Mapping[str, str]) -> str:
    """Where the UI shows the runs of an experiment as a table, with the columns of this project if it made it: the
    part of the address after the server's.

    Args:
        tags: of the experiment.
    """
    view = f"&viewStateShareKey={VIEW_NAME}" if view_tag(VIEW_NAME) in tags else ""
    return f"{_table_address(experiment_id)}{view}"


def sweep_table_page(experiment_id: str, parent_id: str) -> str:
    """Where the UI shows the runs of a sweep as a table, best first, with the view that `sweep_view` describes:
    the part of the address after the server's."""
    return f"{_table_address(experiment_id)}&viewStateShareKey={parent_id}"


def filtered_table_page(experiment_id: str, parent_id: str) -> str:
    """The same of a sweep without that view, such as one of another program."""
    return f"{_table_address(experiment_id)}&searchFilter={quote(_children_filter(parent_id))}"


def charts_page(table: str) -> str:
    """The address of a table of runs, changed to that of their charts."""
    return f"{table}&compareRunsMode=CHART"


def compare_page(experiment_id: str, run_ids: Sequence[str]) -> str:
    """Where the UI shows runs side by side: the part of the address after the server's."""
    lists = (quote(json.dumps(ids, separators=(",", ":"))) for ids in (run_ids, [experiment_id]))
    return "/#/compare-runs?runs={}&experiments={}&workflowType=machine_learning".format(*lists)


def run_page(experiment_id: str, run_id: str) -> str:
    """Where the UI shows a run: the part of the address after the server's."""
    return f"/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def view_tag(name: str) -> str:
    """The tag of an experiment that holds the state of its view of this name."""
    return f"mlflow.sharedViewState.{name}"


def runs_view() -> str:
    """The state of the runs table, as the UI keeps it when somebody shares a view."""
    columns = [f"{group}.`{name}`" for group, names in TABLE_COLUMNS.items() for name in names]
    return json.dumps({"selectedColumns": ["attributes.`Duration`", *columns]})


def sweep_view(
    parent_id: str, params: Sequence[str], charted: Sequence[str], metric: str, mode: Literal["min", "max"]
) -> str:
    """The state of the runs table and of the charts for the children of a run, as the UI keeps it."""
    # What was varied stands before what came of it, and what matters is not the last: the UI cuts off on the right.
    metrics = list(dict.fromkeys([metric, *SWEEP_METRICS]))
    varied = list(dict.fromkeys([*params, "seed"]))
    columns = [*(f"params.`{name}`" for name in varied), *(f"metrics.`{name}`" for name in metrics)]
    chart = {"metricSectionId": "sweep", "runsCountToCompare": _MOST_CHARTED, "deleted": False, "isGenerated": False}
    axes = list(charted)[:_MOST_AXES]
    charts: list[dict[str, object]] = [
        {"type": "SCATTER", "xaxis": {"key": name, "type": "PARAM"}, "yaxis": {"key": metric, "type": "METRIC"}}
        for name in axes
    ]
    if axes:
        charts.insert(
            0, {"type": "PARALLEL", "selectedParams": axes, "selectedMetrics": [metric], "showAllRuns": False}
        )
    # The UI adds its own section with all metrics below.
    section = {"uuid": "sweep", "name": "Sweep", "display": True, "isReordered": False}
    state = {
        "selectedColumns": [*columns, "attributes.`Duration`"],
        "columnOrder": ["attributes.`Run Name`", *columns, "duration", "runDateAndNestInfo"],
        "columnWidths": {"attributes.`Run Name`": 300} | {name: 24 + 8 * max(9, len(name) - 10) for name in columns},
        "searchFilter": _children_filter(parent_id),
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": mode == "min",
        "runsHiddenMode": "SHOW_ALL",  # else the charts leave out all but the first ten
        "isAccordionReordered": True,  # else the UI sorts its own section before ours
    }
    if charts:
        charts = [{"uuid": f"sweep-{number}", **chart, **own} for number, own in enumerate(charts)]
        state |= {"compareRunCharts": charts, "compareRunSections": [section]}
    return json.dumps(state)


def _table_address(experiment_id: str) -> str:
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def _children_filter(parent_id: str) -> str:
    return f"tags.`mlflow.parentRunId` = '{parent_id}'"


def sweep_page(client: "MlflowClient", parent_id: str) -> str:
    """Where the UI shows the runs of a sweep; also of one without a view, such as one of another program.

    Raises:
        StoreError: there is no such run.
    """
    with store_errors(str(client.tracking_uri)):
        run = get_mlflow_run(client, str(client.tracking_uri), parent_id)
        experiment_id = run.info.experiment_id
        if view_tag(parent_id) in client.get_experiment(experiment_id).tags:
            return sweep_table_page(experiment_id, parent_id)
        return filtered_table_page(experiment_id, parent_id)
