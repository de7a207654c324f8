"""Runs of one process that share a compiled program: as fast as they may be, and equal to runs alone."""

from typing import Any

import numpy as np
import pytest

from experiments.config.composition import compose_job
from experiments.data.datasets import load_dataset
from experiments.reports.progress import ProgressDisplay
from experiments.training.compiled_loop import compiled_program
from experiments.training.devices import start_strategy
from experiments.training.network_cache import prepare_network
from experiments.training.networks import build_network
from experiments.training.optimizers import build_optimizer
from experiments.training.trainer import Trainer

BASE = ["data=digits", "training.epochs=2", "model.units=[16]", "training.threads=1"]
FIRST = ["model.dropout=0.2", "optimizer.learning_rate=0.01", "data.validation=100"]
SECOND = ["model.dropout=0.4", "optimizer.learning_rate=0.001", "schedule=cosine", "seed=7", "data.validation=100"]
ALIKE: list[Any] = [[], ["model.batch_normalization=true", "optimizer=rmsprop", "optimizer.use_ema=true"]]


def trained(overrides: list[str], prepared: bool = False) -> tuple[Any, dict[str, list[float]]]:
    config = compose_job([*BASE, *overrides])
    strategy = start_strategy(config.distribution, 1)
    if not prepared:
        network = build_network(config), build_optimizer(config.optimizer, None)
    else:
        network = prepare_network(config, strategy)
    trainer = Trainer(config, strategy, *network, load_dataset(config.data, config.seed), None)
    for _ in trainer.run(ProgressDisplay(1, trainer.steps, trainer.examples, 0, lambda: None)):
        pass
    times = ("epoch_seconds", "examples_per_second")
    return network, {name: values for name, values in trainer.state.history.items() if name not in times}


@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize("network", ALIKE, ids=lambda network: " ".join(network) or "default")
def test_a_run_after_one_of_the_same_network_shares_its_program_and_equals_one_alone(network: list[str]) -> None:
    first, _ = trained([*network, *FIRST], True)
    strategy = start_strategy(compose_job(BASE).distribution, 1)
    program = compiled_program(strategy, *first, "sparse_categorical_crossentropy", 32, None)
    traced = program.whole_batches.experimental_get_tracing_count()
    assert traced > 0
    (model, _), history = trained([*network, *SECOND], True)
    assert model is first[0]
    assert program.whole_batches.experimental_get_tracing_count() == traced

    (alone, _), expected = trained([*network, *SECOND])
    assert history == expected
    for ours, theirs in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [getattr(layer, "rate", None) for layer in model.layers] == [
        getattr(layer, "rate", None) for layer in alone.layers
    ]


@pytest.mark.usefixtures("tensorflow")
def test_another_network_gets_a_program_of_its_own() -> None:
    def built(overrides: list[str]) -> Any:
        config = compose_job([*BASE, *overrides])
        return prepare_network(config, start_strategy(config.distribution, 1))[0]

    others = (
        ["model.units=[8]"],
        ["model.activation=tanh"],
        ["optimizer.beta_1=0.8"],
        ["training.gradient_clipping=1"],
    )
    for other in others:
        first = built(FIRST)  # again each time, as only the latest networks are kept
        assert built([*FIRST, *other]) is not first
