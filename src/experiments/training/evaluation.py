"""Evaluation of a model on a split: its outputs, the loss, and the metric that goes with the loss."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config.data_schema import LinearData
from experiments.config.facts import is_binary, named_class_weights
from experiments.config.losses import SPARSE_LOSSES, loss_and_arguments
from experiments.config.metrics import METRICS, Prefix, all_metrics
from experiments.config.own_code import call_own
from experiments.config.registry import OwnFunction, own_functions
from experiments.config.schema import Config
from experiments.data.splits import Split
from experiments.errors import ConfigError, NotFiniteError
from experiments.profiling import span
from experiments.training.scikit_metrics import UndefinedScoreError, scikit_score

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


EVALUATION_BATCH = 500  # examples; limits memory, does not affect the result

Metrics = dict[str, float]
PerExample = Callable[["tf.Tensor", "tf.Tensor"], "tf.Tensor"]  # from targets and outputs to values [batch]


def accuracy(targets: "tf.Tensor", outputs: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf

    if outputs.shape[-1] == 1:
        return tf.cast(tf.cast(outputs[:, 0] > 0.5, tf.int32) == targets, tf.float32)
    return tf.cast(tf.argmax(outputs, 1, output_type=tf.int32) == targets, tf.float32)


def mean_absolute_error(targets: "tf.Tensor", outputs: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf

    return tf.reduce_mean(tf.abs(outputs - targets), axis=-1)


def refuse_not_finite(metrics: Metrics, when: str) -> None:
    """Raise a NotFiniteError if a metric is NaN or infinite; `when` says in words when they were taken."""
    for name, value in metrics.items():
        if not np.isfinite(value):
            raise NotFiniteError(
                f"{name} became {value} {when}. Likely causes: optimizer.learning_rate is too large (try a tenth of"
                " it), gradients explode (try training.gradient_clipping=1), or model.activation and"
                " model.kernel_initializer do not go together."
            )


@dataclass(frozen=True)
class Criterion:
    """How the outputs of a network are judged."""

    losses: PerExample
    quality: PerExample  # the metric that goes with the loss; its name is that of the function
    is_binary: bool  # whether there is one output for two classes
    constants: Sequence[Any]  # all of the config that this depends on


def criterion_of(config: Config) -> Criterion:
    """Return the loss of each example as the config describes it, and the metric that goes with it.

    Targets are class numbers, or numbers. For a loss that is not sparse, class numbers are one-hot encoded, and label
    smoothing spreads a part of them over all classes.
    """
    import keras
    import tensorflow as tf

    name, arguments = loss_and_arguments(config.training.loss)
    smoothing, binary = config.training.label_smoothing, is_binary(config)
    constants = [name, arguments, smoothing, binary]
    own = own_functions("loss").get(name)
    function = partial(call_own, own, **arguments) if own else partial(getattr(keras.losses, name), **arguments)
    if isinstance(config.data, LinearData):
        return Criterion(function, mean_absolute_error, binary, constants)
    if own:
        return Criterion(function, accuracy, binary, constants)
    classes = config.data.classes
    if name in SPARSE_LOSSES:
        if not smoothing:
            return Criterion(function, accuracy, binary, constants)
        function = keras.losses.categorical_crossentropy

    def losses(targets: "tf.Tensor", outputs: "tf.Tensor") -> "tf.Tensor":
        if binary:
            wanted = tf.reshape(tf.cast(targets, tf.float32), (-1, 1))
        else:
            wanted = tf.one_hot(tf.cast(targets, tf.int32), classes)
        if smoothing:
            wanted = wanted * (1 - smoothing) + smoothing / classes
        return function(wanted, outputs)

    return Criterion(losses, accuracy, binary, constants)


def class_outputs(outputs: np.ndarray, is_binary: bool) -> np.ndarray:
    """Return an output for each class, [n, classes]; of a binary network the two probabilities, from its [n, 1]."""
    return np.concatenate([1 - outputs, outputs], axis=1) if is_binary else outputs


def class_weights(config: Config, targets: np.ndarray) -> np.ndarray | None:
    """Return the factor on the training loss of each class, float32 [classes], or None; `targets` are those trained on.

    Balanced ones are n / (classes * count), of the classes that have examples, as in scikit-learn.
    """
    given, data = config.training.class_weight, config.data
    if given is None or isinstance(data, LinearData):
        return None
    weights = np.ones(data.classes, np.float32)
    if isinstance(given, dict):
        for number, weight in named_class_weights(data, given):
            weights[number] = weight
        return weights
    counts = np.bincount(targets, minlength=data.classes)
    weights[counts > 0] = len(targets) / (np.count_nonzero(counts) * counts[counts > 0])
    return weights


def error_percent(targets: np.ndarray, outputs: np.ndarray) -> float:
    """Return how many of 100 examples are classified wrongly."""
    return 100 * np.count_nonzero(outputs.argmax(1) != targets) / len(targets)


def top_5_accuracy(targets: np.ndarray, outputs: np.ndarray) -> float:
    """Return the share of examples whose class has one of the five largest outputs; of equal ones the first counts."""
    best = np.argsort(-outputs, axis=1, kind="stable")[:, :5]
    return float((best == targets[:, None]).any(1).mean())


# The metrics that are not a mean over the examples: functions of all targets [n] or [n, 1], and all outputs
# [n, classes or 1], by their name in the table of metrics. The others are scikit-learn's.
SPLIT_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "error_percent": error_percent,
    "top_5_accuracy": top_5_accuracy,
}


@span("metrics")
def split_metrics(
    chosen: Collection[str], targets: np.ndarray, outputs: np.ndarray, prefix: Prefix
) -> tuple[Metrics, dict[str, str]]:
    """Return the metrics of a whole split that are logged with this prefix, and why others have no value on it.

    Both are by full name. `chosen` are the metrics that the config asks for.
    """
    task = "numbers" if outputs.shape[-1] == 1 else "classes"
    metrics, undefined = Metrics(), dict[str, str]()
    for metric in all_metrics():
        wanted = metric.name in (SPLIT_METRICS if metric in METRICS else chosen)
        if not (wanted and prefix in metric.prefixes and metric.task in (None, task)):
            continue
        try:
            function = SPLIT_METRICS.get(metric.name) or partial(scikit_score, metric.name)
            if own := own_functions("metric").get(metric.name):
                function = partial(_own_score, own)
            metrics[prefix + metric.name] = function(targets, outputs)
        except UndefinedScoreError as error:
            undefined[prefix + metric.name] = str(error)
    return metrics, undefined


def _own_score(own: OwnFunction, targets: np.ndarray, outputs: np.ndarray) -> float:
    """Return the value of a metric of the user's own, or raise an UndefinedScoreError if it has none."""
    try:
        score = float(call_own(own, targets, outputs))
    except (ConfigError, TypeError, ValueError) as error:
        raise UndefinedScoreError(str(error)) from None
    if not np.isfinite(score):
        raise UndefinedScoreError(f"it is {score}.")
    return score


