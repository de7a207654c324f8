"""A process that trains as run.py does, without a store, and keeps the weights: python train_once.py OUT overrides...

TensorFlow takes its logical devices once per process, so each number of replicas needs a process of its own.
"""

import sys

import numpy as np

from experiments import data, distribution, models, optimizers
from experiments.cluster import Signs
from experiments.compose import compose_job
from experiments.training import Trainer

config = compose_job(sys.argv[2:])
dataset = data.load(config.data, config.seed)
strategy = distribution.start(config.distribution, int(config.training.threads))
with strategy.scope():
    model = models.build(config)
    optimizer = optimizers.build(config.optimizer, config.training.gradient_clipping)
trainer = Trainer(config, strategy, model, optimizer, dataset, None)
losses = [metrics["loss"] for _, metrics in trainer.run(Signs())]
synchronized = [int(getattr(layer, "synchronized", False)) for layer in model.layers]
np.savez(sys.argv[1], *model.get_weights(), losses=losses, synchronized=synchronized)
