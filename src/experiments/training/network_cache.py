"""The networks of this process with all that is compiled of them: runs of the same kind of network share one.

Tracing and compiling a program takes longer than training a small network, and Keras binds both to its objects. So all
that may differ between runs of the same kind is an input of the compiled steps.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from experiments.config.schema import Config
from experiments.training.augmentation import Augmenter, build_augmenter
from experiments.training.evaluation import Evaluator, per_example_functions
from experiments.training.networks import build_network, set_initial_weights
from experiments.training.optimizers import NOT_UNDER_XLA, build_optimizer, set_hyperparameters
from experiments.training.randomness import with_counter_dropout

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf


KEPT_NETWORKS = 4
PROGRAM_INPUTS = ("rate", "learning_rate")  # of layers and optimizers: inputs of the program, not constants in it

_kept_networks: "dict[str, CompiledNetwork]" = {}


@dataclass
class CompiledNetwork:
    """A model, its optimizer, and what is compiled of them, each on first use."""

    strategy: "tf.distribute.Strategy"  # model and optimizer were made in its scope
    model: "keras.Model"  # of stock layers, with the weights that are trained
    optimizer: "keras.optimizers.Optimizer"
    loss: str  # name of a loss in keras.losses
    batch_size: int  # of the global batch
    augmenter: Augmenter | None

    @cached_property
    def program(self) -> "TrainingProgram":
        return TrainingProgram(self)

    @cached_property
    def evaluate(self) -> Evaluator:
        return Evaluator(self.model, self.loss)

    def copy_state(self, other: "CompiledNetwork") -> None:
        """Take the weights, the optimizer's state and the dropout rates of another network of the same kind."""
        for ours, theirs in ((self.model, other.model), (self.optimizer, other.optimizer)):
            for variable, value in zip(ours.variables, theirs.variables, strict=True):
                variable.assign(value)
        for layer, new in zip(self.model.layers, other.model.layers, strict=True):
            if hasattr(new, "rate"):
                layer.rate = new.rate


def prepare_network(
    config: Config, strategy: "tf.distribute.Strategy", initial_weights: "Sequence[np.ndarray] | None" = None
) -> CompiledNetwork:
    """Return the network of a config in its initial state, with the programs of an earlier one of the same kind.

    The KEPT_NETWORKS kinds used last are kept. A kind is all that is a constant in a program: layers, optimizer, loss,
    batch size and augmentation, but neither weights nor PROGRAM_INPUTS. Networks on several replicas, and those of
    Keras's own loop, are not kept. Arguments and errors are those of compile_network.
    """
    network = compile_network(config, strategy, initial_weights)
    if strategy.num_replicas_in_sync > 1 or config.training.loop == "fit":
        return network
    objects = [_constants_of(kind.get_config()) for kind in (network.model, network.optimizer)]
    optimizer = [config.optimizer.name, config.optimizer.arguments]
    key = json.dumps([id(strategy), *objects, *optimizer, network.loss, network.batch_size, repr(network.augmenter)])
    if kept := _kept_networks.pop(key, None):
        kept.copy_state(network)
    _kept_networks[key] = kept or network
    if len(_kept_networks) > KEPT_NETWORKS:
        del _kept_networks[next(iter(_kept_networks))]
    return _kept_networks[key]


def compile_network(
    config: Config, strategy: "tf.distribute.Strategy", initial_weights: "Sequence[np.ndarray] | None" = None
) -> CompiledNetwork:
    """Build network and optimizer in the scope of a strategy; None draws the weights by seed.

    Raise a ConfigError if the network cannot be built, or the weights do not fit.
    """
    training = config.training
    with strategy.scope():
        model = build_network(config)
        if initial_weights is not None:
            set_initial_weights(model, initial_weights, f"model.weights={config.model.weights}")
        optimizer = build_optimizer(config.optimizer, training.gradient_clipping)
        optimizer.build(model.trainable_variables)
    return CompiledNetwork(strategy, model, optimizer, training.loss, training.batch_size, build_augmenter(config.data))