def tell_undefined(undefined: Mapping[str, str]) -> None:
    for name, reason in undefined.items():
        print(f"{name} is not logged, as it is not defined: {reason}", file=sys.stderr)


@dataclass(frozen=True)
class Evaluation:
    """Outputs, float32 [n, classes], or [n, 1] of numbers, and the means of loss and metric over all examples."""

    outputs: np.ndarray
    metrics: Metrics


class Evaluator:
    """Evaluates a model on whole splits, every example once. The loss includes penalties, as in Keras.

    Its forward pass is traced once for all splits.
    """

    def __init__(self, model: "keras.Model", criterion: Criterion) -> None:
        import tensorflow as tf

        self.criterion, self.quality = criterion, criterion.quality
        self.model, self.forward = model, tf.function(self._forward, reduce_retracing=True)

    @span("evaluation")
    def __call__(self, split: Split) -> Evaluation:
        import tensorflow as tf

        starts = range(0, len(split.targets), EVALUATION_BATCH)
        batches = [split.inputs[start : start + EVALUATION_BATCH] for start in starts]
        parts, penalties = zip(*(self.forward(tf.constant(batch)) for batch in batches), strict=True)
        outputs, targets = tf.concat(parts, 0), tf.constant(split.targets)
        penalty = np.average([float(value) for value in penalties], weights=[len(batch) for batch in batches])
        functions = self.criterion.losses, self.quality
        loss, quality = (float(judge(targets, outputs).numpy().mean(dtype=np.float64)) for judge in functions)
        answers = class_outputs(outputs.numpy(), self.criterion.is_binary)
        return Evaluation(answers, {"loss": loss + float(penalty), self.quality.__name__: quality})

    def _forward(self, inputs: "tf.Tensor") -> tuple["tf.Tensor", "tf.Tensor"]:
        """Return outputs, and the penalties on weights and values of this batch."""
        import tensorflow as tf

        outputs = tf.cast(self.model(tf.cast(inputs, tf.float32), training=False), tf.float32)
        return outputs, tf.cast(sum(self.model.losses), tf.float32)
