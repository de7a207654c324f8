"""Rules across the fields that say what is optimized and reported: the loss, and the metrics."""

from experiments.config.data_schema import LinearData
from experiments.config.facts import (
    epoch_metric_names,
    final_metric_names,
    loss_name,
    named_class_weights,
    objective_metric_names,
    task_of,
)
from experiments.config.losses import BINARY_LOSSES, CLASS_LOSSES, NUMBER_LOSSES, SMOOTHED_LOSSES
from experiments.config.metrics import METRICS, chosen_metrics, find_metric
from experiments.config.optimizer_schema import ReduceOnPlateauSchedule
from experiments.config.registry import own_functions
from experiments.config.schema import Config
from experiments.errors import ConfigError, did_you_mean, join_sorted


def check_loss_fits(config: Config) -> None:
    """Refuse a loss, label smoothing or class weights that do not fit the data."""
    data, training, name, what = config.data, config.training, loss_name(config), task_of(config)
    classes = 0 if isinstance(data, LinearData) else data.classes
    allowed = NUMBER_LOSSES if what == "numbers" else (*CLASS_LOSSES, *(BINARY_LOSSES if classes == 2 else ()))
    allowed = (*allowed, *own_functions("loss"))
    if name not in allowed:
        targets = f"{classes} classes" if name in BINARY_LOSSES and classes else what
        raise ConfigError(
            f"training.loss={name} does not fit data={data.name}, whose targets are {targets}. Choose training.loss"
            f" from: {join_sorted(allowed)}"
        )
    if training.label_smoothing and name not in SMOOTHED_LOSSES:
        fitting = join_sorted(loss for loss in SMOOTHED_LOSSES if loss in allowed)
        raise ConfigError(
            f"training.label_smoothing={training.label_smoothing:g} does not go with training.loss={name}: it spreads"
            " the target of a cross-entropy over the classes. Leave it out"
            + (f", or choose training.loss from: {fitting}" if what == "classes" else ".")
        )
    if training.class_weight is None:
        return
    if isinstance(data, LinearData):
        raise ConfigError(f"training.class_weight needs classes, and the targets of data={data.name} are numbers.")
    if isinstance(training.class_weight, dict):
        found = named_class_weights(data, training.class_weight)
        numbers = [number for number, _ in found]
        if twice := next((n for n in numbers if numbers.count(n) > 1), None):
            raise ConfigError(f"training.class_weight has class {data.class_names[twice]!r} twice: by name and number.")
        if len(found) == data.classes and not any(weight for _, weight in found):
            raise ConfigError("training.class_weight is 0 for every class, so nothing would be learned.")


def _check_chosen(config: Config) -> None:
    data, classes = config.data, None if isinstance(config.data, LinearData) else config.data.classes
    what = task_of(config)
    known = chosen_metrics()
    choices = [name for name, metric in known.items() if metric.task in (None, what) and metric.fits(classes)]
    for name in config.metrics:
        if name in (metric.name for metric in METRICS):
            raise ConfigError(f"metrics: {name} is logged anyway. Leave it out.")
        if config.metrics.count(name) > 1:
            raise ConfigError(f"metrics names {name} twice. Name it once.")
        if name not in choices:
            why = "is not a known metric" + did_you_mean(name.removeprefix("neg_"), choices)
            if (metric := known.get(name)) is not None:
                needed = "two classes" if metric.most_classes else f"{metric.least_classes} or more classes"
                needed = needed if metric.task == what else metric.task or ""
                why = f"needs {needed}, data={data.name} has {f'{classes} classes' if classes else what}"
            raise ConfigError(f"metrics: {name} {why}. Choices for data={data.name}: {join_sorted(choices)}")


def _unless_chosen(config: Config, name: str) -> str:
    unnamed = (metric := find_metric(name)) and metric not in METRICS and metric.name not in config.metrics
    return f" (metrics does not name {metric.name})" if metric and unnamed else ""


def _why_not_logged(config: Config, name: str) -> str:
    if why := _unless_chosen(config, name):
        return why
    without = name.startswith(("val_", "best_val_")) and not config.data.validation
    return " (data.validation=0 leaves nothing to validate on)" if without else ""


def check_metrics(config: Config) -> None:
    """Refuse metrics that these runs do not log, where something follows them."""
    _check_chosen(config)
    _check_watched(config)
    metric, expected, finals = config.objective.metric, config.expected, final_metric_names(config)
    known = objective_metric_names(config)
    if metric not in ("auto", *known):
        why = _why_not_logged(config, metric) or did_you_mean(metric, known)
        raise ConfigError(
            f"objective.metric={metric} is not a metric of these runs{why}. Choices: auto, {join_sorted(known)}"
        )
    if expected is not None and expected.metric not in finals:
        raise ConfigError(
            f"expected.metric={expected.metric} is not a metric of a run with data={config.data.name} and"
            f" data.validation={config.data.validation}{_unless_chosen(config, expected.metric)}. Choices:"
            f" {join_sorted(finals)}"
        )


def _check_watched(config: Config) -> None:
    stopping, watched = config.training.early_stopping, dict[str, str]()
    if config.training.restore_best or (stopping.patience, stopping.goal) != (None, None):
        watched["training.early_stopping.metric"] = stopping.metric
    if isinstance(schedule := config.schedule, ReduceOnPlateauSchedule):
        watched["schedule.metric"] = schedule.metric
    known = epoch_metric_names(config)
    for key, metric in watched.items():
        if metric not in known:
            why = _why_not_logged(config, metric)
            raise ConfigError(f"{key}={metric} is not a metric of each epoch{why}. Choices: {join_sorted(known)}")
