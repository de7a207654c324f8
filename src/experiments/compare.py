"""Sets runs side by side: what differs in parameters, code and data, and how far metrics are from the best."""

import difflib
import json
import math
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments import PROJECT
from experiments.errors import UserError
from experiments.runs import RunRecord

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.table import Table

Mode = Literal["min", "max"]

PREFERRED = ("test_accuracy", "best_val_accuracy", "test_loss", "val_accuracy", "val_loss", "accuracy", "loss")
BOOKKEEPING = ("tracking.", "report.", "data.path")  # parameters that change no result
_HIGHER = r"acc|auc|f1|precision|recall|score|reward|throughput|per_second|(?<![a-z])r2"
_LOWER = r"loss|err|seconds|duration|(?<![a-z])time|mse|mae|deviation|perplexity"
_ORDER = ("test_", "best_", "train_", "val_")  # of the metrics in tables


class CompareError(UserError):
    """Runs that cannot be compared as asked: what was asked for, what there is."""


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, best first. The frames have a row for each group and a column for each metric, NaN where a
    group has none of it."""

    groups: list[list[RunRecord]]  # of one run each, unless grouped
    group_by: str | None
    left_out: list[RunRecord]  # runs that are not finished: they enter no mean
    params: list[str]  # that differ
    bookkeeping: list[str]  # that differ too, and change no result
    metric: str | None  # that ranks; None if there are no metrics
    mode: Mode
    mean: "pd.DataFrame"
    std: "pd.DataFrame"  # of the sample (n - 1); NaN for one run
    count: "pd.DataFrame"  # runs that have the metric
    difference: "pd.DataFrame"  # to the best group; NaN where the name does not tell which direction is better

    @property
    def runs(self) -> list[RunRecord]:
        return [run for group in self.groups for run in group]

    def values(self, param: str) -> list[str | None]:
        """The parameter's value in each group; None where it has none."""
        return [group[0].params.get(param) for group in self.groups]


def compare(
    runs: Sequence[RunRecord], metric: str | None = None, mode: Mode | None = None, group_by: str | None = None
) -> Comparison:
    """Ranks runs, or groups of runs that differ in one parameter only.

    Args:
        runs: those without the metric come last; among equals the order stays.
        metric: that ranks; by default `test_accuracy` if all finished runs have it, else `best_val_accuracy`, ...
        mode: whether the least or the greatest value is best; by default the metric's name tells.
        group_by: a parameter such as `seed`: finished runs that differ only in it form a group. Runs of other code or
            other data do not join.

    Raises:
        CompareError: no runs, none finished to group, or a metric or parameter that no run has.
    """
    import pandas as pd

    if not runs:
        raise CompareError("There are no runs to compare. Make one: python run.py")
    left_out: list[RunRecord] = []
    if group_by is not None:
        _check_choice("parameter", group_by, {name for run in runs for name in run.params})
        left_out = [run for run in runs if run.status != "FINISHED"]
        runs = [run for run in runs if run.status == "FINISHED"]
        if not runs:
            raise CompareError(f"None of the {len(left_out)} runs is finished, so there is nothing to average.")
    metrics = pd.DataFrame([run.metrics for run in runs], dtype=float)
    metrics = metrics[sorted(metrics, key=_position)]
    if metric is not None:
        _check_choice("metric", metric, metrics.columns)
    elif len(metrics.columns):
        finished = [run.status == "FINISHED" for run in runs]
        metric = _default_metric(metrics[finished] if any(finished) else metrics)
    if metric is not None:
        metrics = metrics[[metric, *(name for name in metrics if name != metric)]]
    modes = {name: direction(name) for name in metrics}
    if metric is not None:
        mode = modes[metric] = mode or modes[metric] or "max"

    labels = [_identity(run, group_by) for run in runs] if group_by else [run.run_id for run in runs]
    numbers = pd.factorize(pd.Series(labels))[0]
    grouped = metrics.groupby(numbers)
    mean, std, count = grouped.mean(), grouped.std(), grouped.count()
    best = pd.Series({name: getattr(mean[name], mode)() if mode else math.nan for name, mode in modes.items()})
    order = list(mean.index)
    if metric is not None:
        order = list(mean[metric].sort_values(ascending=mode == "min", kind="stable").index)
    members: dict[int, list[RunRecord]] = {}
    for number, run in zip(numbers, runs, strict=True):
        members.setdefault(number, []).append(run)
    differing = [name for name in _differing(runs) if name != group_by]
    mean, std, count = (frame.loc[order].reset_index(drop=True) for frame in (mean, std, count))
    return Comparison(
        groups=[members[number] for number in order],
        group_by=group_by,
        left_out=left_out,
        params=[name for name in differing if not name.startswith(BOOKKEEPING)],
        bookkeeping=[name for name in differing if name.startswith(BOOKKEEPING)],
        metric=metric,
        mode=mode or "max",
        mean=mean,
        std=std,
        count=count,
        difference=mean - best,
    )


