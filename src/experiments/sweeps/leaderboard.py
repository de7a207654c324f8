"""The settings of a sweep ranked over seeds, and whether the best beats the next beyond noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from experiments.comparison.comparison import Comparison, Mode, compare_runs
from experiments.tracking.records import RunRecord

if TYPE_CHECKING:
    import pandas as pd


SEED_PARAM = "seed"
SIGNIFICANCE = 0.05  # below this p-value a difference counts as beyond noise


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
        """A row for each setting: what varies, `n` (seeds), mean and standard deviation of the objective (of the
        sample, n - 1), the 95 % confidence interval of the mean (Student's t; Student, Biometrika 6, 1908), the
        difference of the mean to the best's, and the p-value of that difference (Welch's t-test, two-sided; Welch,
        Biometrika 34, 1947). What one seed cannot show is NaN."""
        import numpy as np
        import pandas as pd
        from scipy import stats

        frames = (self.comparison.mean, self.comparison.std, self.comparison.count)
        mean, std, n = (frame[self.metric].to_numpy(dtype=float) for frame in frames)
        with np.errstate(all="ignore"):
            half = stats.t.ppf(0.975, n - 1) * std / np.sqrt(n)
            p = stats.ttest_ind_from_stats(mean[0], std[0], n[0], mean, std, n, equal_var=False).pvalue
        constant = std <= 1e-12 * np.abs(mean)  # over seeds, up to rounding
        p = np.where((n < 2) | (n[0] < 2) | (constant & constant[0]), math.nan, p)
        p[0] = math.nan
        return pd.DataFrame(
            {name: self.comparison.values(name) for name in self.varied}
            | {
                "n": n.astype(int),
                f"{self.metric}_mean": mean,
                f"{self.metric}_std": std,
                "ci95_low": mean - half,
                "ci95_high": mean + half,
                "difference": mean - mean[0],
                "p_value": p,
                "run_ids": [" ".join(run.run_id for run in group) for group in self.comparison.groups],
            }
        )


def rank_children(children: Sequence[RunRecord], metric: str, mode: Mode, varied: Sequence[str]) -> Leaderboard | None:
    """Return the leaderboard of a sweep's runs, or None if no run has finished with the objective.

    Args:
        varied: the keys that the sweep varies, of parameters or of groups (`optimizer` stands for `optimizer.name`);
            where they do not tell the settings apart, the parameters that differ.
    """
    ranked = [run for run in children if run.status == "FINISHED" and math.isfinite(run.metrics.get(metric, math.nan))]
    if not ranked:
        return None
    known = {name for run in ranked for name in run.params}
    comparison = compare_runs(ranked, metric, mode, SEED_PARAM if SEED_PARAM in known else None)
    named = [key if key in known else f"{key}.name" for key in varied if key != SEED_PARAM]
    settings = {tuple(group[0].params.get(name) for name in named) for group in comparison.groups}
    if not set(named) <= known or len(settings) < len(comparison.groups):
        named = comparison.params
    return Leaderboard(comparison, list(dict.fromkeys(named)), metric, mode)


def leaderboard_verdict(board: Leaderboard) -> str:
    """Say whether the best setting is better than the next beyond the noise between seeds."""
    table = board.table
    if len(table) == 1:
        return "There is only one setting, so there is nothing to compare it with."
    best, following = table.iloc[0], table.iloc[1]
    advice = f"To find out, sweep over more seeds: {SEED_PARAM}=0,1,2,3,4"
    if best.n < 2 and following.n < 2:
        return f"One seed each: noise unknown, so the order may be chance. {advice}"
    if best.n < 2 or following.n < 2:
        return f"The {'best' if best.n < 2 else 'next'} setting has only one seed: noise unknown. {advice}"
    if following.difference == 0:
        return "The two best settings have the same mean: neither is better."
    if not math.isfinite(following.p_value):
        return "Seeds make no difference to the two best settings, so there is no noise to measure."
    behind = f"by {abs(following.difference):.3g} on average"
    test = f"Welch's t-test over {best.n} and {following.n} seeds, p = {format_p_value(following.p_value)}"
    if following.p_value < SIGNIFICANCE:
        return f"Better than the next beyond noise: {behind} ({test})."
    alike = int((table.p_value >= SIGNIFICANCE).sum())
    also = f" {alike} settings are that close to the best." if alike > 1 else ""
    return f"Not better than the next beyond noise: ahead {behind} ({test}).{also} {advice}"


def format_p_value(value: float) -> str:
    return f"{value:.2g}" if value >= 0.001 else f"{value:.0e}"
