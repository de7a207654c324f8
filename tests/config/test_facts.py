"""What follows from a config."""

import pytest
from composed import job

from experiments.config.facts import count_training_examples


def test_threads_are_resolved_by_the_size_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 4, 5})  # the cores that this process may use
    assert job().training.threads == 1
    assert job("model.units=[1024,1024]").training.threads == 3
    assert job("model=cnn").training.threads == 3
    assert job("experiment=single_neuron").training.threads == 1
    assert job("training.threads=2").training.threads == 2


def test_the_training_examples_are_those_left_after_limit_and_validation() -> None:
    assert count_training_examples(job()) == 55_000
    assert count_training_examples(job("data.limit=1200", "data.validation=200")) == 1000
    assert count_training_examples(job("data.limit=70000")) == 55_000