def direction(metric: str) -> Mode | None:
    """Whether the least or the greatest value of a metric is best, as far as its name tells.

    >>> direction("test_accuracy"), direction("val_loss"), direction("examples_per_second"), direction("best_epoch")
    ('max', 'min', 'max', None)
    """
    name = metric.lower()
    return "max" if re.search(_HIGHER, name) else "min" if re.search(_LOWER, name) else None


def _default_metric(metrics: "pd.DataFrame") -> str:
    """The preferred metric that all runs have, else that most have."""
    count = metrics.count()
    preferred = [name for name in PREFERRED if name in metrics]
    for name in preferred:
        if count[name] == len(metrics):
            return name
    others = sorted((name for name in metrics if name not in preferred), key=lambda name: direction(name) is None)
    return max([*preferred, *others], key=lambda name: count[name])


def _position(metric: str) -> tuple[int, str]:
    return next((i for i, prefix in enumerate(_ORDER) if metric.startswith(prefix)), len(_ORDER)), metric


def _differing(runs: Sequence[RunRecord]) -> list[str]:
    """The parameters that are not the same in all runs, in the order in which the runs have them."""
    names = dict.fromkeys(name for run in runs for name in run.params)
    return [name for name in names if len({run.params.get(name) for run in runs}) > 1]


def _identity(run: RunRecord, group_by: str) -> str:
    """What the runs of a group have in common."""
    params = {k: v for k, v in run.params.items() if k != group_by and not k.startswith(BOOKKEEPING)}
    return json.dumps([params, code(run), data(run)], sort_keys=True)


def _check_choice(what: str, name: str, choices: Iterable[str]) -> None:
    known = sorted(choices)
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    listed = ", ".join(known[:40]) + (f" and {len(known) - 40} more" if len(known) > 40 else "")
    raise CompareError(f"No run has the {what} {name!r}{meant}. Choices: {listed or 'none'}.")


# --- code and data --------------------------------------------------------------------------------------------------


def code(run: RunRecord) -> tuple[str, bool]:
    """The commit the run was made with, empty if not recorded, and whether there were uncommitted changes."""
    commit = run.tags.get("git_commit") or run.tags.get("mlflow.source.git.commit", "")
    return commit, run.tags.get("git_dirty", "").lower() == "true"


def data(run: RunRecord) -> str:
    """The digest of the run's data; empty if not recorded."""
    return run.tags.get("data_digest", "")


@dataclass(frozen=True)
class CodeChange:
    """Two commits that runs were made with, one after the other, and how to see what lies between."""

    older: str
    newer: str
    files: str  # git's summary of the changed files; empty if the repository does not have both commits

    @property
    def command(self) -> str:
        return f"git diff {self.older[:12]} {self.newer[:12]}"


