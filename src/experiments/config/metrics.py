"""The table of metrics that runs log: which direction is better, under which names they are logged, how they are shown.

Those in METRICS are logged always, those in CHOSEN_METRICS where the config's `metrics` names them. A new metric is a
line here and a function in `training/evaluation.py`.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from experiments.config.registry import own_functions

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
    least_classes: int = 2  # for which it makes sense
    most_classes: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which it is logged."""
        return tuple(prefix + self.name for prefix in self.prefixes) or (self.name,)

    def fits(self, classes: int | None) -> bool:
        """Return whether it makes sense for so many classes; None: the targets are numbers."""
        return classes is None or (self.least_classes <= classes <= (self.most_classes or classes))


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


def _of_scikit_learn(
    task: Task,
    direction: Mode,
    names: str,
    prefixes: tuple[Prefix, ...] = ("val_", "test_", "best_val_"),
    most_classes: int | None = None,
) -> Iterator[Metric]:
    for name in names.split():
        title = name.replace("_", " ").capitalize().replace("Roc auc", "ROC AUC")
        yield Metric(name, direction, prefixes, task, title=title, shown="{:.4f}", most_classes=most_classes)


# Those of scikit-learn have the name of its scorer without `neg_`, and are defined by it.
CHOSEN_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            *("top_5_accuracy", "max", ("val_", "test_", "best_val_"), "classes", 1, "Top 5 accuracy", "{:.2%}"),
            least_classes=6,
        ),
        *_of_scikit_learn(
            "classes",
            "max",
            "balanced_accuracy f1_macro f1_micro f1_weighted precision_macro precision_micro precision_weighted"
            " recall_macro recall_micro recall_weighted jaccard_macro jaccard_micro jaccard_weighted matthews_corrcoef"
            " roc_auc_ovr roc_auc_ovr_weighted average_precision d2_log_loss_score",
        ),
        # They compare every pair of classes, which takes longer than the evaluation.
        *_of_scikit_learn("classes", "max", "roc_auc_ovo roc_auc_ovo_weighted", prefixes=("test_",)),
        *_of_scikit_learn("classes", "min", "log_loss brier_score"),
        *_of_scikit_learn(
            "classes", "max", "f1 precision recall jaccard roc_auc positive_likelihood_ratio", most_classes=2
        ),
        *_of_scikit_learn("classes", "min", "negative_likelihood_ratio", most_classes=2),
        *_of_scikit_learn("numbers", "max", "r2 explained_variance d2_absolute_error_score"),
        *_of_scikit_learn(
            "numbers",
            "min",
            "mean_squared_error root_mean_squared_error median_absolute_error max_error mean_absolute_percentage_error"
            " mean_squared_log_error root_mean_squared_log_error mean_poisson_deviance mean_gamma_deviance",
        ),
    )
}


def chosen_metrics() -> dict[str, Metric]:
    """Return the metrics that are logged where the config's `metrics` names them, with the user's own."""
    prefixes: tuple[Prefix, ...] = ("val_", "test_", "best_val_")
    own = {
        name: Metric(name, own.direction, prefixes, title=own.meaning, shown="{:.4f}")
        for name, own in own_functions("metric").items()
    }
    return {**CHOSEN_METRICS, **own}


def all_metrics() -> tuple[Metric, ...]:
    return (*METRICS, *chosen_metrics().values())


def metric_names(
    *prefixes: str, task: Task | None = None, ranked_only: bool = False, chosen: Collection[str] | None = None
) -> list[str]:
    """Return the names with these prefixes, prefix by prefix: of all metrics that measure a model, or of one task's.

    Of `chosen_metrics` only the ones named by `chosen`, or all.

    >>> metric_names("test_", "best_val_", task="classes", chosen=["f1_macro"])
    ['test_accuracy', 'test_error_percent', 'test_loss', 'test_f1_macro', 'best_val_accuracy', 'best_val_f1_macro']
    """
    return [
        prefix + metric.name
        for prefix in prefixes
        for metric in all_metrics()
        if prefix in metric.prefixes and metric.prefixes != ("",)
        if task is None or metric.task in (None, task)
        if metric.ranked or not ranked_only
        if chosen is None or metric.name in chosen or metric in METRICS
    ]


RUN_METRICS = [metric for metric in METRICS if not metric.prefixes]
TIME_METRICS = [metric.name for metric in METRICS if metric.is_time]
FINAL_PREFIXES = ("test_", "best_")  # of a finished run's metrics that measure the model


def preferred_metrics() -> list[str]:
    """Return what ranks runs, or is shown beside the objective, where nobody names a metric: the first they have."""
    final = (name for metric in all_metrics() if metric.ranked for name in metric.names)
    return [*(name for name in final if name.startswith(FINAL_PREFIXES)), *metric_names("val_", "", ranked_only=True)]


def find_metric(name: str) -> Metric | None:
    """Return the metric that a run logs under this name, with or without a prefix.

    >>> find_metric("best_val_accuracy").name
    'accuracy'
    """
    return next((metric for metric in all_metrics() if name in (metric.name, *metric.names)), None)


def finished_run_metrics() -> dict[str, Metric]:
    """Return the metrics of a finished run by full name, in the order in which they are shown."""
    names = [*metric_names("test_", "best_val_"), *(metric.name for metric in RUN_METRICS)]
    return {name: metric for name in names if (metric := find_metric(name))}


def shown_position(name: str) -> tuple[bool, int, str]:
    """Return a key that sorts metrics as tables show them: of the finished run first, unknown ones after the known."""
    final = finished_run_metrics()
    order = [*final, *(f"{prefix}{m.name}" for prefix in ("val_", "") for m in all_metrics() if prefix in m.prefixes)]
    position = order.index(name) if name in order else len(order)
    return name not in final and not name.startswith(FINAL_PREFIXES), position, name


def measured_split(name: str) -> str:
    """Return which examples the metric is measured on: train, validation or test."""
    return next(split for prefix, split in PREFIX_SPLITS.items() if name.startswith(prefix))


def higher_is_better(name: str) -> bool:
    """Return whether the greatest value is best, of a metric in the table."""
    return (metric := find_metric(name)) is not None and metric.direction == "max"
