"""What a model makes of a split: its outputs, the loss, and the metric that goes with the loss."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from experiments.config.metrics import METRICS, Prefix
from experiments.data.datasets import Split
from experiments.errors import NotFiniteError
from experiments.profiling import span

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


EVALUATION_BATCH = 500  # examples; bounds the memory of a forward pass, has no influence on the result

Metrics = dict[str, float]
ExampleLosses = Callable[["tf.Tensor", "tf.Tensor"], "tf.Tensor"]


class QualityMetric(Protocol):
    """The metric beside the loss: its name, and its value for each example."""

    name: str

    def __call__(self, targets: "tf.Tensor", outputs: "tf.Tensor") -> "tf.Tensor": ...


class Accuracy:
    name = "accuracy"

    def __call__(self, targets: "tf.Tensor", outputs: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        return tf.cast(tf.argmax(outputs, 1, output_type=tf.int32) == targets, tf.float32)


class AbsoluteError:
    name = "mean_absolute_error"

    def __call__(self, targets: "tf.Tensor", outputs: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        return tf.reduce_mean(tf.abs(outputs - targets), axis=-1)


def refuse_not_finite(metrics: Metrics, when: str) -> None:
    """Find out whether training has diverged; `when` the metrics were taken, in words.

    Raises:
        NotFiniteError: a metric is NaN or infinite.
    """
    for name, value in metrics.items():
        if not np.isfinite(value):
            raise NotFiniteError(
                f"{name} became {value} {when}. Likely causes: optimizer.learning_rate is too large (try a tenth of"
                " it), gradients explode (try training.gradient_clipping=1), or model.activation and"
                " model.kernel_initializer do not go together."
            )


def per_example_functions(loss: str, outputs: int) -> tuple[ExampleLosses, QualityMetric]:
    """The loss of each example [batch] by its name in Keras, and the metric that goes with it.

    Args:
        outputs: values that the model gives for an example: 1 is a number, several are classes. Targets are classes
            all the same; a loss that is not sparse compares the values with 1 for the class and 0 for the others.
    """
    import keras
    import tensorflow as tf

    function = getattr(keras.losses, loss)
    if outputs == 1:
        return function, AbsoluteError()
    if loss.startswith("sparse_"):
        return function, Accuracy()
    return lambda targets, values: function(tf.one_hot(tf.cast(targets, tf.int32), outputs), values), Accuracy()


def error_percent(targets: np.ndarray, outputs: np.ndarray) -> float:
    """Return how many of 100 examples are classified wrongly."""
    return 100 * np.count_nonzero(outputs.argmax(1) != targets) / len(targets)


# The metrics that are not a mean over the examples: functions of all targets [n] or [n, 1], and all outputs
# [n, classes or 1], by their name in the table of metrics.
SPLIT_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"error_percent": error_percent}


def split_metrics(targets: np.ndarray, outputs: np.ndarray, prefix: Prefix) -> Metrics:
    """Return the metrics of a whole split that are logged with this prefix, by their full names."""
    task = "numbers" if outputs.shape[-1] == 1 else "classes"
    return {
        prefix + metric.name: SPLIT_METRICS[metric.name](targets, outputs)
        for metric in METRICS
        if metric.name in SPLIT_METRICS and prefix in metric.prefixes and metric.task in (None, task)
    }


@dataclass(frozen=True)
class Evaluation:
    """Outputs, float32 [n, classes or 1], and the means of loss and metric over all examples."""

    outputs: np.ndarray
    metrics: Metrics


class Evaluator:
    """Runs a model forward over a whole split, every example once. The loss includes penalties, as Keras's does."""

    def __init__(self, model: "keras.Model", loss: str) -> None:
        self.losses, self.quality = per_example_functions(loss, model.output_shape[-1])
        self.forward = _forward_pass(model)

    @span("evaluation")
    def __call__(self, split: Split) -> Evaluation:
        import tensorflow as tf

        batches = [
            split.inputs[start : start + EVALUATION_BATCH] for start in range(0, len(split.targets), EVALUATION_BATCH)
        ]
        parts, penalties = zip(*(self.forward(tf.constant(batch)) for batch in batches), strict=True)
        outputs, targets = tf.concat(parts, 0), tf.constant(split.targets)
        penalty = np.average([float(value) for value in penalties], weights=[len(batch) for batch in batches])
        metrics = {
            "loss": _mean_of(self.losses(targets, outputs)) + float(penalty),
            self.quality.name: _mean_of(self.quality(targets, outputs)),
        }
        return Evaluation(outputs.numpy(), metrics)


@lru_cache(maxsize=4)  # traced once for all splits, and for all runs of a network that networks.build gave again
def _forward_pass(model: "keras.Model") -> Any:
    """A function from a batch of inputs to outputs and the penalties on weights and values (of this batch)."""
    import tensorflow as tf

    def forward(inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = tf.cast(model(tf.cast(inputs, tf.float32), training=False), tf.float32)
        return outputs, tf.cast(sum(model.losses), tf.float32)

    return tf.function(forward, reduce_retracing=True)


def _mean_of(values: "tf.Tensor") -> float:
    return float(values.numpy().mean(dtype=np.float64))
