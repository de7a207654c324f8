"""A comparison as text, table or figure; the numbers are from comparison.py."""

import json
import math
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from experiments.comparison.code_changes import find_code_changes, recorded_code, recorded_data
from experiments.comparison.comparison import Comparison, ComparisonError
from experiments.formatting import (
    LONGEST_CELL,
    format_with_spread,
    plural,
    printable,
    short_id_length,
    shorten,
    shorten_marked,
)
from experiments.tracking.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table


def comparison_csv(comparison: Comparison) -> str:
    """Return a line for each run or group, best first, with all metrics.

    A parameter with the name of another column is written `params.NAME`.
    """
    import pandas as pd

    first = [group[0] for group in comparison.groups]
    about: dict[str, Any] = {key: [getattr(run, key) for run in first] for key in ("run_id", "name", "status")}
    if comparison.group_by is not None:
        ids = [" ".join(run.run_id for run in group) for group in comparison.groups]
        about = {"n": list(map(len, comparison.groups)), "run_ids": ids}
    facts = {
        "git_commit": [recorded_code(run)[0] for run in first],
        "git_dirty": [str(recorded_code(run)[1]).lower() for run in first],
        "data_digest": [recorded_data(run) for run in first],
    }
    frames = {"": comparison.mean}
    if comparison.group_by is not None:
        frames = {"_mean": comparison.mean, "_std": comparison.std, "_n": comparison.count}
    frames["_difference"] = comparison.difference
    metrics = {f"{name}{end}": frame[name] for name in comparison.mean for end, frame in frames.items()}
    taken = {*about, *facts, *metrics}
    params = {f"params.{name}" if name in taken else name: comparison.values(name) for name in comparison.params}
    return str(pd.DataFrame(about | params | facts | metrics).to_csv(index=False))


def comparison_json(comparison: Comparison) -> str:
    """Return all of the comparison as JSON; NaN and infinity, which JSON does not have, are null."""
    grouped, runs = comparison.group_by is not None, comparison.runs
    rows = []
    for position, group in enumerate(comparison.groups):
        run = group[0]
        count = comparison.count.loc[position]
        mean, std, difference = (
            {name: float(x) if math.isfinite(x := frame.at[position, name]) else None for name in frame if count[name]}
            for frame in (comparison.mean, comparison.std, comparison.difference)
        )
        about: dict[str, Any] = {"n": len(group), "run_ids": [run.run_id for run in group]}
        if not grouped:
            about = {key: getattr(run, key) for key in ("run_id", "name", "status", "start_time")}
        statistics = {name: {"mean": mean[name], "std": std[name], "n": int(count[name])} for name in mean}
        about["params"] = {name: _json_value(run.params[name]) for name in comparison.params if name in run.params}
        about |= {"metrics": statistics if grouped else mean, "difference": difference}
        about["git_commit"], about["git_dirty"] = recorded_code(run)
        rows.append(about | {"data_digest": recorded_data(run)})
    tree = {key: getattr(comparison, key) for key in ("metric", "mode", "group_by")} | {
        "differing_params": comparison.params,
        "groups" if grouped else "runs": rows,
        "left_out": [run.run_id for run in comparison.left_out],
        "code_differs": len({recorded_code(run) for run in runs}) > 1,
        "code_changes": [{"command": command, "files": files} for command, files in find_code_changes(runs).items()],
        "data_differs": len({recorded_data(run) for run in runs}) > 1,
    }
    return json.dumps(tree, indent=2, allow_nan=False)


def _json_value(text: str) -> str | int | float:
    """Return text as a number if nothing is lost: `007` remains text."""
    for kind in (int, float):
        with suppress(ValueError):
            if math.isfinite(value := kind(text)) and str(value) == text:
                return value
    return text


def comparison_table(comparison: Comparison, width: int | None = None) -> tuple["Table", list[str]]:
    """Return a table for the terminal, best first, and the metrics left out for lack of room in `width` characters.

    If it is too wide and there are few runs, each has a column.
    """
    from rich.table import Table
    from rich.text import Text

    keys = _run_columns(comparison)
    metrics = {printable(name): _metric_cells(comparison, name) for name in comparison.mean}
    hidden: list[str] = []
    rows = _table_rows(keys | metrics)
    if width is not None and _table_width(rows) > width:
        sideways = list(zip(*rows, strict=True))
        if _table_width(sideways) <= width:
            rows = sideways
        while _table_width(rows) > width and len(metrics) > 1:
            hidden.insert(0, metrics.popitem()[0])
            rows = _table_rows(keys | metrics)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in rows[0]:
        table.add_column(Text(header), no_wrap=width is None or header in metrics, overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table, hidden


def _table_rows(columns: dict[str, list[str]]) -> list[tuple[str, ...]]:
    return list(zip(*([name, *cells] for name, cells in columns.items()), strict=True))


def _table_width(rows: list[tuple[str, ...]]) -> int:
    return sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True)) - 2