def code_changes(runs: Sequence[RunRecord], project: Path = PROJECT) -> list[CodeChange]:
    """The steps between the commits of the runs, in the order in which they were first used."""
    in_order = (code(run)[0] for run in sorted(runs, key=lambda run: run.start_time))
    # Tags are foreign text, and this goes into a command.
    commits = list(dict.fromkeys(commit for commit in in_order if re.fullmatch("[0-9a-f]{7,64}", commit)))
    return [CodeChange(older, newer, _changed_files(older, newer, project)) for older, newer in pairwise(commits)]


def _changed_files(older: str, newer: str, project: Path) -> str:
    command = ["git", "diff", "--no-color", "--stat=100", "--stat-count=10", older, newer, "--"]
    try:
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, errors="replace")
    except FileNotFoundError:  # a machine without git
        return ""
    if done.returncode:
        return ""
    return done.stdout.rstrip() or "no file differs"


def notes(comparison: Comparison, project: Path = PROJECT) -> list[str]:
    """In lines of text: how the runs are ranked, and how their code and data differ."""
    runs = comparison.runs
    lines = []
    if comparison.metric is not None:
        better = "lower" if comparison.mode == "min" else "higher"
        lines.append(f"Best first by {plain(comparison.metric)}: {better} is better.")
    if len(runs) > 1 and not comparison.params:
        but = f" but {comparison.group_by}" if comparison.group_by else ""
        lines.append(f"All parameters{but} are the same.")
    if comparison.bookkeeping:
        lines.append(f"Also different, without effect on results: {plain(', '.join(comparison.bookkeeping))}.")
    commits = Counter(code(run)[0] for run in runs)
    if len(commits) > 1:
        lines.append(f"The code differs: {_counted(commits)}.")
        changes = code_changes(runs, project)
        for change in changes[-5:]:
            lines.append(f"  {change.command}")
            files = change.files or "these commits are not both in this repository"
            lines += [f"    {line.strip()}" for line in files.splitlines()]
        if len(changes) > 5:
            lines.append(f"  and {len(changes) - 5} earlier changes of code; --format json has all")
    dirty = sum(code(run)[1] for run in runs)
    if dirty:
        marked = " (+)" if len({code(run) for run in runs}) > 1 else ""
        lines.append(
            f"Uncommitted changes in {dirty} of {_runs(len(runs))}{marked}: code of one commit may differ too; "
            "see each run's environment/uncommitted.diff."
        )
    digests = Counter(data(run) for run in runs)
    if len(digests) > 1:
        lines.append(f"The data differs: {_counted(digests)}.")
    return lines


def _counted(values: Counter[str]) -> str:
    return ", ".join(f"{plain(value[:12]) or 'not recorded'} ({_runs(n)})" for value, n in values.most_common())


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number:,} runs"


# --- forms ----------------------------------------------------------------------------------------------------------


def as_csv(comparison: Comparison) -> str:
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
        "git_commit": [code(run)[0] for run in first],
        "git_dirty": [str(code(run)[1]).lower() for run in first],
        "data_digest": [data(run) for run in first],
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


def as_json(comparison: Comparison, project: Path = PROJECT) -> str:
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
        row["params"] = {name: _json(run.params[name]) for name in comparison.params if name in run.params}
        mean, std, count = comparison.mean, comparison.std, comparison.count
        if comparison.group_by is None:
            row["metrics"] = {name: _finite(mean.at[position, name]) for name in metrics}
        else:
            row["metrics"] = {
                name: {
                    "mean": _finite(mean.at[position, name]),
                    "std": _finite(std.at[position, name]),
                    "n": int(count.at[position, name]),
                }
                for name in metrics
            }
        row["difference"] = {name: _finite(comparison.difference.at[position, name]) for name in metrics}
        row |= {"git_commit": code(run)[0], "git_dirty": code(run)[1], "data_digest": data(run)}
        rows.append(row)
    runs = comparison.runs
    changes = code_changes(runs, project)
    tree = {
        "metric": comparison.metric,
        "mode": comparison.mode,
        "group_by": comparison.group_by,
        "differing_params": comparison.params,
        "runs" if comparison.group_by is None else "groups": rows,
        "left_out": [run.run_id for run in comparison.left_out],
        "code_differs": len({code(run) for run in runs}) > 1,
        "code_changes": [{"command": change.command, "files": change.files} for change in changes],
        "data_differs": len({data(run) for run in runs}) > 1,
    }
    return json.dumps(tree, indent=2, allow_nan=False)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _json(text: str) -> str | int | float:
    """A number where that loses nothing: `007` stays text."""
    value = _number(text)
    return value if str(value) == text else text


