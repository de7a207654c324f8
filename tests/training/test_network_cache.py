"""Runs of one process that share a compiled program, and equal runs alone."""

from typing import Any

import numpy as np
import pytest

from experiments.config.composition import compose_job
from experiments.data.datasets import load_dataset
from experiments.reports.progress import ProgressDisplay
from experiments.training.devices import start_strategy
from experiments.training.network_cache import KEPT_NETWORKS, CompiledNetwork, compile_network, prepare_network
from experiments.training.trainer import Trainer

BASE = ["data=digits", "training.epochs=2", "model.units=[16]", "training.threads=1"]
FIRST = ["model.dropout=0.2", "optimizer.learning_rate=0.01", "data.validation=100"]
SECOND = ["model.dropout=0.4", "optimizer.learning_rate=0.001", "schedule=cosine", "seed=7", "data.validation=100"]
KINDS: list[Any] = [[], ["model.batch_normalization=true", "optimizer=rmsprop", "optimizer.use_ema=true"]]


def trained(overrides: list[str], prepare: Any = prepare_network) -> tuple[CompiledNetwork, dict[str, list[float]]]:
    config = compose_job([*BASE, *overrides])
    network = prepare(config, start_strategy(config.distribution, 1))
    trainer = Trainer(config, network, load_dataset(config.data, config.seed), None)
    for _ in trainer.run(ProgressDisplay(1, trainer.steps, trainer.examples, 0, lambda: None)):
        pass
    times = ("epoch_seconds", "examples_per_second")
    return network, {name: values for name, values in trainer.state.history.items() if name not in times}


@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join(kind) or "default")
def test_run_reuses_the_program_of_an_earlier_run_and_equals_a_run_alone(kind: list[str]) -> None:
    first, _ = trained([*kind, *FIRST])
    traced = first.program.whole_batches.experimental_get_tracing_count()
    evaluated = first.evaluate.forward.experimental_get_tracing_count()
    assert traced > 0
    second, history = trained([*kind, *SECOND])
    assert second is first
    assert second.program.whole_batches.experimental_get_tracing_count() == traced
    assert second.evaluate.forward.experimental_get_tracing_count() == evaluated > 0

    alone, expected = trained([*kind, *SECOND], compile_network)
    assert history == expected
    for ours, theirs in zip(second.model.get_weights(), alone.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    rates = [[getattr(layer, "rate", None) for layer in model.layers] for model in (second.model, alone.model)]
    assert rates[0] == rates[1]


@pytest.mark.usefixtures("tensorflow")
def test_networks_of_several_kinds_are_kept_and_the_least_recently_used_is_dropped() -> None:
    def prepared(*overrides: str) -> CompiledNetwork:
        config = compose_job([*BASE, *FIRST, *overrides])
        return prepare_network(config, start_strategy(config.distribution, 1))

    first = prepared()
    others = [
        "model.units=[8]",
        "model.activation=tanh",
        "optimizer.beta_1=0.8",
        "training.gradient_clipping=1",
        "training.batch_size=16",
        "training.loss=mean_squared_error",
        "data.augmentation.shift=1",
    ]
    for other in others:
        assert prepared(other) is not first
        assert prepared() is first
    for other in others[-KEPT_NETWORKS:]:
        prepared(other)
    assert prepared() is not first


@pytest.mark.usefixtures("tensorflow")
def test_networks_of_the_fit_loop_are_not_kept() -> None:
    config = compose_job([*BASE, *FIRST, "training.loop=fit"])
    strategy = start_strategy(config.distribution, 1)
    assert prepare_network(config, strategy) is not prepare_network(config, strategy)