def _constants_of(config: Any) -> Any:
    """Return the config of a Keras object without the inputs of the program."""
    if isinstance(config, dict):
        return {key: _constants_of(value) for key, value in config.items() if key not in PROGRAM_INPUTS}
    return [_constants_of(value) for value in config] if isinstance(config, list | tuple) else repr(config)


# Inputs and targets of all examples, and the threshold and scale of each dropout layer.
ProgramInputs = tuple["tf.Tensor", ...]


class TrainingProgram:
    """A range of whole batches, and the smaller last batch of an epoch, as compiled functions.

    One device runs them under XLA. Several replicas each take their rows of the global batch; gradients are summed over
    all replicas before the optimizer clips and applies them, so the result equals that of one device, to rounding.
    """

    def __init__(self, network: CompiledNetwork) -> None:
        import tensorflow as tf

        self.strategy, self.replicas = network.strategy, network.strategy.num_replicas_in_sync
        with self.strategy.scope():
            self.model, self.dropouts = with_counter_dropout(network.model, synchronized=self.replicas > 1)
        self.optimizer, self.batch_size, self.augment = network.optimizer, network.batch_size, network.augmenter
        self.losses, self.quality = per_example_functions(network.loss, network.model.output_shape[-1])
        xla = self.replicas == 1 and _suits_xla(network.model, network.optimizer)
        self.whole_batches = tf.function(self._whole_batches, jit_compile=xla)
        self.last_batch = tf.function(self._step)

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

        step = start  # with tf.range, XLA would compile again for each start and stop
        while step < stop:
            rows = tf.slice(order, [step * self.batch_size], [self.batch_size])
            sums += self._step(given, rows, plan[step], counter, step)
            step += 1
        return sums

    def _step(
        self, given: ProgramInputs, rows: "tf.Tensor", planned: "tf.Tensor", counter: "tf.Tensor", step: "tf.Tensor"
    ) -> "tf.Tensor":
        """Take one step on these rows, and return the sums of loss and metric over them, float32 [2]."""
        # Within a replica, Keras's optimizer reduces only after clipping; outside it applies what it is given.
        if self.replicas == 1:
            gradients, sums = self._gradients(given, rows, counter, step)
        else:
            per_replica = self.strategy.run(self._gradients, args=(given, rows, counter, step))
            local = self.strategy.experimental_local_results
            gradients, sums = per_replica  # reduced: the same on every replica
            gradients, sums = [local(gradient)[0] for gradient in gradients], local(sums)[0]
        set_hyperparameters(self.optimizer, planned)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return sums

    def _gradients(
        self, given: ProgramInputs, rows: "tf.Tensor", counter: "tf.Tensor", step: "tf.Tensor"
    ) -> tuple[list["tf.Tensor"], "tf.Tensor"]:
        """Return gradients and sums over all replicas, each of which takes its share of the rows."""
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
            words = counter[0], tf.constant(index, tf.uint32), counter[1], tf.cast(step, tf.uint32)
            layer.draw.counter = tf.stack(words)
            layer.draw.threshold, layer.draw.scale, layer.draw.first_row = thresholds[index], scales[index], first
        variables = self.model.trainable_variables
        count = tf.cast(examples, tf.float32)
        with tf.GradientTape() as tape:
            outputs = tf.cast(self.model(inputs, training=True), tf.float32)
            # This replica's share of the mean over the global batch, also where it has no rows.
            loss = tf.reduce_sum(self.losses(targets, outputs)) / count + sum(self.model.losses) / self.replicas
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        sums = tf.stack([loss * count, tf.reduce_sum(self.quality(targets, outputs))])
        if self.replicas > 1:
            *gradients, sums = tf.distribute.get_replica_context().all_reduce("sum", [*gradients, sums])
        return gradients, sums


def _suits_xla(model: "keras.Model", optimizer: "keras.optimizers.Optimizer") -> bool:
    """Return whether XLA pays: several times faster for small steps, a hundred times slower for CPU convolutions."""
    import tensorflow as tf

    convolves = any("Conv" in type(layer).__name__ for layer in model.layers)
    return optimizer.name not in NOT_UNDER_XLA and not (convolves and not tf.config.list_logical_devices("GPU"))
