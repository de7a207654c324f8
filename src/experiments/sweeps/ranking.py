"""The settings of a sweep, ranked over seeds and folds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from experiments.comparison.comparison import Comparison, Mode, compare_runs
from experiments.sweeps.significance import (
    FOLD_PARAM,
    half_interval,
    is_cross_validated,
    overlap_of,
    paired_tests,
    welch_tests,
)
from experiments.tracking.records import RunRecord

if TYPE_CHECKING:
    import pandas as pd

SEED_PARAM = "seed"


@dataclass(frozen=True)
class Leaderboard:
    """The settings of a sweep, best first: the finished runs, grouped over seeds."""

    comparison: Comparison  # of the runs that have the objective, ranked by it
    varied: list[str]  # the parameters that make a setting
    metric: str  # the objective
    mode: Mode

    @property
    def best(self) -> RunRecord:
        """The run of the best setting with the best value."""
        return (min if self.mode == "min" else max)(self.comparison.groups[0], key=lambda run: run.metrics[self.metric])

    @cached_property
    def table(self) -> "pd.DataFrame":
        """A row for each setting: what varies, `n` (runs), mean and standard deviation of the objective (of the
        sample, n - 1), the 95 % confidence interval of the mean, the difference of the mean to the best's, and the
        p-value of that difference: of Welch's t-test over seeds, or over folds of the paired t-test, and beside it of
        the one that is corrected for their overlap. What one run cannot show is NaN. See significance.py."""
        import numpy as np
        import pandas as pd

        groups, frames = self.comparison.groups, (self.comparison.mean, self.comparison.std, self.comparison.count)
        mean, std, n = (frame[self.metric].to_numpy(dtype=float) for frame in frames)
        half = half_interval(std, n, np.array([overlap_of(group) for group in groups]))
        p = {"p_value": welch_tests(mean, std, n)}
        if self.is_cross_validated:
            tests = [paired_tests(self.metric, group, groups[0]) for group in groups]
            p = dict(zip(("p_value", "p_corrected"), np.array(tests).T, strict=True))
        return pd.DataFrame(
            {name: self.comparison.values(name) for name in self.varied}
            | {
                "n": n.astype(int),
                f"{self.metric}_mean": mean,
                f"{self.metric}_std": std,
                "ci95_low": mean - half,
                "ci95_high": mean + half,
                "difference": mean - mean[0],
                **p,
                "run_ids": [" ".join(run.run_id for run in group) for group in groups],
            }
        )

    @property
    def is_cross_validated(self) -> bool:
        return is_cross_validated(self.comparison.runs)

    @property
    def over(self) -> str:
        """What the runs of a setting differ in."""
        return "seeds and folds" if self.is_cross_validated else "seeds"


def rank_children(children: Sequence[RunRecord], metric: str, mode: Mode, varied: Sequence[str]) -> Leaderboard | None:
    """Return the leaderboard of a sweep's runs, or None if no run has finished with the objective.

    `varied` are the keys that the sweep varies, of parameters or of groups (`optimizer` stands for `optimizer.name`).
    Where they do not tell the settings apart, the parameters that differ do.
    """
    ranked = [run for run in children if run.status == "FINISHED" and math.isfinite(run.metrics.get(metric, math.nan))]
    if not ranked:
        return None
    known = {name for run in ranked for name in run.params}
    averaged = [SEED_PARAM, *([FOLD_PARAM] if is_cross_validated(ranked) else [])]
    comparison = compare_runs(ranked, metric, mode, ",".join(key for key in averaged if key in known) or None)
    named = [key if key in known else f"{key}.name" for key in varied if key not in averaged]
    settings = {tuple(group[0].params.get(name) for name in named) for group in comparison.groups}
    if not set(named) <= known or len(settings) < len(comparison.groups):
        named = comparison.params
    return Leaderboard(comparison, list(dict.fromkeys(named)), metric, mode)
