"""Keras's own `fit` under the contract of the compiled loop: the same order, masks, learning rates and metrics."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.data.datasets import Split
from experiments.training.augmentation import Augmenter
from experiments.training.evaluation import per_example_functions
from experiments.training.optimizers import set_hyperparameters
from experiments.training.randomness import epoch_order, make_repeatable

if TYPE_CHECKING:
    import keras


class FitLoop:
    """Trains a model by `keras.Model.fit`, an epoch a call, on one device. It can be resumed at epochs only.

    Args: as CompiledLoop.
    """

    resumes_within_an_epoch = False

    def __init__(
        self,
        model: "keras.Model",
        optimizer: "keras.optimizers.Optimizer",
        loss: str,
        training: Split,
        batch_size: int,
        seed: int,
        augment: Augmenter | None,
    ) -> None:
        import tensorflow as tf

        self.augment = tf.function(augment, reduce_retracing=True) if augment else None

        self.model, self.dropouts = make_repeatable(model)
        self.optimizer, self.training, self.batch_size, self.seed = optimizer, training, batch_size, seed
        losses, quality = per_example_functions(loss, model.output_shape[-1])
        self.metric = quality.name
        for layer in self.dropouts:
            layer.draw.counter = tf.Variable(tf.zeros(4, tf.uint32), trainable=False)
            layer.draw.threshold = tf.constant(int(layer.rate * 2**32), tf.uint32)
            layer.draw.scale = tf.constant(1 / (1 - layer.rate), tf.float32)
        self.model.compile(optimizer=optimizer, loss=losses, metrics=[self.metric])
        optimizer.build(model.trainable_variables)

    def check_agreement(self, steps_done: int) -> None:
        """One process has nobody to agree with."""

    def epoch(
        self,
        epoch: int,
        hyperparameters: np.ndarray,
        start: int,
        sums: np.ndarray,
        report: Callable[[int, np.ndarray], None],
    ) -> np.ndarray:
        """Run the steps of an epoch; arguments and result as CompiledLoop.epoch (`start` is 0, `sums` are zeros)."""
        import keras

        examples = len(self.training.targets)
        order = epoch_order(self.seed, epoch, examples)
        loop = self

        class Steps(keras.callbacks.Callback):
            """Sets what depends on the step before it, and reports after it."""

            def on_train_batch_begin(self, step: int, logs: Any = None) -> None:
                set_hyperparameters(loop.optimizer, hyperparameters[step])
                for index, layer in enumerate(loop.dropouts):
                    layer.draw.counter.assign(np.array([loop.seed, index, epoch, step], np.uint32))

            def on_train_batch_end(self, step: int, logs: Any = None) -> None:
                done = min((step + 1) * loop.batch_size, examples)
                report(step + 1, loop._sums(logs, done))

        history = self.model.fit(
            self._inputs(order, epoch),
            self.training.targets[order],
            batch_size=self.batch_size,
            shuffle=False,
            epochs=epoch,
            initial_epoch=epoch - 1,
            verbose=0,
            callbacks=[Steps()],
        ).history
        return self._sums({name: values[-1] for name, values in history.items()}, examples)

    def _inputs(self, order: np.ndarray, epoch: int) -> np.ndarray:
        """The inputs of an epoch in their order, float32, changed batch by batch as the compiled loop changes them."""
        import tensorflow as tf

        inputs = self.training.inputs[order].astype(np.float32)
        if self.augment:
            for step, start in enumerate(range(0, len(inputs), self.batch_size)):
                words = (tf.constant(word, tf.uint32) for word in (self.seed, epoch, step))
                batch = slice(start, start + self.batch_size)
                inputs[batch] = self.augment(tf.constant(inputs[batch]), *words, tf.constant(0))
        return inputs

    def _sums(self, means: dict[str, float], examples: int) -> np.ndarray:
        return np.array([means["loss"] * examples, means[self.metric] * examples])
