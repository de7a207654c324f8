"""Training as run.py does it, without a store, for the weights: python train_once.py OUT overrides...

With the word as_on_gpus among the overrides, XLA compiles what it compiles on GPUs, with the settings for GPUs.

TensorFlow takes its logical devices once per process, so each number of replicas needs a process of its own.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import runtime
from experiments.config.composition import compose_job
from experiments.data.datasets import load_dataset
from experiments.runtime import collect_garbage_rarely
from experiments.training import network_cache
from experiments.training.cluster import ClusterMember
from experiments.training.devices import start_strategy
from experiments.training.network_cache import compile_network
from experiments.training.trainer import Trainer


def train(overrides: Sequence[str]) -> dict[str, np.ndarray]:
    """The weights, the loss of each epoch, and which layers are synchronized between replicas."""
    config = compose_job(overrides)
    dataset = load_dataset(config.data, config.seed)
    strategy = start_strategy(config.distribution, int(config.training.threads))
    network = compile_network(config, strategy)
    losses = [metrics["loss"] for _, metrics in Trainer(config, network, dataset, None).run(ClusterMember())]
    synchronized = [int(getattr(layer, "synchronized", False)) for layer in network.model.layers]
    weights = {f"weights {number}": value for number, value in enumerate(network.model.get_weights())}
    return {**weights, "losses": np.array(losses), "synchronized": np.array(synchronized)}


if __name__ == "__main__":
    collect_garbage_rarely()
    overrides = sys.argv[2:]
    if "as_on_gpus" in overrides:
        overrides.remove("as_on_gpus")
        network_cache.has_gpus = lambda: True
        runtime.NVIDIA_DRIVER = Path("/")  # which exists
    np.savez(sys.argv[1], **train(overrides))
