"""A comparison as text, table or figure; the numbers are those of compare.py."""

import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from experiments.comparison.code_changes import find_code_changes, recorded_code, recorded_data
from experiments.comparison.comparison import Comparison, ComparisonError
from experiments.formatting import format_with_spread, plural, printable, short_id_length, shorten
from experiments.tracking.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table


def comparison_csv(comparison: Comparison) -> str:
    """One line for each run or group, best first; all metrics. A parameter of the same name as another column is
    written `params.NAME`."""
    import pandas as pd

    columns: dict[str, Any] = {}
    first = [group[0] for group in comparison.groups]
    if comparison.group_by is None:
        columns |= {key: [getattr(run, key) for run in first] for key in ("run_id", "name", "status")}
    else:
        columns["n"] = [len(group) for group in comparison.groups]
        columns["run_ids"] = [" ".join(run.run_id for run in group) for group in comparison.groups]
    params = {name: comparison.values(name) for name in comparison.params}
    facts = {
        "git_commit": [recorded_code(run)[0] for run in first],
        "git_dirty": [str(recorded_code(run)[1]).lower() for run in first],
        "data_digest": [recorded_data(run) for run in first],
    }
    numbers = {}
    for name in comparison.mean:
        if comparison.group_by is None:
            numbers[name] = comparison.mean[name]
        else:
            numbers[f"{name}_mean"] = comparison.mean[name]
            numbers[f"{name}_std"] = comparison.std[name]
            numbers[f"{name}_n"] = comparison.count[name]
        numbers[f"{name}_difference"] = comparison.difference[name]
    taken = {*columns, *facts, *numbers}
    columns |= {f"params.{name}" if name in taken else name: values for name, values in params.items()}
    return str(pd.DataFrame(columns | facts | numbers).to_csv(index=False))


def comparison_json(comparison: Comparison) -> str:
    """All of the comparison; numbers that JSON does not have (NaN, infinity) are null."""
    rows = []
    for position, group in enumerate(comparison.groups):
        run = group[0]
        metrics = [name for name in comparison.mean if comparison.count.at[position, name]]
        row: dict[str, Any]
        if comparison.group_by is None:
            row = {"run_id": run.run_id, "name": run.name, "status": run.status, "start_time": run.start_time}
        else:
            row = {"n": len(group), "run_ids": [run.run_id for run in group]}
        row["params"] = {name: _json_value(run.params[name]) for name in comparison.params if name in run.params}
        mean, std, count = comparison.mean, comparison.std, comparison.count
        if comparison.group_by is None:
            row["metrics"] = {name: _finite_or_none(mean.at[position, name]) for name in metrics}
        else:
            row["metrics"] = {
                name: {
                    "mean": _finite_or_none(mean.at[position, name]),
                    "std": _finite_or_none(std.at[position, name]),
                    "n": int(count.at[position, name]),
                }
                for name in metrics
            }
        row["difference"] = {name: _finite_or_none(comparison.difference.at[position, name]) for name in metrics}
        row |= {
            "git_commit": recorded_code(run)[0],
            "git_dirty": recorded_code(run)[1],
            "data_digest": recorded_data(run),
        }
        rows.append(row)
    runs = comparison.runs
    changes = find_code_changes(runs)
    tree = {
        "metric": comparison.metric,
        "mode": comparison.mode,
        "group_by": comparison.group_by,
        "differing_params": comparison.params,
        "runs" if comparison.group_by is None else "groups": rows,
        "left_out": [run.run_id for run in comparison.left_out],
        "code_differs": len({recorded_code(run) for run in runs}) > 1,
        "code_changes": [{"command": change.command, "files": change.files} for change in changes],
        "data_differs": len({recorded_data(run) for run in runs}) > 1,
    }
    return json.dumps(tree, indent=2, allow_nan=False)


def _finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _json_value(text: str) -> str | int | float:
    """A number where that loses nothing: `007` stays text."""
    value = _to_number(text)
    return value if str(value) == text else text


