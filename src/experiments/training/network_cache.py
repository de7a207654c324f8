"""The networks of this process with all that is compiled of them: runs of the same kind of network share one.

Tracing and compiling a program takes longer than training a small network, and Keras binds both to its objects. So all
that may differ between runs of the same kind is an input of the compiled steps.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING, Any

from experiments.config.registry import own_functions
from experiments.config.schema import Config
from experiments.training.augmentation import Augmenter, build_augmenter
from experiments.training.evaluation import Criterion, Evaluator, criterion_of
from experiments.training.initial_weights import InitialWeights, start_from
from experiments.training.networks import build_network
from experiments.training.optimizers import (
    NOT_UNDER_XLA,
    build_optimizer,
    set_hyperparameters,
    updates_of_one_replica,
)
from experiments.training.own_checks import check_own_functions
from experiments.training.randomness import LAYER_STREAM, drawing, pools_blocks, with_counter_dropout

if TYPE_CHECKING:
    import keras
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
    criterion: Criterion
    is_weighted: bool  # whether each class has its own weight, an input of the program
    batch_size: int  # of the global batch
    augmenter: Augmenter | None
    start: str = ""  # a sentence about the layers that start from model.weights, if not all do

    @cached_property
    def program(self) -> "TrainingProgram":
        return (TrainingProgram if self.strategy.num_replicas_in_sync == 1 else ReplicatedProgram)(self)

    @cached_property
    def evaluate(self) -> Evaluator:
        return Evaluator(self.model, self.criterion)

    def copy_state(self, other: "CompiledNetwork") -> None:
        """Take the weights, the optimizer's state and the dropout rates of another network of the same kind."""
        for ours, theirs in ((self.model, other.model), (self.optimizer, other.optimizer)):
            for variable, value in zip(ours.variables, theirs.variables, strict=True):
                variable.assign(value)
        for layer, new in zip(self.model.layers, other.model.layers, strict=True):
            if hasattr(new, "rate"):
                layer.rate = new.rate
        self.start = other.start


