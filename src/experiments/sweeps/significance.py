"""How sure the differences between the settings of a sweep are: intervals and tests over seeds, and over folds."""

import math
from collections.abc import Sequence

import numpy as np

from experiments.tracking.records import RunRecord

FOLD_PARAM, FOLDS_PARAM = "data.fold", "data.folds"
# What two runs must share to be trained and validated on the same examples, from the same random numbers.
PAIRED_BY = (FOLD_PARAM, FOLDS_PARAM, "data.split_seed", "data.limit", "seed")


def is_cross_validated(runs: Sequence[RunRecord]) -> bool:
    """Return whether all runs were validated on folds."""
    return all(_folds_of(run) for run in runs)


def _folds_of(run: RunRecord) -> int:
    given = run.params.get(FOLDS_PARAM, "None")
    return int(given) if given.isdecimal() else 0


def overlap_of(runs: Sequence[RunRecord]) -> float:
    """Return the validation examples per training example if the runs were validated on folds, else 0.

    Runs of other folds share training examples, so more of them tell less than independent ones.
    """
    return 1 / (_folds_of(runs[0]) - 1) if is_cross_validated(runs) else 0.0


def half_interval(std: np.ndarray, n: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """Return half the 95 % interval of means (Student, Biometrika 6, 1908), NaN for single runs; all arrays [settings].

    `overlap` is that of overlap_of, which adds to the variance as Nadeau and Bengio found (see paired_tests).
    """
    from scipy import stats

    with np.errstate(all="ignore"):
        half: np.ndarray = stats.t.ppf(0.975, n - 1) * std * np.sqrt(1 / n + overlap)
    return half


def welch_tests(mean: np.ndarray, std: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the p-value of each setting's difference from the first (Welch, Biometrika 34, 1947; two-sided).

    NaN for the first, for single runs, and where seeds make no difference.
    """
    from scipy import stats

    with np.errstate(all="ignore"):
        p = stats.ttest_ind_from_stats(mean[0], std[0], n[0], mean, std, n, equal_var=False).pvalue
    constant = std <= 1e-12 * np.abs(mean)  # over seeds, up to rounding
    p = np.where((n < 2) | (n[0] < 2) | (constant & constant[0]), math.nan, p)
    p[0] = math.nan
    return p


def paired_tests(metric: str, group: Sequence[RunRecord], best: Sequence[RunRecord]) -> tuple[float, float]:
    """Return p-values of the mean difference between runs on the same folds and seeds, plain and corrected.

    The plain paired t-test takes the differences for independent. As training sets overlap, they are not: the corrected
    resampled t-test has the variance times 1/n + validation examples / training examples instead of 1/n (Nadeau and
    Bengio, "Inference for the generalization error", Machine Learning 52, 2003). NaN with fewer than two pairs, or
    where all differences are equal.
    """
    from scipy import stats

    values = [{tuple(map(run.params.get, PAIRED_BY)): run.metrics[metric] for run in runs} for runs in (group, best)]
    differences = np.array([values[0][key] - values[1][key] for key in values[0].keys() & values[1].keys()])
    n = len(differences)
    if n < 2 or differences.std() <= 1e-12 * abs(differences).max():
        return math.nan, math.nan
    variance = differences.var(ddof=1)
    t = [differences.mean() / math.sqrt(variance * share) for share in (1 / n, 1 / n + overlap_of(best))]
    plain, corrected = (float(2 * stats.t.sf(abs(value), n - 1)) for value in t)
    return plain, corrected
