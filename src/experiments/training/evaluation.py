"""Evaluation of a model on a split: its outputs, the loss, and the metric that goes with the loss."""

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from experiments.config.metrics import METRICS, Prefix, all_metrics
from experiments.config.own_code import call_own
from experiments.config.registry import OwnFunction, own_functions
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


def per_example_functions(loss: str, outputs: int) -> tuple[PerExample, PerExample]:
    """Return the loss of each example, by its name in Keras, and the metric that goes with it.

    `outputs` is the number of values per example: 1 for regression, else one per class. Targets are always class
    numbers; for a loss that is not sparse they are one-hot encoded.
    """
    import keras
    import tensorflow as tf

    function = getattr(keras.losses, loss)
    if outputs == 1:
        return function, mean_absolute_error
    if loss.startswith("sparse_"):
        return function, accuracy
    return lambda targets, values: function(tf.one_hot(tf.cast(targets, tf.int32), outputs), values), accuracy


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
    """Outputs, float32 [n, classes or 1], and the means of loss and metric over all examples."""

    outputs: np.ndarray
    metrics: Metrics


class Evaluator:
    """Evaluates a model on whole splits, every example once. The loss includes penalties, as in Keras.

    Its forward pass is traced once for all splits.
    """

    def __init__(self, model: "keras.Model", loss: str) -> None:
        import tensorflow as tf

        self.losses, self.quality = per_example_functions(loss, model.output_shape[-1])
        self.model, self.forward = model, tf.function(self._forward, reduce_retracing=True)

    @span("evaluation")
    def __call__(self, split: Split) -> Evaluation:
        import tensorflow as tf

        starts = range(0, len(split.targets), EVALUATION_BATCH)
        batches = [split.inputs[start : start + EVALUATION_BATCH] for start in starts]
        parts, penalties = zip(*(self.forward(tf.constant(batch)) for batch in batches), strict=True)
        outputs, targets = tf.concat(parts, 0), tf.constant(split.targets)
        penalty = np.average([float(value) for value in penalties], weights=[len(batch) for batch in batches])
        loss, quality = (
            float(function(targets, outputs).numpy().mean(dtype=np.float64)) for function in (self.losses, self.quality)
        )
        return Evaluation(outputs.numpy(), {"loss": loss + float(penalty), self.quality.__name__: quality})

    def _forward(self, inputs: "tf.Tensor") -> tuple["tf.Tensor", "tf.Tensor"]:
        """Return outputs, and the penalties on weights and values of this batch."""
        import tensorflow as tf

        outputs = tf.cast(self.model(tf.cast(inputs, tf.float32), training=False), tf.float32)
        return outputs, tf.cast(sum(self.model.losses), tf.float32)
