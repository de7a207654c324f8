"""Runs side by side: which parameters, code and data differ, and how far metrics are from the best."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.comparison.code_changes import find_code_changes, recorded_code, recorded_data
from experiments.config.identity import affects_result
from experiments.config.metrics import Mode, find_metric, preferred_metrics, shown_position
from experiments.errors import UserError, did_you_mean
from experiments.formatting import plural, printable
from experiments.tracking.records import RunRecord
from experiments.tracking.system_metrics import SYSTEM_PREFIX

if TYPE_CHECKING:
    import pandas as pd


_HIGHER = r"acc|auc|f1|precision|recall|score|reward|throughput|per_second|(?<![a-z])r2"
_LOWER = r"loss|err|seconds|duration|(?<![a-z])time|mse|mae|deviation|perplexity"


class ComparisonError(UserError):
    """Runs that cannot be compared as requested: what was requested, and the choices."""


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, best first. The frames have a row for each group and a column for each metric, NaN if a group
    does not have it."""

    groups: list[list[RunRecord]]  # of one run each, unless grouped
    group_by: str | None  # one parameter, or several with commas
    left_out: list[RunRecord]  # unfinished runs, which are left out of means
    params: list[str]  # that differ
    bookkeeping: list[str]  # that also differ, without effect on results
    metric: str | None  # that ranks; None if there are no metrics
    mode: Mode
    mean: "pd.DataFrame"
    std: "pd.DataFrame"  # of the sample (n - 1); NaN for one run
    count: "pd.DataFrame"  # runs that have the metric
    difference: "pd.DataFrame"  # from the best group; NaN if the better direction of the metric is unknown

    @property
    def runs(self) -> list[RunRecord]:
        return [run for group in self.groups for run in group]

    def values(self, param: str) -> list[str | None]:
        """Return the parameter's value in each group; None if it has none."""
        return [group[0].params.get(param) for group in self.groups]


def compare_runs(
    runs: Sequence[RunRecord], metric: str | None = None, mode: Mode | None = None, group_by: str | None = None
) -> Comparison:
    """Rank runs, those without the metric last and ties in their order, or raise a ComparisonError.

    Args:
        metric: that ranks; by default `test_accuracy` if all finished runs have it, else `best_val_accuracy`, ...
        mode: whether the least or the greatest value is best; by default it depends on the metric.
        group_by: a parameter such as `seed`, or several as `seed,data.fold`: finished runs of equal code and data that
            differ only in them form a group.
    """
    import pandas as pd

    if not runs:
        raise ComparisonError("There are no runs to compare. Make one: python run.py")
    left_out: list[RunRecord] = []
    if group_by is not None:
        for averaged in group_by.split(","):
            _check_choice("parameter", averaged, {name for run in runs for name in run.params})
        left_out = [run for run in runs if run.status != "FINISHED"]
        runs = [run for run in runs if run.status == "FINISHED"]
        if not runs:
            raise ComparisonError(f"None of the {len(left_out)} runs is finished, so there is nothing to average.")
    measured = ({k: v for k, v in run.metrics.items() if not k.startswith(SYSTEM_PREFIX)} for run in runs)
    metrics = pd.DataFrame(measured, dtype=float)
    metrics = metrics[sorted(metrics, key=shown_position)]
    if metric is not None:
        _check_choice("metric", metric, set(metrics))
    elif len(metrics.columns):
        finished = [run.status == "FINISHED" for run in runs]
        metric = _default_metric(metrics[finished] if any(finished) else metrics)
    modes = {name: metric_direction(name) for name in metrics}
    if metric is not None:
        metrics.insert(0, metric, metrics.pop(metric))
        mode = modes[metric] = mode or modes[metric] or "max"

    labels = [_group_identity(run, group_by) for run in runs] if group_by else [run.run_id for run in runs]
    grouped = metrics.groupby(pd.factorize(pd.Series(labels))[0])
    mean, std, count = grouped.mean(), grouped.std(), grouped.count()
    best = pd.Series({name: getattr(mean[name], mode)() if mode else math.nan for name, mode in modes.items()})
    ranked = mean if metric is None else mean[metric].sort_values(ascending=mode == "min", kind="stable")
    order = list(ranked.index)
    mean, std, count = (frame.loc[order].reset_index(drop=True) for frame in (mean, std, count))
    averaged_over = (group_by or "").split(",")
    names = dict.fromkeys(name for run in runs for name in run.params if name not in averaged_over)
    differing = [name for name in names if len({run.params.get(name) for run in runs}) > 1]
    return Comparison(
        groups=[[runs[i] for i in grouped.indices[number]] for number in order],
        group_by=group_by,
        left_out=left_out,
        params=[name for name in differing if affects_result(name)],
        bookkeeping=[name for name in differing if not affects_result(name)],
        metric=metric,
        mode=mode or "max",
        mean=mean,
        std=std,
        count=count,
        difference=mean - best,
    )


