"""The compiled loop: the steps of an epoch inside one program, on data held in memory, under any strategy.

The host acts only between ranges of steps; no result depends on where the ranges are cut.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from experiments.data.datasets import Split
from experiments.errors import TrainingError
from experiments.profiling import span
from experiments.training.augmentation import Augmenter
from experiments.training.evaluation import per_example_functions
from experiments.training.optimizers import NOT_UNDER_XLA, set_hyperparameters
from experiments.training.randomness import epoch_order, make_repeatable

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


SECONDS_BETWEEN_REPORTS = 0.25
RANGES_OF_WORKERS = 20  # in an epoch


class CompiledLoop:
    """Trains a model by compiled ranges of steps.

    One device runs them under XLA. Several replicas each take their rows of the global batch; gradients are summed over
    all replicas before the optimizer clips and applies them, so that the result is that of one device, to rounding.

    Args:
        model, optimizer: made in the scope of `strategy`.
        loss: name of a loss in `keras.losses`.
        training: the examples to learn from.
        batch_size: of the global batch.
        seed: with epoch and step, all that order, dropout masks and changes to images depend on.
        augment: changes the images of a batch, or None.
    """

    resumes_within_an_epoch = True

    def __init__(
        self,
        strategy: "tf.distribute.Strategy",
        model: "keras.Model",
        optimizer: "keras.optimizers.Optimizer",
        loss: str,
        training: Split,
        batch_size: int,
        seed: int,
        augment: Augmenter | None,
    ) -> None:
        import tensorflow as tf

        self.strategy, self.seed, self.batch_size = strategy, seed, batch_size
        self.several_processes = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self.program = compiled_program(strategy, model, optimizer, loss, batch_size, augment)
        self.examples = len(training.targets)
        rates = np.array([model.get_layer(layer.name).rate for layer in self.program.dropouts], np.float64)
        # On every device a copy: the data of this project is small, and a gather from host memory is not free.
        self.inputs = (
            self._on_each_device(training.inputs),
            self._on_each_device(training.targets),
            # Rates are inputs of the program, not constants in it: one program serves every rate.
            tf.constant((rates * 2**32).astype(np.uint32)),
            tf.constant((1 / (1 - rates)).astype(np.float32)),
        )

    def check_agreement(self, steps_done: int) -> None:
        """Raise unless all workers go on from the same step: a checkpoint that only some can see would part them.

        Raises:
            TrainingError: names the step of this worker.
        """
        import tensorflow as tf

        if not self.several_processes:
            return
        local = self.strategy.run(lambda: tf.constant([steps_done, 1.0], tf.float32))
        total, workers = self.strategy.reduce("sum", local, axis=None).numpy()
        if total != workers * steps_done:
            raise TrainingError(
                f"The workers do not go on from the same step: this one has done {steps_done}, the mean is"
                f" {total / workers:g}. All need the checkpoint: share the folder outputs/checkpoints between them."
            )

    def _next_range(self, length: int, steps: int, seconds: float) -> int:
        """So many steps that a range takes SECONDS_BETWEEN_REPORTS; the first is short, and pays for the compilation.

        Workers must cut alike, as a collective operation waits for its peer in the same iteration of the same call.
        """
        if self.several_processes:
            return max(1, self.examples // self.batch_size // RANGES_OF_WORKERS)
        if length == 1:
            return 8
        return max(1, min(4 * length, round(steps * SECONDS_BETWEEN_REPORTS / seconds)))

    def _on_each_device(self, array: np.ndarray) -> "tf.Tensor":
        import tensorflow as tf

        if self.program.replicas == 1:
            return tf.constant(array)
        return self.strategy.experimental_distribute_values_from_function(lambda _: tf.constant(array))

    def epoch(
        self,
        epoch: int,
        hyperparameters: np.ndarray,
        start: int,
        sums: np.ndarray,
        report: Callable[[int, np.ndarray], None],
    ) -> np.ndarray:
        """Run the steps of an epoch from `start` on.

        Args:
            epoch: from 1 on.
            hyperparameters: of each step, as optimizers.plan gives them.
            start: steps of this epoch that are done.
            sums: float32 [2], the sums of loss and metric over the examples of those steps.
            report: called after each range with the steps done and the sums so far; what it raises ends the epoch.

        Returns:
            The sums over the whole epoch.
        """
        import tensorflow as tf

        order = tf.constant(epoch_order(self.seed, epoch, self.examples))
        plan, carried = tf.constant(hyperparameters), tf.constant(sums, tf.float32)
        counter = tf.constant(np.array([self.seed, epoch], np.uint32))
        whole, rest = divmod(self.examples, self.batch_size)
        done, length, totals = start, 1, sums
        while done < whole:
            began = time.perf_counter()
            stop = min(done + length, whole)
            compiled = self.program.whole_batches.experimental_get_tracing_count() > 0
            with span("steps" if compiled else "compiling and the first step"):
                steps = tf.constant(done), tf.constant(stop)
                carried = self.program.whole_batches(self.inputs, carried, order, plan, counter, *steps)
                totals = carried.numpy()
            length = self._next_range(length, stop - done, time.perf_counter() - began)
            done = stop
            report(done, totals)
        if rest and done == whole:
            rows = order[whole * self.batch_size :]
            with span("last batch"):
                last = self.program.last_batch(self.inputs, carried, rows, plan[whole], counter, tf.constant(whole))
                totals = last.numpy()
            report(whole + 1, totals)
        return totals


ProgramInputs = tuple[
    "tf.Tensor", ...
]  # the examples' inputs and targets, and of each dropout layer threshold and scale


class TrainingProgram:
    """The compiled steps of training a model; all that may differ between runs of the same network is an input."""

    def __init__(
        self,
        strategy: "tf.distribute.Strategy",
        model: "keras.Model",
        optimizer: "keras.optimizers.Optimizer",
        loss: str,
        batch_size: int,
        augment: Augmenter | None,
    ) -> None:
        import tensorflow as tf

        self.strategy, self.replicas = strategy, strategy.num_replicas_in_sync
        with strategy.scope():
            self.model, self.dropouts = make_repeatable(model, synchronized=self.replicas > 1)
            optimizer.build(model.trainable_variables)
        self.optimizer, self.batch_size, self.augment = optimizer, batch_size, augment
        self.losses, self.quality = per_example_functions(loss, model.output_shape[-1])
        xla = self.replicas == 1 and _suits_xla(model, optimizer)
        self.whole_batches = tf.function(self._whole_batches, jit_compile=xla)
        self.last_batch = tf.function(self._last_batch)

    def _whole_batches(
        self,
        given: ProgramInputs,
        sums: "tf.Tensor",
        order: "tf.Tensor",
        plan: "tf.Tensor",
        counter: "tf.Tensor",
        start: "tf.Tensor",
        stop: "tf.Tensor",
    ) -> "tf.Tensor":
        import tensorflow as tf

        step = start  # a tf.range would make XLA compile anew for each start and stop
        while step < stop:
            rows = tf.slice(order, [step * self.batch_size], [self.batch_size])
            sums += self._step(given, rows, plan[step], counter, step)
            step += 1
        return sums

    def _last_batch(
        self,
        given: ProgramInputs,
        sums: "tf.Tensor",
        rows: "tf.Tensor",
        planned: "tf.Tensor",
        counter: "tf.Tensor",
        step: "tf.Tensor",
    ) -> "tf.Tensor":
        return sums + self._step(given, rows, planned, counter, step)

    def _step(
        self, given: ProgramInputs, rows: "tf.Tensor", planned: "tf.Tensor", counter: "tf.Tensor", step: "tf.Tensor"
    ) -> "tf.Tensor":
        """One step of gradient descent on these rows; the sums of loss and metric over them, float32 [2]."""
        # Keras's optimizer reduces within a replica after it has clipped; outside of one it takes what it is given.
        if self.replicas == 1:
            gradients, sums = self._gradients(given, rows, counter, step)
        else:
            per_replica = self.strategy.run(self._gradients, args=(given, rows, counter, step))
            gradients, sums = self._local(per_replica)
        set_hyperparameters(self.optimizer, planned)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return sums

    def _local(self, per_replica: tuple) -> tuple[list["tf.Tensor"], "tf.Tensor"]:
        gradients, sums = per_replica  # reduced: the same on every replica
        return [self.strategy.experimental_local_results(g)[0] for g in gradients], (
            self.strategy.experimental_local_results(sums)[0]
        )

    def _gradients(
        self, given: ProgramInputs, rows: "tf.Tensor", counter: "tf.Tensor", step: "tf.Tensor"
    ) -> tuple[list["tf.Tensor"], "tf.Tensor"]:
        """On this replica's share of the rows: gradients and sums, over all replicas."""
        import tensorflow as tf

        inputs, targets, thresholds, scales = given
        examples = tf.shape(rows)[0]
        first = tf.constant(0)
        if self.replicas > 1:
            replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
            first, last = (n * examples // self.replicas for n in (replica, replica + 1))
            rows = rows[first:last]
        inputs = tf.cast(tf.gather(inputs, rows), tf.float32)
        targets = tf.gather(targets, rows)
        if self.augment:
            inputs = self.augment(inputs, counter[0], counter[1], tf.cast(step, tf.uint32), first)
        for index, layer in enumerate(self.dropouts):
            layer.draw.counter = tf.stack(
                [counter[0], tf.constant(index, tf.uint32), counter[1], tf.cast(step, tf.uint32)]
            )
            layer.draw.threshold, layer.draw.scale, layer.draw.first_row = (
                thresholds[index],
                scales[index],
                first,
            )
        variables = self.model.trainable_variables
        count = tf.cast(examples, tf.float32)
        with tf.GradientTape() as tape:
            outputs = tf.cast(self.model(inputs, training=True), tf.float32)
            # A share of the mean over the global batch, whatever the number of rows here, none included.
            loss = tf.reduce_sum(self.losses(targets, outputs)) / count + sum(self.model.losses) / self.replicas
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        sums = tf.stack([loss * count, tf.reduce_sum(self.quality(targets, outputs))])
        if self.replicas > 1:
            *gradients, sums = tf.distribute.get_replica_context().all_reduce("sum", [*gradients, sums])
        return gradients, sums


compiled_program = lru_cache(maxsize=4)(TrainingProgram)  # of models that networks.build gave again


def _suits_xla(model: "keras.Model", optimizer: "keras.optimizers.Optimizer") -> bool:
    """XLA makes small steps several times faster, but on a CPU it runs a convolution a hundred times slower."""
    import tensorflow as tf

    convolves = any("Conv" in type(layer).__name__ for layer in model.layers)
    return optimizer.name not in NOT_UNDER_XLA and not (convolves and not tf.config.list_logical_devices("GPU"))
