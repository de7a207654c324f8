"""Searches as commands give them: what is refused before anything is loaded, and the digest of a search."""

from functools import cache

import pytest
from conftest import command

from experiments.config.sweep_composition import compose_sweep
from experiments.errors import ConfigError
from experiments.sweeps.search import Search, check_search

DROPOUT = "model.dropout=interval(0,0.5)"
RATE = "optimizer.learning_rate=tag(log,interval(1e-4,1e-2))"
CHOICES = "model.activation=relu,tanh"


@cache
def checked(*overrides: str) -> Search:
    return check_search(compose_sweep(["hydra/sweeper=optuna", *overrides]))


MISTAKES = {
    "model.droput=interval(0,1)": "unknown key 'model.droput' (did you mean 'model.dropout'?)",
    "model.activation=interval(0,1)": "The search reaches model.activation=0.0: ",
    "model.activation=relu,rellu": "model.activation: Keras has no activation 'rellu' (did you mean 'relu'?)",
    "model.dropout=interval(0,1)": "The search reaches model.dropout=1.0: model.dropout=1.0 is not allowed: fraction",
    "model.dropout=interval(0.5,0)": "the bounds must be finite and ascending; received 0.5 and 0.",
    "optimizer.learning_rate=tag(log,interval(0,1))": "a logarithmic interval must begin above 0; received 0.",
    "optimizer=adam,sdg": "optimizer=sdg is not a choice (did you mean 'sgd'?)",
    "optimizer=adam,sgd optimizer.momentum=interval(0,0.9)": "needs a condition: `when` in a file of conf/search.",
    "training.batch_size=interval(16,64)": "Whole numbers: training.batch_size=int(interval(16,64))",
    "search=mpl": "search=mpl is not a choice (did you mean 'mlp'?). Choices of search: mlp",
    "seed=1": "This search has nothing to vary.",
    f"hydra.sweeper.sampler=grid {DROPOUT}": "sampler=grid tries every value, and model.dropout is an interval.",
    "hydra.sweeper.sampler=grid seed=range(1000000000000)": "this space has more than 10,000. Name fewer values, or",
    f"hydra.sweeper.sampler=cmaes {CHOICES} {DROPOUT}": "cmaes needs two or more parameters that are numbers",
    f"hydra.sweeper.sampler=tpee {DROPOUT}": "hydra.sweeper.sampler=tpee is not allowed (did you mean 'tpe'?): tpe",
    f"hydra.sweeper.n_trials=0 {DROPOUT}": "hydra.sweeper.n_trials=0 is not allowed: trials in all, from 1 on",
    f"hydra.sweeper.n_trails=9 {DROPOUT}": "(did you mean 'hydra.sweeper.n_trials'?)",
    f"data.validation=0 {DROPOUT}": "data.validation=0 leaves nothing to rank the trials by but the test set",
    f"objective.metric=val_acuracy {DROPOUT}": "is not a metric of these runs (did you mean 'val_accuracy'?)",
    f"objective.metric=train_seconds hydra.sweeper.pruner=median {DROPOUT}": "pruner=median needs a metric after each",
    "experiment=walkthrough,single_neuron data.validation=9": "have different objectives: best_val_accuracy, val_loss",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_reports_a_mistake_in_one_line(mistake: str) -> None:
    with pytest.raises(ConfigError) as raised:
        checked(*mistake.split())
    assert MISTAKES[mistake] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_mistake_ends_the_command_before_a_run_is_made() -> None:
    done = command("-m", "hydra/sweeper=optuna", "model.dropout=interval(0,1)")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("The search reaches model.dropout=1.0: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["search=mlp"], ["-m", "search=mlp"], ["-m", DROPOUT]])
def test_a_space_without_the_sweeper_is_refused_with_the_fix(arguments: list[str]) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert "hydra/sweeper=optuna" in done.stderr


def test_every_corner_of_the_shipped_space_composes() -> None:
    found = checked("search=mlp", "seed=3", "model.dropout=0.1")
    assert found.fixed == ["seed=3"]
    assert {job.config.optimizer.name for job in found.jobs} == {"adam", "sgd"}
    assert {job.config.model.dropout for job in found.jobs} == {0.1}  # type: ignore[union-attr]
    assert {job.config.seed for job in found.jobs} == {3}
    assert (found.metric, found.mode, found.reported) == ("best_val_accuracy", "max", "val_accuracy")
    assert "  optimizer.momentum: 0 to 0.95 (with optimizer=sgd)\n" in str(found)


def test_the_test_set_is_the_objective_only_by_name_and_with_a_warning(new_uri: str) -> None:
    found = checked(DROPOUT, "objective.metric=test_accuracy")
    assert (found.metric, found.mode, found.reported) == ("test_accuracy", "max", "val_accuracy")
    store = f"tracking.uri={new_uri}"
    done = command("-m", "hydra/sweeper=optuna", *found.overrides, "data=digits", "sweep.dry_run=true", store)
    assert done.returncode == 0
    assert done.stdout == (
        "Search in experiment digits, over:\n  model.dropout: 0 to 0.5\n20 trials by tpe for the max of test_accuracy\n"
    )
    assert done.stderr.startswith("Warning: test_accuracy ranks these runs")


def test_regression_searches_for_the_least_loss() -> None:
    found = checked("experiment=single_neuron", "data.validation=9", RATE)
    assert (found.metric, found.mode) == ("val_loss", "min")


def test_the_digest_covers_all_but_the_number_of_trials_and_the_tracking() -> None:
    digest = checked(DROPOUT).digest
    assert checked(DROPOUT, "hydra.sweeper.n_trials=99", "tracking.experiment=other").digest == digest
    for other in ("hydra.sweeper.seed=1", "seed=1", RATE, "objective.metric=val_loss"):
        assert checked(DROPOUT, other).digest != digest
