"""One compiled training loop: the steps of an epoch run inside one XLA program, on data held in memory.

The host acts only between ranges of steps (progress, stopping); no result depends on where the ranges are cut.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from experiments import randomness
from experiments.data import Split
from experiments.errors import TrainingError
from experiments.optimizers import NOT_UNDER_XLA

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

SECONDS_BETWEEN_REPORTS = 0.25
EVALUATION_BATCH = 500  # examples; bounds the memory of a forward pass, has no influence on the result

Metrics = dict[str, float]


class Progress(Protocol):
    """What the loop tells while it runs."""

    def step(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None: ...

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None: ...


def train(
    model: "keras.Model",
    optimizer: "keras.optimizers.Optimizer",
    loss: str,
    learning_rates: np.ndarray,
    training: Split,
    validation: Split,
    batch_size: int,
    seed: int,
    progress: Progress,
) -> Iterator[Metrics]:
    """Train `model` in place, and yield the metrics of each epoch when it is through.

    Args:
        model: built, of stock layers; its dropout layers are made repeatable for training only.
        loss: the name of a loss in `keras.losses`.
        learning_rates: float32 [epochs, steps per epoch].
        training: the examples to learn from; the last batch of an epoch is smaller when they do not divide.
        validation: examples to measure on after each epoch; with none there are no `val_` metrics.
        seed: with epoch and step, all that the order and the dropout masks depend on.

    Yields:
        loss, accuracy (or mean_absolute_error) over the epoch's training examples as they were trained on, the same
        with `val_` after the epoch, learning_rate (of the last step), epoch_seconds and examples_per_second.

    Raises:
        TrainingError: a loss is not finite.
    """
    loop = Loop(model, optimizer, loss, training, batch_size, seed)
    evaluate = Evaluator(model, loss)
    epochs = len(learning_rates)
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        for step, metrics in loop.epoch(epoch, learning_rates[epoch - 1]):
            progress.step(epoch, step, metrics)
        trained = time.perf_counter() - start
        if epoch == epochs:
            optimizer.finalize_variable_values(model.trainable_variables)
        if len(validation.targets):
            metrics |= {f"val_{name}": value for name, value in evaluate(validation).metrics.items()}
        _refuse_infinite(metrics, epoch, epochs)
        metrics |= {
            "learning_rate": float(learning_rates[epoch - 1, -1]),
            "epoch_seconds": trained,
            "examples_per_second": len(training.targets) / trained,
        }
        progress.epoch(epoch, metrics)
        yield metrics


def _refuse_infinite(metrics: Metrics, epoch: int, epochs: int) -> None:
    for name, value in metrics.items():
        if not np.isfinite(value):
            raise TrainingError(
                f"{name} became {value} in epoch {epoch} of {epochs}. Likely causes: optimizer.learning_rate is too"
                " large (try a tenth of it), gradients explode (try optimizer.global_clipnorm=1), or model.activation"
                " and model.kernel_initializer do not go together."
            )


class Loop:
    """The compiled steps over one training set."""

    def __init__(
        self,
        model: "keras.Model",
        optimizer: "keras.optimizers.Optimizer",
        loss: str,
        training: Split,
        batch_size: int,
        seed: int,
    ) -> None:
        import tensorflow as tf

        self.model, self.dropouts = randomness.repeatable(model)
        self.optimizer, self.seed, self.batch_size = optimizer, seed, batch_size
        self.losses, self.quality = per_example(loss)
        self.examples = len(training.targets)
        self.inputs, self.targets = tf.constant(training.inputs), tf.constant(training.targets)
        rates = np.array([layer.rate for layer in self.dropouts], np.float64)
        # Rates are inputs of the program, not constants in it: one program serves every rate.
        self.thresholds = tf.constant((rates * 2**32).astype(np.uint32))
        self.scales = tf.constant((1 / (1 - rates)).astype(np.float32))
        optimizer.build(model.trainable_variables)
        self.whole_batches = tf.function(self._whole_batches, jit_compile=_suits_xla(model, optimizer))
        self.last_batch = tf.function(self._last_batch)

    def epoch(self, epoch: int, learning_rates: np.ndarray) -> Iterator[tuple[int, Metrics]]:
        """Run all steps of an epoch; yield after each range the steps done and the means so far."""
        import tensorflow as tf

        order = tf.constant(randomness.order(self.seed, epoch, self.examples))
        rates = tf.constant(learning_rates)
        counter = tf.constant(np.array([self.seed, epoch], np.uint32))
        sums = tf.zeros(2)
        whole, rest = divmod(self.examples, self.batch_size)
        done, length = 0, 1
        while done < whole:
            start = time.perf_counter()
            stop = min(done + length, whole)
            sums = self.whole_batches(sums, order, rates, counter, tf.constant(done), tf.constant(stop))
            totals = sums.numpy()
            length = _next_range(length, stop - done, time.perf_counter() - start)
            done = stop
            yield done, self._means(totals, done * self.batch_size)
        if rest:
            sums = self.last_batch(sums, order[whole * self.batch_size :], rates[whole], counter, tf.constant(whole))
            yield whole + 1, self._means(sums.numpy(), self.examples)

    def _means(self, sums: np.ndarray, examples: int) -> Metrics:
        return {"loss": float(sums[0]) / examples, self.quality.name: float(sums[1]) / examples}

    def _whole_batches(
        self,
        sums: "tf.Tensor",
        order: "tf.Tensor",
        rates: "tf.Tensor",
        counter: "tf.Tensor",
        start: "tf.Tensor",
        stop: "tf.Tensor",
    ) -> "tf.Tensor":
        import tensorflow as tf

        step = start  # a tf.range would make XLA compile anew for each start and stop
        while step < stop:
            rows = tf.slice(order, [step * self.batch_size], [self.batch_size])
            sums += self._step(rows, rates[step], counter, step)
            step += 1
        return sums

    def _last_batch(
        self, sums: "tf.Tensor", rows: "tf.Tensor", rate: "tf.Tensor", counter: "tf.Tensor", step: "tf.Tensor"
    ) -> "tf.Tensor":
        return sums + self._step(rows, rate, counter, step)

    def _step(self, rows: "tf.Tensor", rate: "tf.Tensor", counter: "tf.Tensor", step: "tf.Tensor") -> "tf.Tensor":
        """One step of gradient descent on these rows; the sums of loss and quality over them, float32 [2]."""
        import tensorflow as tf

        inputs = tf.cast(tf.gather(self.inputs, rows), tf.float32)
        targets = tf.gather(self.targets, rows)
        for index, layer in enumerate(self.dropouts):
            layer.counter = tf.stack([counter[0], tf.constant(index, tf.uint32), counter[1], tf.cast(step, tf.uint32)])
            layer.threshold, layer.scale = self.thresholds[index], self.scales[index]
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            outputs = self.model(inputs, training=True)
            loss = tf.reduce_mean(self.losses(targets, outputs)) + sum(self.model.losses)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        self.optimizer.learning_rate = rate
        self.optimizer.apply(gradients, variables)
        examples = tf.cast(tf.shape(rows)[0], tf.float32)
        return tf.stack([loss * examples, tf.reduce_sum(self.quality(targets, outputs))])


def _suits_xla(model: "keras.Model", optimizer: "keras.optimizers.Optimizer") -> bool:
    """XLA makes small steps several times faster, but on a CPU it runs a convolution a hundred times slower."""
    import tensorflow as tf

    convolves = any("Conv" in type(layer).__name__ for layer in model.layers)
    return optimizer.name not in NOT_UNDER_XLA and not (convolves and not tf.config.list_logical_devices("GPU"))


def _next_range(length: int, steps: int, seconds: float) -> int:
    """So many steps that a range takes SECONDS_BETWEEN_REPORTS; the first is short, and pays for the compilation."""
    if length == 1:
        return 8
    return max(1, min(4 * length, round(steps * SECONDS_BETWEEN_REPORTS / seconds)))


class Quality(Protocol):
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


def per_example(loss: str) -> tuple[Callable[["tf.Tensor", "tf.Tensor"], "tf.Tensor"], Quality]:
    """The loss of each example [batch] by its name in Keras, and the metric that goes with it."""
    import keras

    quality: Quality = Accuracy() if "crossentropy" in loss else AbsoluteError()
    return getattr(keras.losses, loss), quality


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a split: outputs float32 [n, classes or 1], and the mean metrics."""

    outputs: np.ndarray
    metrics: Metrics


class Evaluator:
    """Runs the model forward over a whole split, every example once."""

    def __init__(self, model: "keras.Model", loss: str) -> None:
        import tensorflow as tf

        self.model = model
        self.losses, self.quality = per_example(loss)
        self.forward = tf.function(
            lambda inputs: model(tf.cast(inputs, tf.float32), training=False), reduce_retracing=True
        )

    def __call__(self, split: Split) -> Evaluation:
        import tensorflow as tf

        starts = range(0, len(split.targets), EVALUATION_BATCH)
        outputs = tf.concat([self.forward(tf.constant(split.inputs[s : s + EVALUATION_BATCH])) for s in starts], 0)
        targets = tf.constant(split.targets)
        penalty = sum(self.model.losses)
        metrics = {
            "loss": float(tf.reduce_mean(self.losses(targets, outputs)) + penalty),
            self.quality.name: float(tf.reduce_mean(self.quality(targets, outputs))),
        }
        return Evaluation(outputs.numpy(), metrics)
