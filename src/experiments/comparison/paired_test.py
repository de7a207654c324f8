"""Whether one run's model is better than another's beyond chance, from their predictions for the same test examples."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.comparison.comparison import ComparisonError
from experiments.config.metrics import find_metric
from experiments.tracking.records import RunRecord

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same test examples: the mean of a metric for each, and the p-value of the difference."""

    metric: str
    first: float
    second: float
    p_value: float  # two-sided
    test: str  # in words


def compare_predictions(run: RunRecord, predictions: str, others: str, objective: str) -> PairedTest:
    """Compare the predictions of a run with those of another, both as the text of `predictions/test.csv`.

    Where the objective is a share of right classes, it is the exact McNemar test, which counts the examples that only
    one of the models gets right (McNemar, Psychometrika 12, 1947). Where it is an error of predicted numbers, it is the
    paired t-test of the examples' errors.

    Raise a ComparisonError if the test examples differ, or the objective is not a mean over examples that the
    predictions give.
    """
    from scipy import stats

    ours, theirs = _read_predictions(predictions), _read_predictions(others)
    if not ours["actual"].equals(theirs["actual"]):
        raise ComparisonError("its run was tested on other examples")
    metric = getattr(find_metric(objective), "name", objective)
    size = run.params.get("training.loss") if metric == "loss" else metric
    if metric in ("accuracy", "error_percent"):
        first, second = ((table["actual"] == table["predicted"]).to_numpy(dtype=float) for table in (ours, theirs))
        only_first, only_second = int((first > second).sum()), int((second > first).sum())
        p = stats.binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
        metric, test = "accuracy", "McNemar's test"
    elif "test_accuracy" not in run.metrics and size in _ERRORS:
        first, second = (_ERRORS[size](_differences(table)) for table in (ours, theirs))
        p, test = stats.ttest_rel(first, second).pvalue if (first != second).any() else 1.0, "paired t-test"
    else:
        raise ComparisonError(f"predictions do not show the noise of {objective}, and there are not several seeds")
    described = f"{test} on {len(first):,} test examples"
    return PairedTest(f"test_{metric}", float(first.mean()), float(second.mean()), float(p), described)


_ERRORS: dict[str | None, Callable[["np.ndarray"], "np.ndarray"]] = {
    "mean_absolute_error": abs,
    "mean_squared_error": lambda differences: differences**2,
}


def _read_predictions(text: str) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def _differences(table: "pd.DataFrame") -> "np.ndarray":
    return (table["predicted"].astype(float) - table["actual"].astype(float)).to_numpy()