def _run_columns(comparison: Comparison) -> dict[str, list[str]]:
    """Return the columns before the metrics, which distinguish the runs."""
    runs, first = comparison.runs, [group[0] for group in comparison.groups]
    codes, data = [recorded_code(run) for run in first], [recorded_data(run) for run in first]
    columns: dict[str, list[str]] = {}
    if comparison.group_by is None:
        length = short_id_length(run.run_id for run in runs)
        columns["run"] = [run.run_id[:length] for run in first]
        columns["name"] = [printable(shorten(run.name, 40)) for run in first]
        if any(run.status != "FINISHED" for run in runs):
            columns["status"] = [printable(run.status) for run in first]
    for name in comparison.params:
        values = ("-" if value is None else value for value in comparison.values(name))
        columns[printable(name)] = [printable(shorten_marked(value, LONGEST_CELL)) for value in values]
    if comparison.group_by is not None:
        columns["n"] = [str(len(group)) for group in comparison.groups]
    if len(set(codes)) > 1:
        columns["code"] = [(printable(commit[:8]) or "-") + "+" * dirty for commit, dirty in codes]
    if len(set(data)) > 1:
        columns["data"] = [printable(digest[:8]) or "-" for digest in data]
    return columns


def _metric_cells(comparison: Comparison, name: str) -> list[str]:
    """Return a metric's cells, the numbers and the brackets each in line."""
    values, brackets = [], []
    frames = (comparison.mean, comparison.std, comparison.count, comparison.difference)
    for group, mean, std, count, difference in zip(comparison.groups, *(f[name] for f in frames), strict=True):
        some = f" n={count}" if 0 < count < len(group) else ""
        values.append(format_with_spread(mean, std) + some if count else "-")
        brackets.append("" if math.isnan(difference) else "(best)" if difference == 0 else f"({difference:+.2g})")
    left, right = max(map(len, values)), max(map(len, brackets))
    return [f"{value:>{left}} {bracket:>{right}}".rstrip() for value, bracket in zip(values, brackets, strict=True)]


def comparison_figure(comparison: Comparison) -> "Figure":
    """Draw the metric that ranks: over the parameter that varies, over two as lines or a heat map, else for each run.

    Raises:
        ComparisonError: no run has a metric.
    """
    from experiments.reports.figures.comparison import MOST_LINES, heat_map, over_parameter, ranking

    metric = comparison.metric
    if metric is None:
        raise ComparisonError("There is nothing to plot: no run has a metric.")
    has = comparison.count[metric] > 0
    mean, std = comparison.mean.loc[has, metric], comparison.std.loc[has, metric].fillna(0)
    groups = [group for group, there in zip(comparison.groups, has, strict=True) if there]
    number = plural(len(comparison.runs), "run")
    subtitle = number + (f", mean ± standard deviation over {comparison.group_by}" if comparison.group_by else "")
    varying = [name for name in comparison.params if name != "seed"]
    values = {name: [axis_value(group[0].params.get(name)) for group in groups] for name in varying}
    numeric = [name for name in varying if all(isinstance(value, float) for value in values[name])]
    numeric.sort(key=lambda name: -len(set(values[name])))
    axes = {name: values[name] for name in (*numeric, *varying)}
    if len(axes) == len(numeric) == 2 and is_grid(*axes.values()):
        averaged = f"{number}, mean over {comparison.group_by}" if comparison.group_by else number
        return heat_map(metric, axes, mean, comparison.mode, averaged)
    if numeric and (len(axes) == 1 or (len(axes) == 2 and len(set(list(axes.values())[1])) <= MOST_LINES)):
        return over_parameter(metric, axes, mean, std, subtitle)
    return ranking(metric, _group_labels(comparison, groups), mean, std, subtitle=subtitle)


def is_grid(x: list[float | str], y: list[float | str]) -> bool:
    """Return whether most combinations exist, and are few enough to write a number into each cell."""
    rows, columns = len(set(x)), len(set(y))
    filled = len(set(zip(x, y, strict=True))) / (rows * columns)
    return min(rows, columns) > 1 and max(rows, columns) <= 20 and filled >= 0.75


def axis_value(text: str | None) -> float | str:
    """Return a parameter's value as a number if it is one, or a list of one such as `[128]`."""
    text = (text or "").strip("[]")
    with suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    return text


def _group_labels(comparison: Comparison, groups: list[list[RunRecord]]) -> list[str]:
    if comparison.group_by is None:
        runs = [group[0] for group in groups]
        uses = Counter(run.name for run in runs)
        length = short_id_length(run.run_id for run in comparison.runs)
        return [run.name if uses[run.name] == 1 else f"{run.name} {run.run_id[:length]}" for run in runs]
    names = {param: param.rsplit(".", 1)[-1] for param in comparison.params}
    return [" ".join(f"{names[p]}={group[0].params.get(p, '-')}" for p in names) or "all" for group in groups]