def _number(text: str) -> str | int | float:
    """The parameter as a number if it is one."""
    for kind in (int, float):
        try:
            value: int | float = kind(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else text
    return text


def as_table(comparison: Comparison, width: int | None = None) -> tuple["Table", list[str]]:
    """A table for the terminal, best first; few runs that are too wide for it side by side.

    Args:
        width: characters that there are; None for any number.

    Returns:
        The table, and the metrics that it had no room for.
    """
    from rich.table import Table
    from rich.text import Text

    keys, metrics = _columns(comparison), {plain(name): _metric_cells(comparison, name) for name in comparison.mean}
    hidden: list[str] = []
    rows = _rows(keys | metrics)
    if width is not None and _width(rows) > width:
        sideways = list(zip(*rows, strict=True))
        if _width(sideways) <= width:
            rows = sideways
        while _width(rows) > width and len(metrics) > 1:
            hidden.insert(0, metrics.popitem()[0])
            rows = _rows(keys | metrics)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in rows[0]:
        table.add_column(Text(header), no_wrap=width is None or header in metrics, overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table, hidden


def _rows(columns: dict[str, list[str]]) -> list[tuple[str, ...]]:
    return list(zip(*([name, *cells] for name, cells in columns.items()), strict=True))


def _width(rows: list[tuple[str, ...]]) -> int:
    return sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True)) - 2


def _columns(comparison: Comparison) -> dict[str, list[str]]:
    """The columns of the table before the metrics: what tells the runs apart."""
    first = [group[0] for group in comparison.groups]
    runs = comparison.runs
    columns: dict[str, list[str]] = {}
    if comparison.group_by is None:
        length = short_length(run.run_id for run in runs)
        columns["run"] = [run.run_id[:length] for run in first]
        columns["name"] = [_short(run.name) for run in first]
        if any(run.status != "FINISHED" for run in runs):
            columns["status"] = [plain(run.status) for run in first]
    for name in comparison.params:
        columns[plain(name)] = ["-" if value is None else _short(value) for value in comparison.values(name)]
    if comparison.group_by is not None:
        columns["n"] = [str(len(group)) for group in comparison.groups]
    if len({code(run) for run in runs}) > 1:
        columns["code"] = [(plain(code(run)[0][:8]) or "-") + "+" * code(run)[1] for run in first]
    if len({data(run) for run in runs}) > 1:
        columns["data"] = [plain(data(run)[:8]) or "-" for run in first]
    return columns


def _metric_cells(comparison: Comparison, name: str) -> list[str]:
    """A metric's cells, the numbers and the brackets each in line."""
    values, brackets = [], []
    frames = (comparison.mean, comparison.std, comparison.count, comparison.difference)
    for group, mean, std, count, difference in zip(comparison.groups, *(f[name] for f in frames), strict=True):
        some = f" n={count}" if 0 < count < len(group) else ""
        values.append(with_spread(mean, std) + some if count else "-")
        brackets.append("" if math.isnan(difference) else "(best)" if difference == 0 else f"({difference:+.2g})")
    left, right = max(map(len, values)), max(map(len, brackets))
    return [f"{value:>{left}} {bracket:>{right}}".rstrip() for value, bracket in zip(values, brackets, strict=True)]


