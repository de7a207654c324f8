"""Sweeps: what a command stands for, what its jobs are called, and how parent and children end up in MLflow."""

import json
from pathlib import Path

import pytest
from conftest import command
from stores import artifact, runs

from experiments import sweeps
from experiments.compose import compose_sweep
from experiments.errors import ConfigError, UserError

SMALL = ["data=digits", "training.epochs=1"]


def planned(*overrides: str, uri: str = "sqlite:////nowhere/mlflow.db") -> sweeps.Plan:
    return sweeps.plan(compose_sweep([*SMALL, f"tracking.uri={uri}", *overrides]))


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


def test_experiments_are_swept_by_glob(mnist: Path) -> None:
    jobs = sweeps.plan(compose_sweep(["experiment=glob(*)", "tracking.uri=sqlite:////nowhere/mlflow.db"])).jobs
    assert {"single_neuron", "walkthrough"} <= {job.name for job in jobs}


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


def test_a_range_needs_a_search() -> None:
    with pytest.raises(ConfigError, match=r"is a range to search in\. Add hydra/sweeper=optuna, or name the values"):
        planned("model.dropout=interval(0,0.5)")


def test_a_sweep_that_is_running_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sweeps, "FOLDER", tmp_path / "sweeps")
    plan = planned("seed=0,1", uri=uri)
    with (
        sweeps._only_one(plan),
        pytest.raises(UserError, match=r"This sweep is running already, in process \d+ of this machine"),
        sweeps.open_sweep(plan, ["-m"]),
    ):
        pass
    assert not Path(uri.removeprefix("sqlite:///")).exists()


def test_to_go_on_with_one_run_is_no_sweep(uri: str) -> None:
    done = command("-m", *SMALL, "seed=0,1", f"resume={'a' * 32}", f"tracking.uri={uri}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "resume=RUN_ID goes on with one run, and -m is for several. Leave out -m; or repeat the command of the sweep,"
        " which goes on with all of its runs.\n"
    )


@pytest.mark.slow
def test_a_sweep_under_hydras_basic_launcher_has_a_parent_and_children_and_is_done_once(uri: str) -> None:
    line = ["-m", *SMALL, "seed=0,1", "hydra/launcher=basic", "tracking.log_model=false", f"tracking.uri={uri}"]
    done = command(*line)
    assert done.returncode == 0, done.stderr
    assert "Sweep of 2 runs in experiment digits, over:\n  seed: 0, 1\n2 to run.\n" in done.stdout
    second, first, parent = sorted(runs(uri), key=lambda run: run.info.start_time, reverse=True)
    assert [run.info.run_name for run in (parent, first, second)] == ["seed", "seed 0", "seed 1"]
    assert {run.info.status for run in (parent, first, second)} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in (first, second)} == {parent.info.run_id}
    assert parent.data.params == {"seed": "0, 1", "runs": "2"}
    assert parent.data.tags["command"].startswith("python run.py -m data=digits")
    assert not any(key.startswith(("sweep.", "objective.")) for key in first.data.params)
    plan = json.loads(artifact(uri, parent.info.run_id, "config/plan.json"))
    assert [job["overrides"][2] for job in plan] == ["seed=0", "seed=1"]

    again = command(*line, "sweep.dry_run=true")
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "2 done.")
    assert command(*line, "sweep.rerun=true", "sweep.dry_run=true").stdout.splitlines()[-1] == "2 to run."
    shown = command(*line)
    assert shown.returncode == 0, shown.stderr
    assert "2 done.\n" in shown.stdout
    assert "Best: " in shown.stdout
    assert len(runs(uri)) == 3
    assert next(run for run in runs(uri) if "sweep" in run.data.tags).info.end_time == parent.info.end_time
