"""The table of metrics that runs log: which direction is better, under which names they are logged, how they are shown.

A new metric is a line here and a function in `training/evaluation.py`.
"""

from dataclasses import dataclass
from typing import Literal

Mode = Literal["max", "min"]
Task = Literal["classes", "numbers"]
Prefix = Literal["", "val_", "test_", "best_val_"]


@dataclass(frozen=True)
class Metric:
    """A metric, logged under its name with one or more prefixes.

    The prefixes are `""` after each epoch on the training examples, `val_` after each epoch on the validation examples,
    `best_val_` for its best over the epochs, `test_` at the end. Without one it is a single number for the run.
    """

    name: str
    direction: Mode | None = None  # whether the greatest or the least value is best; None: neither
    prefixes: tuple[Prefix, ...] = ()
    task: Task | None = None  # what the model has to predict for the metric to be logged; None: either
    whole: float | None = None  # the value for all examples, where the metric is a share of them: 1, or 100 in percent
    title: str = ""
    shown: str = "{:.4g}"
    ranked: bool = True  # whether runs may be ranked by it where nobody names a metric
    column: bool = True  # whether the table of runs in the UI has a column for it
    is_time: bool = False  # whether it measures time, which differs in every run
    compared: bool = True  # whether runs that need not be equal to the last bit are compared by it

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which it is logged."""
        return tuple(prefix + self.name for prefix in self.prefixes) or (self.name,)


# The examples that a metric with a prefix is measured on, in the order in which tables show the prefixes.
PREFIX_SPLITS: dict[Prefix, str] = {"test_": "test", "best_val_": "validation", "val_": "validation", "": "train"}

# In the order in which they are shown and preferred.
METRICS = (
    Metric("accuracy", "max", ("", "val_", "test_", "best_val_"), "classes", 1, "Accuracy", "{:.2%}"),
    Metric("error_percent", "min", ("test_",), "classes", 100, "Error", "{:.2f}%", ranked=False),  # 1 - accuracy
    Metric("loss", "min", ("", "val_", "test_"), title="Loss", column=False),  # not comparable between losses
    Metric("mean_absolute_error", "min", ("", "val_", "test_", "best_val_"), "numbers", title="Mean absolute error"),
    Metric("learned_weight", title="Learned weight", shown="{:.4f}"),
    Metric("learned_bias", title="Learned bias", shown="{:.4f}"),
    # The last bits decide between nearly equal epochs.
    Metric("best_epoch", shown="{:.0f}", column=False, compared=False),
    Metric("train_seconds", "min", shown="{:.1f} s", is_time=True),
    Metric("learning_rate", prefixes=("",)),
    Metric("epoch_seconds", "min", ("",), is_time=True),
    Metric("examples_per_second", "max", ("",), is_time=True),
)


def metric_names(*prefixes: str, task: Task | None = None, ranked_only: bool = False) -> list[str]:
    """Return the names with these prefixes, prefix by prefix: of all metrics that measure a model, or of one task's.

    >>> metric_names("test_", "best_val_", task="classes")
    ['test_accuracy', 'test_error_percent', 'test_loss', 'best_val_accuracy']
    """
    return [
        prefix + metric.name
        for prefix in prefixes
        for metric in METRICS
        if prefix in metric.prefixes and metric.prefixes != ("",)
        if task is None or metric.task in (None, task)
        if metric.ranked or not ranked_only
    ]


EPOCH_METRICS = metric_names("", "val_")
EXPECTED_METRICS = metric_names("test_", "best_val_")  # what a published config can give
RUN_METRICS = [metric for metric in METRICS if not metric.prefixes]
TIME_METRICS = [metric.name for metric in METRICS if metric.is_time]
FINAL_PREFIXES = ("test_", "best_")  # of a finished run's metrics that measure the model
# What runs are ranked by, or shown beside the objective, where nobody names a metric: the first that they have.
PREFERRED_METRICS = [
    *(name for metric in METRICS if metric.ranked for name in metric.names if name.startswith(FINAL_PREFIXES)),
    *metric_names("val_", "", ranked_only=True),
]


def find_metric(name: str) -> Metric | None:
    """Return the metric that a run logs under this name, with or without a prefix.

    >>> find_metric("best_val_accuracy").name
    'accuracy'
    """
    return next((metric for metric in METRICS if name in (metric.name, *metric.names)), None)


# The metrics of a finished run by full name, in the order in which they are shown.
FINAL_METRICS = {
    name: metric
    for name in [*EXPECTED_METRICS, *(metric.name for metric in RUN_METRICS)]
    if (metric := find_metric(name))
}
_SHOWN_ORDER = [
    *FINAL_METRICS,
    *(f"{prefix}{m.name}" for prefix in ("val_", "") for m in METRICS if prefix in m.prefixes),
]


def shown_position(name: str) -> tuple[bool, int, str]:
    """Return a key that sorts metrics as tables show them: of the finished run first, unknown ones after the known."""
    position = _SHOWN_ORDER.index(name) if name in _SHOWN_ORDER else len(_SHOWN_ORDER)
    return name not in FINAL_METRICS and not name.startswith(FINAL_PREFIXES), position, name


def measured_split(name: str) -> str:
    """Return which examples the metric is measured on: train, validation or test."""
    return next(split for prefix, split in PREFIX_SPLITS.items() if name.startswith(prefix))


def higher_is_better(name: str) -> bool:
    """Return whether the greatest value is best, of a metric in the table."""
    return (metric := find_metric(name)) is not None and metric.direction == "max"