def with_spread(mean: float, std: float) -> str:
    """The mean to the decimals that its spread leaves sure: `0.9785 ± 0.0012`."""
    if not math.isfinite(std):
        return f"{mean:.5g}"
    if std == 0:
        return f"{mean:.5g} ± 0"
    if not 1e-6 < std < 1e6:
        return f"{mean:.5g} ± {std:.2g}"
    return f"{mean:.{decimals(std)}f} ± {std:.{decimals(std)}f}"


def decimals(spread: float) -> int:
    """The decimals that a positive spread leaves sure: two digits of it."""
    return max(0, 1 - math.floor(math.log10(spread)))


def short_length(run_ids: Iterable[str]) -> int:
    """How many characters of the ids, 8 or more, tell the runs apart."""
    ids, length = set(run_ids), 8
    while len({run_id[:length] for run_id in ids}) < len(ids):
        length += 1
    return length


def plain(text: str) -> str:
    """The text without characters that a terminal would act on."""
    return "".join(character if character.isprintable() else "�" for character in text)


def escaped(text: str) -> str:
    """A line of text that Markdown leaves as it is, also in a cell of a table."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", plain(text.replace("\n", " ")))


def _short(text: str) -> str:
    return plain(text if len(text) <= 40 else text[:39] + "…")


# --- plot -----------------------------------------------------------------------------------------------------------


def figure(comparison: Comparison) -> "Figure":
    """The metric that ranks: over the parameter that varies, over two as lines or a heat map, else for each run.

    Raises:
        CompareError: if no run has a metric.
    """
    from experiments.figures import comparison as figures

    if comparison.metric is None:
        raise CompareError("There is nothing to plot: no run has a metric.")
    has = comparison.count[comparison.metric] > 0
    mean, std = comparison.mean.loc[has, comparison.metric], comparison.std.loc[has, comparison.metric]
    groups = [group for group, there in zip(comparison.groups, has, strict=True) if there]
    metric, std = comparison.metric, std.fillna(0)
    what, spread = _runs(len(comparison.runs)), "mean ± standard deviation"
    if comparison.group_by is not None:
        what += f", {spread} over {comparison.group_by}"
    varying = [name for name in comparison.params if name != "seed"]
    values = {name: [axis_value(group[0].params.get(name)) for group in groups] for name in varying}
    numeric = [name for name in varying if all(isinstance(value, float) for value in values[name])]
    numeric.sort(key=lambda name: -len(set(values[name])))
    if len(varying) == 1 and numeric:
        return figures.over_parameter(metric, numeric[0], values[numeric[0]], mean, std, subtitle=what)
    if len(varying) == 2 and numeric:
        x = numeric[0]
        (y,) = set(varying) - {x}
        if len(numeric) == 2 and is_grid(values[x], values[y]):
            return figures.heat_map(
                metric, x, values[x], y, values[y], mean, comparison.mode, what.replace(spread, "mean")
            )
        if len(set(values[y])) <= figures.LINES:
            return figures.over_parameter(metric, x, values[x], mean, std, values[y], y, what)
    return figures.ranking(metric, _labels(comparison, groups), mean, std, subtitle=what)


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
    value = _number((text or "").strip("[]"))
    return value if isinstance(value, str) else float(value)


def _labels(comparison: Comparison, groups: list[list[RunRecord]]) -> list[str]:
    if comparison.group_by is None:
        names = Counter(group[0].name for group in groups)
        length = short_length(run.run_id for run in comparison.runs)
        return [r.name if names[r.name] == 1 else f"{r.name} {r.run_id[:length]}" for r in (g[0] for g in groups)]
    params = comparison.params
    return [
        " ".join(f"{p.rsplit('.', 1)[-1]}={group[0].params.get(p, '-')}" for p in params) or "all" for group in groups
    ]