def _to_number(text: str) -> str | int | float:
    """The parameter as a number if it is one."""
    for kind in (int, float):
        try:
            value: int | float = kind(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else text
    return text


def comparison_table(comparison: Comparison, width: int | None = None) -> tuple["Table", list[str]]:
    """A table for the terminal, best first; few runs that are too wide for it side by side.

    Args:
        width: characters that there are; None for any number.

    Returns:
        The table, and the metrics that it had no room for.
    """
    from rich.table import Table
    from rich.text import Text

    keys, metrics = (
        _table_columns(comparison),
        {printable(name): _metric_cells(comparison, name) for name in comparison.mean},
    )
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


def _table_columns(comparison: Comparison) -> dict[str, list[str]]:
    """The columns of the table before the metrics: what tells the runs apart."""
    first = [group[0] for group in comparison.groups]
    runs = comparison.runs
    columns: dict[str, list[str]] = {}
    if comparison.group_by is None:
        length = short_id_length(run.run_id for run in runs)
        columns["run"] = [run.run_id[:length] for run in first]
        columns["name"] = [_shorten_cell(run.name) for run in first]
        if any(run.status != "FINISHED" for run in runs):
            columns["status"] = [printable(run.status) for run in first]
    for name in comparison.params:
        columns[printable(name)] = ["-" if value is None else _shorten_cell(value) for value in comparison.values(name)]
    if comparison.group_by is not None:
        columns["n"] = [str(len(group)) for group in comparison.groups]
    if len({recorded_code(run) for run in runs}) > 1:
        columns["code"] = [(printable(recorded_code(run)[0][:8]) or "-") + "+" * recorded_code(run)[1] for run in first]
    if len({recorded_data(run) for run in runs}) > 1:
        columns["data"] = [printable(recorded_data(run)[:8]) or "-" for run in first]
    return columns


def _metric_cells(comparison: Comparison, name: str) -> list[str]:
    """A metric's cells, the numbers and the brackets each in line."""
    values, brackets = [], []
    frames = (comparison.mean, comparison.std, comparison.count, comparison.difference)
    for group, mean, std, count, difference in zip(comparison.groups, *(f[name] for f in frames), strict=True):
        some = f" n={count}" if 0 < count < len(group) else ""
        values.append(format_with_spread(mean, std) + some if count else "-")
        brackets.append("" if math.isnan(difference) else "(best)" if difference == 0 else f"({difference:+.2g})")
    left, right = max(map(len, values)), max(map(len, brackets))
    return [f"{value:>{left}} {bracket:>{right}}".rstrip() for value, bracket in zip(values, brackets, strict=True)]


def _shorten_cell(text: str) -> str:
    return printable(shorten(text, 40))


def comparison_figure(comparison: Comparison) -> "Figure":
    """The metric that ranks: over the parameter that varies, over two as lines or a heat map, else for each run.

    Raises:
        CompareError: if no run has a metric.
    """
    from experiments.reports.figures.comparison import MOST_LINES, heat_map, over_parameter, ranking

    if comparison.metric is None:
        raise ComparisonError("There is nothing to plot: no run has a metric.")
    has = comparison.count[comparison.metric] > 0
    mean, std = comparison.mean.loc[has, comparison.metric], comparison.std.loc[has, comparison.metric]
    groups = [group for group, there in zip(comparison.groups, has, strict=True) if there]
    metric, std = comparison.metric, std.fillna(0)
    what, spread = plural(len(comparison.runs), "run"), "mean ± standard deviation"
    if comparison.group_by is not None:
        what += f", {spread} over {comparison.group_by}"
    varying = [name for name in comparison.params if name != "seed"]
    values = {name: [axis_value(group[0].params.get(name)) for group in groups] for name in varying}
    numeric = [name for name in varying if all(isinstance(value, float) for value in values[name])]
    numeric.sort(key=lambda name: -len(set(values[name])))
    if len(varying) == 1 and numeric:
        return over_parameter(metric, numeric[0], values[numeric[0]], mean, std, subtitle=what)
    if len(varying) == 2 and numeric:
        x = numeric[0]
        (y,) = set(varying) - {x}
        if len(numeric) == 2 and is_grid(values[x], values[y]):
            return heat_map(metric, x, values[x], y, values[y], mean, comparison.mode, what.replace(spread, "mean"))
        if len(set(values[y])) <= MOST_LINES:
            return over_parameter(metric, x, values[x], mean, std, values[y], y, what)
    return ranking(metric, _group_labels(comparison, groups), mean, std, subtitle=what)


def is_grid(x: list[float | str], y: list[float | str]) -> bool:
    """Whether most of the combinations are there, and they are few enough to write a number into each."""
    rows, columns = len(set(x)), len(set(y))
    return (
        min(rows, columns) > 1
        and max(rows, columns) <= 20
        and len(set(zip(x, y, strict=True))) >= 0.75 * rows * columns
    )


def axis_value(text: str | None) -> float | str:
    """A parameter's value as a number if it is one, or a list of one such as `[128]`."""
    value = _to_number((text or "").strip("[]"))
    return value if isinstance(value, str) else float(value)


def _group_labels(comparison: Comparison, groups: list[list[RunRecord]]) -> list[str]:
    if comparison.group_by is None:
        names = Counter(group[0].name for group in groups)
        length = short_id_length(run.run_id for run in comparison.runs)
        return [r.name if names[r.name] == 1 else f"{r.name} {r.run_id[:length]}" for r in (g[0] for g in groups)]
    params = comparison.params
    return [
        " ".join(f"{p.rsplit('.', 1)[-1]}={group[0].params.get(p, '-')}" for p in params) or "all" for group in groups
    ]
