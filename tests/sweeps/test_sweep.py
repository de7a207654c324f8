"""Sweeps as commands: the parent and the children in MLflow, and what is refused."""

import json
from pathlib import Path

import pytest
from conftest import command
from stores import artifact, runs

from experiments.config.sweep_composition import compose_sweep
from experiments.errors import UserError
from experiments.sweeps import sweep
from experiments.sweeps.plan import plan_sweep
from experiments.sweeps.sweep import lock_sweep, run_sweep
from experiments.tracking.store import connect_store

SMALL = ["data=digits", "training.epochs=1"]


def test_a_sweep_that_is_running_is_refused(new_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sweep, "SWEEP_FOLDER", tmp_path / "sweeps")
    composed = compose_sweep([*SMALL, f"tracking.uri={new_uri}", "seed=0,1"])
    with (
        lock_sweep(plan_sweep(composed)),
        pytest.raises(UserError, match=r"This sweep is already running, in process \d+ of this machine"),
    ):
        run_sweep(composed, ["-m"])
    assert not Path(new_uri.removeprefix("sqlite:///")).exists()


def test_resume_is_refused_in_a_sweep(new_uri: str) -> None:
    done = command("-m", *SMALL, "seed=0,1", f"++resume={'a' * 32}", f"tracking.uri={new_uri}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "resume=RUN_ID resumes one run, and -m is for several. Leave out -m, or repeat the command of the sweep,"
        " which resumes all of its runs.\n"
    )


@pytest.mark.slow
def test_a_finished_sweep_is_shown_again_and_not_run_again(uri: str) -> None:
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

    found = f"This is a new sweep, as it differs from seed ({parent.info.run_id}): "
    other = command(*line, "training.epochs=2", "model.dropout=0.25", "sweep.dry_run=true").stdout
    assert f"{found}model.dropout=0.25 (was 0.2), training.epochs=2 (was 1).\n2 to run.\n" in other
    assert f"{found}other values of seed.\n" in command(*line, "seed=2,3", "sweep.dry_run=true").stdout

    client = connect_store(uri)
    client.rename_experiment(parent.info.experiment_id, "Bob's")
    client.delete_run(first.info.run_id)
    again = command(*line)
    assert again.returncode == 0, again.stderr
    said = "Sweep of 2 runs in experiment Bob's, over:\n  seed: 0, 1\nDeleted runs of this sweep do not count. Run "
    assert f"{said}{first.info.run_id}" in again.stdout
    assert "\n1 to run, 1 done.\n" in again.stdout
    assert [experiment.name for experiment in client.search_experiments()] == ["Bob's", "Default"]
    assert len(runs(uri)) == 3
    assert command(*line, "sweep.dry_run=true").stdout.endswith("\n2 done.\n")
