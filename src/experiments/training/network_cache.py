"""The network of a run and its optimizer; further runs of this process whose program is the same get the same objects.

To trace and compile a program takes longer than to train some networks, and Keras's objects are bound to theirs.
"""

import json
from typing import TYPE_CHECKING

from experiments.config.schema import Config
from experiments.tracking.initial_weights import load_initial_weights
from experiments.training.networks import build_network
from experiments.training.optimizers import build_optimizer

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    Network = tuple[keras.Model, keras.optimizers.Optimizer]


KEPT_NETWORKS = 4
PROGRAM_INPUTS = ("rate", "learning_rate")  # of layers and optimizers: inputs of the program, not constants in it

_kept_networks: "dict[str, Network]" = {}


def prepare_network(config: Config, strategy: "tf.distribute.Strategy") -> "Network":
    """The model and the optimizer of a config, as new, in the scope of the strategy.

    Raises:
        ConfigError: as models.build and pretrained.load.
        StoreError: as pretrained.load.
    """
    with strategy.scope():
        model = build_network(config)
        load_initial_weights(config, model)
        optimizer = build_optimizer(config.optimizer, config.training.gradient_clipping)
        optimizer.build(model.trainable_variables)
    if strategy.num_replicas_in_sync > 1 or config.training.loop == "fit":
        return model, optimizer
    constants = [_constants_of(kind.get_config()) for kind in (model, optimizer)]
    key = json.dumps([*constants, config.optimizer.name, config.optimizer.arguments])
    if key not in _kept_networks:
        if len(_kept_networks) == KEPT_NETWORKS:
            del _kept_networks[next(iter(_kept_networks))]
        _kept_networks[key] = model, optimizer
        return model, optimizer
    earlier = _kept_networks[key]
    _renew_network(earlier, (model, optimizer))
    return earlier


def _constants_of(config: object) -> object:
    """The config of a Keras object without what is an input of the program."""
    if isinstance(config, dict):
        return {key: _constants_of(value) for key, value in config.items() if key not in PROGRAM_INPUTS}
    return [_constants_of(value) for value in config] if isinstance(config, list | tuple) else repr(config)


def _renew_network(earlier: "Network", new: "Network") -> None:
    for before, now in zip(earlier, new, strict=True):
        for variable, value in zip(before.variables, now.variables, strict=True):
            variable.assign(value)
    for layer, now in zip(earlier[0].layers, new[0].layers, strict=True):
        if hasattr(now, "rate"):
            layer.rate = now.rate
