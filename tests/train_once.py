"""Training as run.py does it, without a store, for the weights: python train_once.py OUT overrides...

TensorFlow takes its logical devices once per process, so each number of replicas needs a process of its own.
"""

import sys
from collections.abc import Sequence

import numpy as np

from experiments import data, distribution, models, optimizers, runtime
from experiments.cluster import Signs
from experiments.compose import compose_job
from experiments.training import Trainer


def train(overrides: Sequence[str]) -> dict[str, np.ndarray]:
    """The weights, the loss of each epoch, and which layers are synchronized between replicas."""
    config = compose_job(overrides)
    dataset = data.load(config.data, config.seed)
    strategy = distribution.start(config.distribution, int(config.training.threads))
    with strategy.scope():
        model = models.build(config)
        optimizer = optimizers.build(config.optimizer, config.training.gradient_clipping)
    trainer = Trainer(config, strategy, model, optimizer, dataset, None)
    losses = [metrics["loss"] for _, metrics in trainer.run(Signs())]
    synchronized = [int(getattr(layer, "synchronized", False)) for layer in model.layers]
    weights = {f"weights {number}": value for number, value in enumerate(model.get_weights())}
    return {**weights, "losses": np.array(losses), "synchronized": np.array(synchronized)}


if __name__ == "__main__":
    runtime.collect_garbage_rarely()
    np.savez(sys.argv[1], **train(sys.argv[2:]))
