"""What all engines do alike: good jobs, failing jobs, retries, stopping and interruption, as real commands."""

import csv
import io
import json
import signal
import subprocess
from typing import NamedTuple

import numpy as np
import pytest
from conftest import command, start
from stores import artifact, files, history, runs, weights
from sweep_runs import child_runs, parent_run, wait_until

ENGINES = {"pool": ["hydra.launcher.workers=1"], "basic": ["hydra/launcher=basic"]}
SMALL = ["data=digits", "training.epochs=2"]
# The second learning rate ends in a loss that is not finite.
SWEEP = [*SMALL, "optimizer.learning_rate=1e-3,1e30", "seed=0,1", "sweep.retries=1", "sweep.on_error=stop"]
pytestmark = pytest.mark.slow


class EndedSweep(NamedTuple):
    """A sweep of four jobs: two finish, the third fails and stops the sweep, the fourth is not started."""

    uri: str
    options: list[str]
    process: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module", params=ENGINES)
def swept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EndedSweep:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    options = [*ENGINES[request.param], f"tracking.uri={uri}"]
    return EndedSweep(uri, options, command("-m", *SWEEP, *options))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The store of a single run with the config of the sweep's second job."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('alone')}/mlflow.db"
    done = command(*SMALL, "optimizer.learning_rate=1e-3", "seed=1", f"tracking.uri={uri}")
    assert done.returncode == 0, done.stderr
    return uri


def test_finished_jobs_are_children_of_one_parent(swept: EndedSweep) -> None:
    children, parent = child_runs(swept.uri), parent_run(swept.uri)
    assert {name: run.info.status for name, run in children.items()} == {
        "0.001 learning_rate, seed 0": "FINISHED",
        "0.001 learning_rate, seed 1": "FINISHED",
        "1e+30 learning_rate, seed 0": "FAILED",
    }
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    assert len(runs(swept.uri)) == 4
    plan = json.loads(artifact(swept.uri, parent.info.run_id, "config/plan.json"))
    assert [job["name"] for job in plan][2:] == ["1e+30 learning_rate, seed 0", "1e+30 learning_rate, seed 1"]


def test_a_failing_job_is_retried_in_its_own_run_and_reported(swept: EndedSweep) -> None:
    err, name = swept.process.stderr, "1e+30 learning_rate, seed 0"
    run_id = child_runs(swept.uri)[name].info.run_id
    assert swept.process.returncode == 1
    assert err.count(f"{name} is tried again: ") == 1
    assert f"  {name}: FAILED ({run_id}): " in err
    assert "The same command runs them again: python run.py -m data=digits" in err
    assert "Traceback" not in err
    assert "NotFiniteError" in artifact(swept.uri, run_id, "error/traceback.txt")


def test_on_error_stop_starts_no_further_job(swept: EndedSweep) -> None:
    assert "2 of 4 jobs of the sweep did not finish:" in swept.process.stderr
    assert "\n  1e+30 learning_rate, seed 1: no run\n" in swept.process.stderr
    lines = [line[:5] for line in swept.process.stdout.splitlines() if line.startswith("[")]
    assert lines == ["[1/4]", "[2/4]", "[3/4]"]
    parent = parent_run(swept.uri)
    assert parent.info.status == "FAILED"
    assert parent.data.tags["end_reason"] == "2 of 4 jobs of the sweep did not finish:"


def test_only_the_best_child_has_the_full_report(swept: EndedSweep) -> None:
    figures = {
        run.info.run_id: len(files(swept.uri, run.info.run_id, "figures")) for run in child_runs(swept.uri).values()
    }
    assert figures.pop(parent_run(swept.uri).data.tags["best_run"]) == 11
    assert sorted(figures.values()) == [0, 2]


def test_the_same_command_finds_what_is_done_and_runs_the_rest(swept: EndedSweep) -> None:
    done = command("-m", *SWEEP, *swept.options, "sweep.dry_run=true")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 done, 1 to run again, 1 to run.")


def test_a_child_is_bitwise_equal_to_the_same_config_run_alone(swept: EndedSweep, alone: str) -> None:
    child, (run,) = child_runs(swept.uri)["0.001 learning_rate, seed 1"], runs(alone)
    assert child.data.tags["fingerprint"] == run.data.tags["fingerprint"]
    assert history(swept.uri, child.info.run_id) == history(alone, run.info.run_id)
    pairs = zip(weights(swept.uri, child.info.run_id), weights(alone, run.info.run_id), strict=True)
    for child_weights, weights_alone in pairs:
        np.testing.assert_array_equal(child_weights, weights_alone)


def test_finished_children_are_compared_over_seeds(swept: EndedSweep) -> None:
    table = command("--group-by", "seed", "--uri", swept.uri, "--format", "csv", script="scripts/compare.py")
    (group,) = csv.DictReader(io.StringIO(table.stdout))
    assert group["n"] == "2"


@pytest.mark.soak
@pytest.mark.parametrize("engine", ENGINES)
def test_ctrl_c_ends_the_job_and_the_sweep_as_killed(engine: str, uri: str) -> None:
    line = ["data=digits", "training.epochs=100000", "report.figures=none", "seed=0,1", *ENGINES[engine]]
    process = start("-m", *line, f"tracking.uri={uri}")

    def first_epoch() -> object:
        run = child_runs(uri).get("seed 0")
        return run and run.data.metrics.get("loss")

    wait_until(first_epoch)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "\nResume the sweep: python run.py -m data=digits" in err
    assert {run.info.status for run in runs(uri)} == {"KILLED"}
    assert child_runs(uri)["seed 0"].data.tags["end_reason"] == "interrupted by Ctrl-C"
    assert list(child_runs(uri)) == ["seed 0"]
