"""Sweeps: how parent and children end up in MLflow."""

import json
from pathlib import Path

import pytest
from conftest import command
from stores import artifact, runs

from experiments.config.sweep_composition import compose_sweep
from experiments.errors import UserError
from experiments.sweeps import sweep
from experiments.sweeps.plan import plan_sweep
from experiments.sweeps.sweep import _sweep_lock, open_sweep

SMALL = ["data=digits", "training.epochs=1"]


def test_a_sweep_that_is_running_is_refused(new_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sweep, "SWEEP_FOLDER", tmp_path / "sweeps")
    plan = plan_sweep(compose_sweep([*SMALL, f"tracking.uri={new_uri}", "seed=0,1"]))
    with (
        _sweep_lock(plan),
        pytest.raises(UserError, match=r"This sweep is running already, in process \d+ of this machine"),
        open_sweep(plan, ["-m"]),
    ):
        pass
    assert not Path(new_uri.removeprefix("sqlite:///")).exists()


def test_to_go_on_with_one_run_is_no_sweep(new_uri: str) -> None:
    done = command("-m", *SMALL, "seed=0,1", f"++resume={'a' * 32}", f"tracking.uri={new_uri}")
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
