"""What the command of a sweep stands for, and what its jobs are called."""

import re

import pytest

from experiments.config.sweep_composition import compose_sweep
from experiments.errors import ConfigError
from experiments.sweeps.plan import SweepPlan, plan_sweep


def planned(*overrides: str) -> SweepPlan:
    small = ["data=digits", "training.epochs=1", "tracking.uri=sqlite:////nowhere/mlflow.db"]
    return plan_sweep(compose_sweep([*small, *overrides]))


@pytest.mark.parametrize(
    ("swept", "names"),
    [
        (["model.dropout=0.1,0.3", "seed=0,1"], ["0.1 dropout, seed 0", "0.1 dropout, seed 1", "0.3 dropout, seed 0"]),
        (["optimizer=adam,sgd", "optimizer.learning_rate=1e-3"], ["adam", "sgd"]),
        (["model.units=[64],[128,64]"], ["[64] units", "[128,64] units"]),
        (["seed=range(3)"], ["seed 0", "seed 1", "seed 2"]),
        (["seed=choice(5,7)"], ["seed 5", "seed 7"]),
        (["seed=4"], ["digits epochs=1 seed=4"]),
        (["+hydra.sweeper.params={seed:'1,2'}"], ["seed 1", "seed 2"]),
    ],
)
def test_a_job_is_named_by_what_differs_the_value_first(swept: list[str], names: list[str]) -> None:
    jobs = planned(*swept).jobs
    assert [job.name for job in jobs][: len(names)] == names
    assert [job.config.tracking.run_name for job in jobs] == [job.name for job in jobs]


def test_experiments_are_swept_by_glob() -> None:
    jobs = plan_sweep(compose_sweep(["experiment=glob(single_*)", "tracking.uri=sqlite:////nowhere/mlflow.db"])).jobs
    assert [job.name for job in jobs] == ["single_neuron"]


def test_runs_that_the_test_set_ranks_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    planned("data.validation=0", "seed=0,1").show()
    assert "Warning: test_accuracy ranks these runs, so the best one's is too good" in capsys.readouterr().err


def test_the_same_jobs_are_the_same_sweep_whatever_is_said_about_reports_and_the_sweep() -> None:
    one = planned("seed=0,1").digest
    assert planned("seed=0,1", "report.style=dark", "sweep.retries=2", "hydra.launcher.workers=1").digest == one
    assert planned("seed=1,0").digest == one
    assert planned("seed=0,2").digest != one
    assert planned("seed=0,1", "model.dropout=0.5").digest != one


def test_children_have_light_figures_unless_told_otherwise() -> None:
    assert [job.config.report.figures for job in planned("seed=0,1").jobs] == ["light", "light"]
    assert [job.config.report.figures for job in planned("seed=0,1", "report.figures=none").jobs] == ["none", "none"]


def test_jobs_that_are_the_same_experiment_are_run_once(capsys: pytest.CaptureFixture[str]) -> None:
    planned("report.style=light,dark", "seed=0,1").show()
    assert "2 to run, 2 the same as another." in capsys.readouterr().out


def test_the_jobs_of_a_sweep_go_to_one_store() -> None:
    with pytest.raises(ConfigError, match=r"The jobs of this sweep go to several stores\. Give all the same"):
        planned("tracking.uri=sqlite:////a/mlflow.db,sqlite:////b/mlflow.db")


@pytest.mark.parametrize("override", ["experiment=glob(zzz*)", "seed=range(0)"])
def test_values_of_which_there_are_none_are_no_sweep(override: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{override!r} stands for no value, so there is nothing to run.")):
        planned(override)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("hydra.sweeper.max_batch_size=0", r"max_batch_size=0 is not allowed: .* from 1 on, or null"),
        ("hydra.sweeper.max_batch_size=two", r"max_batch_size=two is not allowed"),
        ("hydra.sweeper.params=5", r"hydra\.sweeper\.params=5 is not allowed: what to sweep over, as \{KEY:'A,B'\}"),
        ("+hydra.sweeper.parms={}", r"unknown key 'hydra\.sweeper\.parms' \(did you mean 'hydra\.sweeper\.params'\?\)"),
    ],
)
def test_a_setting_of_the_sweeper_that_cannot_be_is_told_before_a_parent_run_is_made(setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        planned("seed=0,1", setting)


def test_a_range_needs_a_search() -> None:
    with pytest.raises(ConfigError, match=r"is a range to search in\. Add hydra/sweeper=optuna, or name the values"):
        planned("model.dropout=interval(0,0.5)")
