"""The compiled loop: the steps of an epoch in a compiled program, on data held in memory, under any strategy.

The host acts only between ranges of steps; no result depends on where the ranges are cut.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from experiments.data.splits import Split
from experiments.errors import TrainingError
from experiments.profiling import span
from experiments.training.cluster import name_failed_worker
from experiments.training.compiled_programs import share_programs
from experiments.training.network_cache import CompiledNetwork
from experiments.training.randomness import epoch_order

if TYPE_CHECKING:
    import tensorflow as tf


SECONDS_BETWEEN_REPORTS = 0.25
RANGES_OF_WORKERS = 20  # in an epoch

# Called after each range with the steps done and the sums so far; an exception ends the epoch.
StepReport = Callable[[int, np.ndarray], None]


class CompiledLoop:
    """Trains a network by compiled ranges of steps.

    Seed, epoch and step determine the order, the dropout masks and the augmentation.
    """

    resumes_within_an_epoch = True

    def __init__(
        self, network: CompiledNetwork, training: Split, seed: int, class_weights: np.ndarray | None = None
    ) -> None:
        import tensorflow as tf

        self.strategy, self.batch_size, self.seed = network.strategy, network.batch_size, seed
        self.several_processes = isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self.program, self.examples = network.program, len(training.targets)
        rates = np.array([network.model.get_layer(layer.name).rate for layer in self.program.dropouts], np.float64)
        # A copy on every device: the data is small, and gathering from host memory takes time.
        self.inputs = (
            self._on_each_device(training.inputs),
            self._on_each_device(training.targets),
            # Rates are inputs of the program, not constants in it: one program serves every rate.
            tf.constant((rates * 2**32).astype(np.uint32)),
            tf.constant((1 / (1 - rates)).astype(np.float32)),
            tf.constant([] if class_weights is None else class_weights, tf.float32),
        )

    @name_failed_worker()
    def check_agreement(self, steps_done: int) -> None:
        """Raise a TrainingError unless all workers continue from the same step: some may not see the checkpoint."""
        import tensorflow as tf

        if not self.several_processes:
            return
        local = self.strategy.run(lambda: tf.constant([steps_done, 1.0], tf.float32))
        total, workers = self.strategy.reduce("sum", local, axis=None).numpy()
        if total != workers * steps_done:
            raise TrainingError(
                f"The workers do not continue from the same step: this one has done {steps_done}, the mean is"
                f" {total / workers:g}. All need the checkpoint: share the folder outputs/checkpoints between them."
            )

    def _next_range(self, length: int, steps: int, seconds: float) -> int:
        """Return how many steps take SECONDS_BETWEEN_REPORTS; the first range is one step, as it includes compilation.

        All workers use the same ranges: a collective operation waits for its peer in the same call and iteration.
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

    @name_failed_worker()
    def epoch(
        self, epoch: int, hyperparameters: np.ndarray, start: int, sums: np.ndarray, report: StepReport
    ) -> np.ndarray:
        """Run the remaining steps of an epoch, and return the sums over the whole epoch.

        `hyperparameters` are those of each step, from plan_hyperparameters; `start` steps are done, over whose examples
        the sums of loss and metric are `sums`, float32 [2].
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
            if not compiled:
                share_programs()
            length = self._next_range(length, stop - done, max(time.perf_counter() - began, 1e-9))
            done = stop
            report(done, totals)
        if rest and done == whole:
            rows = order[whole * self.batch_size :]
            with span("last batch"):
                compiled = self.program.last_batch.experimental_get_tracing_count() > 0
                carried += self.program.last_batch(self.inputs, rows, plan[whole], counter, tf.constant(whole))
                totals = carried.numpy()
            if self.program.xla_last and not compiled:
                share_programs()
            report(whole + 1, totals)
        return totals
