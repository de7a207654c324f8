"""The networks of this process with all that is compiled of them: runs of the same kind of network share one.

Tracing and compiling a program takes longer than training a small network, and Keras binds both to its objects.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from experiments.config.schema import Config
from experiments.training.augmentation import Augmenter, build_augmenter
from experiments.training.evaluation import Evaluator
from experiments.training.networks import build_network, set_initial_weights
from experiments.training.optimizers import build_optimizer
from experiments.training.training_program import TrainingProgram

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
    def program(self) -> TrainingProgram:
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

    Raises:
        ConfigError: the network cannot be built, or the weights do not fit.
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