def metric_direction(metric: str) -> Mode | None:
    """Return whether the least or the greatest value of a metric is best; None if its name does not show it.

    >>> [metric_direction(name) for name in ("test_accuracy", "val_loss", "examples_per_second", "best_epoch")]
    ['max', 'min', 'max', None]
    """
    if known := find_metric(metric):
        return known.direction
    name = metric.lower()  # logged by another program
    return "max" if re.search(_HIGHER, name) else "min" if re.search(_LOWER, name) else None


def _default_metric(metrics: "pd.DataFrame") -> str:
    """Return the first preferred metric that all runs have, else the one that most have."""
    count = metrics.count()
    preferred = [name for name in preferred_metrics() if name in metrics]
    complete = [name for name in preferred if count[name] == len(metrics)]
    others = sorted(metrics.columns.difference(preferred, sort=False), key=lambda name: metric_direction(name) is None)
    return complete[0] if complete else max([*preferred, *others], key=lambda name: count[name])


def _group_identity(run: RunRecord, group_by: str) -> str:
    """Return what the runs of a group have in common."""
    params = {k: v for k, v in run.params.items() if k not in group_by.split(",") and affects_result(k)}
    return json.dumps([params, recorded_code(run), recorded_data(run)], sort_keys=True)


def _check_choice(what: str, name: str, choices: Collection[str]) -> None:
    if name not in choices:
        known = sorted(choices)
        listed = ", ".join(known[:40]) + (f" and {len(known) - 40} more" if len(known) > 40 else "")
        suggestion = did_you_mean(name, known)
        raise ComparisonError(f"No run has the {what} {name!r}{suggestion}. Choices: {listed or 'none'}.")


def comparison_notes(comparison: Comparison) -> list[str]:
    """Describe, in lines of text, how the runs are ranked and how their code and data differ."""
    runs = comparison.runs
    lines = []
    if comparison.metric is not None:
        better = "lower" if comparison.mode == "min" else "higher"
        lines.append(f"Best first by {printable(comparison.metric)}: {better} is better.")
    if len(runs) > 1 and not comparison.params:
        but = f" but {comparison.group_by}" if comparison.group_by else ""
        lines.append(f"All parameters{but} are the same.")
    if comparison.bookkeeping:
        lines.append(f"Also different, without effect on results: {printable(', '.join(comparison.bookkeeping))}.")
    commits = Counter(recorded_code(run)[0] for run in runs)
    if len(commits) > 1:
        lines.append(f"The code differs: {_count_values(commits)}.")
        changes = find_code_changes(runs)
        for command, summary in list(changes.items())[-5:]:
            files = summary or "these commits are not both in this repository"
            lines += [f"  {command}", *(f"    {line.strip()}" for line in files.splitlines())]
        if len(changes) > 5:
            lines.append(f"  and {len(changes) - 5} earlier changes; --format json has all")
    dirty = sum(recorded_code(run)[1] for run in runs)
    if dirty:
        marked = " (+)" if len({recorded_code(run) for run in runs}) > 1 else ""
        lines.append(
            f"{dirty} of {plural(len(runs), 'run')} had uncommitted changes{marked}, so runs of the same commit may"
            " differ in code too: see environment/uncommitted.diff among their artifacts."
        )
    digests = Counter(recorded_data(run) for run in runs)
    if len(digests) > 1:
        lines.append(f"The data differs: {_count_values(digests)}.")
    return lines


def _count_values(values: Counter[str]) -> str:
    common = values.most_common()
    return ", ".join(f"{printable(value[:12]) or 'not recorded'} ({plural(n, 'run')})" for value, n in common)
