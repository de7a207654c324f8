"""Keras's own `fit`, with the order, masks, learning rates and metrics of the compiled loop."""

from functools import partial
from typing import Any

import numpy as np

from experiments.data.splits import Split
from experiments.training.compiled_loop import StepReport
from experiments.training.network_cache import CompiledNetwork
from experiments.training.optimizers import set_hyperparameters
from experiments.training.randomness import LAYER_STREAM, drawing, epoch_order, with_counter_dropout


class FitLoop:
    """Trains a network by `keras.Model.fit`, one epoch per call, on one device. It resumes only between epochs."""

    resumes_within_an_epoch = False

    def __init__(
        self, network: CompiledNetwork, training: Split, seed: int, class_weights: np.ndarray | None = None
    ) -> None:
        import tensorflow as tf

        augment = network.augmenter and partial(network.augmenter)  # which has a hash
        self.augment = tf.function(augment, reduce_retracing=True) if augment else None
        self.model, self.dropouts = with_counter_dropout(network.model)
        self.optimizer, self.batch_size = network.optimizer, network.batch_size
        self.training, self.seed = training, seed
        self.metric = network.criterion.quality.__name__
        self.class_weights = None if class_weights is None else dict(enumerate(class_weights.tolist()))
        self.counter = tf.Variable(tf.zeros(3, tf.uint32), trainable=False)  # seed, epoch and step
        for layer in self.dropouts:
            layer.draw.counter = tf.Variable(tf.zeros(4, tf.uint32), trainable=False)
            layer.draw.threshold = tf.constant(int(layer.rate * 2**32), tf.uint32)
            layer.draw.scale = tf.constant(1 / (1 - layer.rate), tf.float32)
        self.keras_step, self.model.train_step = self.model.train_step, self._train_step
        self.model.compile(optimizer=self.optimizer, loss=network.criterion.losses, metrics=[self.metric])

    def epoch(
        self, epoch: int, hyperparameters: np.ndarray, start: int, sums: np.ndarray, report: StepReport
    ) -> np.ndarray:
        """Run an epoch; arguments and result as in CompiledLoop.epoch (`start` is 0, `sums` are zeros)."""
        import keras

        examples = len(self.training.targets)
        order = epoch_order(self.seed, epoch, examples)

        def prepare(step: int, logs: object) -> None:
            set_hyperparameters(self.optimizer, hyperparameters[step])
            self.counter.assign(np.array([self.seed, epoch, step], np.uint32))
            for index, layer in enumerate(self.dropouts):
                layer.draw.counter.assign(np.array([self.seed, index, epoch, step], np.uint32))

        def finish(step: int, logs: dict[str, float]) -> None:
            report(step + 1, self._sums(logs, min((step + 1) * self.batch_size, examples)))

        history = self.model.fit(
            self._inputs(order, epoch),
            self.training.targets[order],
            batch_size=self.batch_size,
            class_weight=self.class_weights,
            shuffle=False,
            epochs=epoch,
            initial_epoch=epoch - 1,
            verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_train_batch_begin=prepare, on_train_batch_end=finish)],
        ).history
        return self._sums({name: values[-1] for name, values in history.items()}, examples)

    def _train_step(self, batch: Any) -> Any:
        with drawing(LAYER_STREAM, self.counter):
            return self.keras_step(batch)

    def _inputs(self, order: np.ndarray, epoch: int) -> np.ndarray:
        """Return the inputs of an epoch in order, float32, augmented batch by batch as in the compiled loop."""
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