def prepare_network(
    config: Config, strategy: "tf.distribute.Strategy", initial_weights: InitialWeights | None = None
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
    constants = [network.criterion.constants, network.is_weighted, network.batch_size, repr(network.augmenter)]
    own = repr(config.model) if config.model.name in own_functions("model") else ""  # its layers may hide constants
    key = json.dumps([id(strategy), *objects, *optimizer, *constants, own])
    if kept := _kept_networks.pop(key, None):
        kept.copy_state(network)
    _kept_networks[key] = kept or network
    if len(_kept_networks) > KEPT_NETWORKS:
        del _kept_networks[next(iter(_kept_networks))]
    return _kept_networks[key]


def compile_network(
    config: Config, strategy: "tf.distribute.Strategy", initial_weights: InitialWeights | None = None
) -> CompiledNetwork:
    """Build network and optimizer in the scope of a strategy; None draws the weights by seed.

    Raise a ConfigError if the network cannot be built, or the weights do not fit.
    """
    training = config.training
    with strategy.scope():
        model = build_network(config)
        start = start_from(model, initial_weights, config.model.weights_of) if initial_weights else ""
        optimizer = build_optimizer(config.optimizer, training.gradient_clipping)
        optimizer.build(model.trainable_variables)
    learning = criterion_of(config), training.class_weight is not None, training.batch_size
    network = CompiledNetwork(strategy, model, optimizer, *learning, build_augmenter(config.data), start)
    check_own_functions(network, config)
    return network


def _constants_of(config: Any) -> Any:
    """Return the config of a Keras object without the inputs of the program."""
    if isinstance(config, dict):
        return {key: _constants_of(value) for key, value in config.items() if key not in PROGRAM_INPUTS}
    return [_constants_of(value) for value in config] if isinstance(config, list | tuple) else repr(config)


# Inputs and targets of all examples, the threshold and scale of each dropout layer, and the weight of each class.
ProgramInputs = tuple["tf.Tensor", ...]


class TrainingProgram:
    """A range of whole batches, and the smaller last batch of an epoch, as functions that XLA compiles for one device.

    Several replicas are in the subclass.
    """

    def __init__(self, network: CompiledNetwork) -> None:
        import tensorflow as tf

        self.strategy, self.replicas = network.strategy, network.strategy.num_replicas_in_sync
        with self.strategy.scope():
            self.model, self.dropouts = with_counter_dropout(network.model, self.replicas > 1, has_gpus())
        self.optimizer, self.batch_size, self.augment = network.optimizer, network.batch_size, network.augmenter
        self.criterion, self.is_weighted = network.criterion, network.is_weighted
        alone = self.replicas == 1
        # What replicas do between their sums is worth compiling on GPUs: on a CPU it takes the same time.
        self.xla = _suits_xla(network.model, network.optimizer) and (alone or has_gpus())
        # On a GPU, some kernels outside of XLA add in no fixed order; on a CPU, one step is not worth compiling.
        self.xla_last = self.xla and has_gpus()
        self.whole_batches = tf.function(self._whole_batches, jit_compile=self.xla and alone)
        self.last_batch = tf.function(partial(self._step, xla=self.xla_last), jit_compile=self.xla_last and alone)

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
            sums += self._step(given, rows, plan[step], counter, step, self.xla)
            step += 1
        return sums

    def _step(
        self,
        given: ProgramInputs,
        rows: "tf.Tensor",
        planned: "tf.Tensor",
        counter: "tf.Tensor",
        step: "tf.Tensor",
        xla: bool,
    ) -> "tf.Tensor":
        """Take one step on these rows, and return the sums of loss and metric over them, float32 [2].

        `xla` is whether XLA compiles the step: all of it on one device, parts of it on several.
        """
        import tensorflow as tf

        gradients, sums = self._gradients(given, rows, counter, step, tf.constant(0), tf.shape(rows)[0])
        self._apply(gradients, planned)
        return sums

    def _apply(self, gradients: list["tf.Tensor"], planned: "tf.Tensor") -> None:
        set_hyperparameters(self.optimizer, planned)
        self.optimizer.apply(gradients, self.model.trainable_variables)

    def _gradients(
        self,
        given: ProgramInputs,
        rows: "tf.Tensor",
        counter: "tf.Tensor",
        step: "tf.Tensor",
        first: "tf.Tensor",
        examples: "tf.Tensor",
    ) -> tuple[list["tf.Tensor"], "tf.Tensor"]:
        """Return gradients and sums over these rows, which begin at number `first` of the `examples` of the batch."""
        import tensorflow as tf

        inputs, targets, thresholds, scales, class_weights = given
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
        words = tf.concat([counter, [tf.cast(step, tf.uint32)]], 0)
        with tf.GradientTape() as tape, drawing(LAYER_STREAM, words, first):
            outputs = tf.cast(self.model(inputs, training=True), tf.float32)
            losses = self.criterion.losses(targets, outputs)
            if self.is_weighted:
                losses *= tf.gather(class_weights, targets)
            # This replica's share of the mean over the global batch, also where it has no rows.
            loss = tf.reduce_sum(losses) / count + sum(self.model.losses) / self.replicas
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        return gradients, tf.stack([loss * count, tf.reduce_sum(self.criterion.quality(targets, outputs))])


class ReplicatedProgram(TrainingProgram):
    """The same steps on several replicas, each of which takes its rows of the global batch.

    Their gradients are summed before the optimizer clips and applies them, so that the result equals that of one
    device, to rounding. On GPUs, XLA compiles what a replica does before and after the sum; with batch normalization,
    only what comes after it.
    """

    def __init__(self, network: CompiledNetwork) -> None:
        super().__init__(network)
        import keras

        # In their forward pass they sum over the replicas, which XLA cannot on a CPU.
        self.sums_in_layers = any(isinstance(layer, keras.layers.BatchNormalization) for layer in self.model.layers)

    def _step(
        self,
        given: ProgramInputs,
        rows: "tf.Tensor",
        planned: "tf.Tensor",
        counter: "tf.Tensor",
        step: "tf.Tensor",
        xla: bool,
    ) -> "tf.Tensor":
        import tensorflow as tf

        def compute(given: ProgramInputs, rows: "tf.Tensor", first: "tf.Tensor", examples: "tf.Tensor") -> "tf.Tensor":
            gradients, sums = self._gradients(given, rows, counter, step, first, examples)
            return tf.concat([*(tf.reshape(gradient, [-1]) for gradient in gradients), sums], 0)

        def compute_and_sum(given: ProgramInputs) -> "tf.Tensor":
            """Return gradients and sums over the whole batch as one array, the same on every replica."""
            replica = tf.distribute.get_replica_context()
            number, examples = tf.cast(replica.replica_id_in_sync_group, tf.int32), tf.shape(rows)[0]
            first, last = (n * examples // self.replicas for n in (number, number + 1))
            arguments = given, rows[first:last], first, examples
            return replica.all_reduce("sum", _compiled(compute, xla and not self.sums_in_layers)(*arguments))

        def apply(summed: "tf.Tensor") -> None:
            variables = self.model.trainable_variables
            *parts, _ = tf.split(summed, [*(prod(variable.shape) for variable in variables), 2])
            gradients = [tf.reshape(part, variable.shape) for part, variable in zip(parts, variables, strict=True)]
            with updates_of_one_replica():
                self._apply(gradients, planned)

        summed = self.strategy.run(compute_and_sum, args=(given,))
        some_variable = self.model.trainable_variables[0].value
        self.strategy.extended.update(
            some_variable, lambda _, summed: _compiled(apply, xla)(summed), args=(summed,), group=False
        )
        return self.strategy.experimental_local_results(summed)[0][-2:]


def _compiled(function: Callable[..., Any], xla: bool) -> Callable[..., Any]:
    """Return a function of one replica as a program of its own, as its variables are those of the replica."""
    import tensorflow as tf

    return tf.function(function, jit_compile=True) if xla else function


def _suits_xla(model: "keras.Model", optimizer: "keras.optimizers.Optimizer") -> bool:
    """Return whether XLA pays: several times faster for small steps, a hundred times slower for CPU convolutions.

    On a GPU, it has no gradient in a fixed order for pooling other than of blocks.
    """
    convolves = any("Conv" in type(layer).__name__ for layer in model.layers)
    pools = any(type(layer).__name__.startswith("MaxPool") and not pools_blocks(layer) for layer in model.layers)
    return optimizer.name not in NOT_UNDER_XLA and not (pools if has_gpus() else convolves)


def has_gpus() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))
