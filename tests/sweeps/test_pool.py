"""The launcher `pool`: jobs in worker processes that fail alone, end with the sweep, and are run once."""

import csv
import io
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import command, start
from stores import artifact, files, history, runs, weights

from experiments.config.sweep_composition import compose_sweep
from experiments.errors import ConfigError
from experiments.sweeps.engines.pool import (
    PoolWorker,
    WorkerPool,
    _gpu_name,
    _visible_gpus,
    check_pool_settings,
    worker_kind,
)
from experiments.sweeps.plan import plan_jobs

SMALL = ["data=digits", "training.epochs=2"]
# The second learning rate ends in a loss that is not finite.
SWEEP = [*SMALL, "optimizer.learning_rate=1e-3,1e30", "seed=0,1"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, subprocess.CompletedProcess[str]]:
    """A sweep of four jobs, of which two fail: the store, and how the command ended."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    return uri, command("-m", *SWEEP, "sweep.retries=1", f"tracking.uri={uri}")


def children(uri: str) -> dict[str, Any]:
    return {run.info.run_name: run for run in runs(uri) if "mlflow.parentRunId" in run.data.tags}


def the_parent(uri: str) -> Any:
    return next(run for run in runs(uri) if "sweep" in run.data.tags)


@pytest.mark.slow
def test_jobs_that_fail_do_so_alone_and_are_all_listed(swept: tuple[str, subprocess.CompletedProcess[str]]) -> None:
    uri, done = swept
    assert done.returncode == 1
    assert "1e+30 learning_rate, seed 1 is tried again: " in done.stderr
    assert "2 of 4 jobs of the sweep did not finish:" in done.stderr
    for name in ("1e+30 learning_rate, seed 0", "1e+30 learning_rate, seed 1"):
        assert f"  {name}: FAILED ({children(uri)[name].info.run_id}): " in done.stderr
    assert "The same command runs them again: python run.py -m data=digits" in done.stderr
    assert "Traceback" not in done.stderr
    jobs = [line[:5] for line in done.stdout.splitlines() if line.startswith("[")]
    assert jobs == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert "epoch 1/" not in done.stdout  # of jobs that run at once
    statuses = {name: run.info.status for name, run in children(uri).items()}
    assert statuses == {
        "0.001 learning_rate, seed 0": "FINISHED",
        "0.001 learning_rate, seed 1": "FINISHED",
        "1e+30 learning_rate, seed 0": "FAILED",
        "1e+30 learning_rate, seed 1": "FAILED",
    }
    failed = children(uri)["1e+30 learning_rate, seed 0"].info.run_id
    assert "NotFiniteError" in artifact(uri, failed, "error/traceback.txt")
    parent = the_parent(uri)
    assert (parent.info.status, len(runs(uri))) == ("FAILED", 5)
    assert parent.data.tags["end_reason"] == "2 of 4 jobs of the sweep did not finish:"


@pytest.mark.slow
def test_the_best_child_alone_has_the_full_report(swept: tuple[str, subprocess.CompletedProcess[str]]) -> None:
    uri, _ = swept
    figures = {run.info.run_id: len(files(uri, run.info.run_id, "figures")) for run in children(uri).values()}
    best = the_parent(uri).data.tags["best_run"]
    assert figures.pop(best) == 11
    assert sorted(figures.values()) == [0, 0, 2]


@pytest.mark.slow
def test_its_finished_runs_are_compared_over_seeds(swept: tuple[str, subprocess.CompletedProcess[str]]) -> None:
    uri, _ = swept
    table = command("--group-by", "seed", "--uri", uri, "--format", "csv", script="scripts/compare.py")
    (group,) = csv.DictReader(io.StringIO(table.stdout))
    assert group["n"] == "2"
    assert "Left out of the means, as not finished: " in table.stderr


@pytest.mark.slow
def test_the_same_command_finds_what_is_done_and_runs_again_what_failed(
    swept: tuple[str, subprocess.CompletedProcess[str]],
) -> None:
    uri, _ = swept
    done = command("-m", *SWEEP, "sweep.dry_run=true", f"tracking.uri={uri}")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 done, 2 to run again.")


@pytest.mark.slow
def test_a_child_is_equal_to_the_last_bit_to_the_same_config_run_alone(
    swept: tuple[str, subprocess.CompletedProcess[str]], uri: str
) -> None:
    store, _ = swept
    child = children(store)["0.001 learning_rate, seed 1"]
    alone = command(*SMALL, "optimizer.learning_rate=1e-3", "seed=1", f"tracking.uri={uri}")
    assert alone.returncode == 0, alone.stderr
    (run,) = runs(uri)
    assert child.data.tags["fingerprint"] == run.data.tags["fingerprint"]
    assert history(store, child.info.run_id) == history(uri, run.info.run_id)
    for ours, theirs in zip(weights(store, child.info.run_id), weights(uri, run.info.run_id), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait for what the condition finds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.3)  # each look costs ten queries
    return found


@pytest.mark.slow
def test_a_sweep_goes_on_after_the_death_of_a_worker_of_itself_and_after_ctrl_c(uri: str) -> None:
    line = ["-m", "data=digits", "training.epochs=100000", "report.figures=none", "seed=0,1,2"]
    line += ["hydra.launcher.workers=1", f"tracking.uri={uri}"]

    def training(name: str, more_than: int = 1) -> Callable[[], Any]:
        def has_begun() -> Any:
            run = children(uri).get(name) if Path(uri.removeprefix("sqlite:///")).exists() else None
            return run and run.info.status == "RUNNING" and len(epochs(name)) > more_than and run

        return has_begun

    def epochs(name: str) -> list[int]:
        run_id = children(uri)[name].info.run_id
        return [step for step, _ in history(uri, run_id).get("loss", [])]

    process = start(*line)
    os.kill(int(until(training("seed 0")).data.tags["process.pid"]), signal.SIGKILL)
    worker = int(until(training("seed 1")).data.tags["process.pid"])
    killed = children(uri)["seed 0"]
    assert (killed.info.status, killed.data.tags["end_reason"]) == (
        "KILLED",
        "its worker process was killed by SIGKILL",
    )
    process.kill()
    process.wait()
    until(lambda: not Path(f"/proc/{worker}").exists(), seconds=30)
    assert children(uri)["seed 1"].data.tags["end_reason"] == "terminated by SIGTERM"
    before = len(epochs("seed 0"))

    process = start(*line, "report.style=dark")  # not so the runs that were begun
    until(training("seed 0", before))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "2 to go on with, 1 to run." in out
    assert "Go on with the sweep: python run.py -m data=digits" in err
    after = epochs("seed 0")
    assert after == list(range(1, len(after) + 1))
    assert "style: light" in artifact(uri, killed.info.run_id, "config/config.yaml")
    assert len(runs(uri)) == 3
    assert (the_parent(uri).info.status, children(uri)["seed 0"].info.status) == ("KILLED", "KILLED")


@pytest.mark.slow
def test_a_job_that_takes_too_long_is_ended(uri: str) -> None:
    line = ["-m", "data=digits", "training.epochs=100000", "report.figures=none", "hydra.launcher.timeout_minutes=0.2"]
    done = command(*line, f"tracking.uri={uri}")
    assert done.returncode == 1
    assert "it took longer than hydra.launcher.timeout_minutes=0.2" in done.stderr
    assert [run.info.status for run in children(uri).values()] == ["KILLED"]


@pytest.mark.slow
def test_a_sweep_goes_on_though_nobody_reads_what_it_prints(uri: str) -> None:
    process = start("-m", *SMALL, "seed=0,1", "hydra.launcher.workers=1", f"tracking.uri={uri}")
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    assert (process.wait(120), said) == (0, "")
    assert {run.info.status for run in runs(uri)} == {"FINISHED"}
    assert len(children(uri)) == 2


@pytest.mark.slow
def test_a_worker_that_nobody_leads_any_more_ends() -> None:
    ours, theirs = Pipe()
    command_line = [sys.executable, "-m", "experiments.sweeps.engines.pool", str(theirs.fileno()), "1", "1"]
    worker = subprocess.Popen(command_line, pass_fds=[theirs.fileno()])
    theirs.close()
    assert ours.poll(60)  # it has loaded TensorFlow
    ours.close()
    assert worker.wait(60) == 0  # by itself: where it has to be ended for that, it is not 0


def test_a_worker_that_dies_over_the_figures_of_the_best_run_is_told_and_fails_no_sweep(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (job,) = plan_jobs(compose_sweep(SMALL).jobs, [], 0)
    for program in (["head", "--bytes=1"], ["sleep", "60"]):  # the first reads and ends, nobody reads for the second
        ours, theirs = Pipe()
        process = subprocess.Popen(program, stdin=theirs.fileno() if program[0] == "head" else None)
        theirs.close()
        workers = WorkerPool(None, 1, math.inf)  # type: ignore[arg-type]
        workers.workers.append(PoolWorker(worker_kind(job.config), None, process, ours))
        workers.draw(job, "1f0a")
        process.kill()
        process.wait()
        told = capsys.readouterr().err
        assert told == (
            "The figures of the best run 1f0a could not be drawn: the worker process that drew them is gone\n"
        )


@pytest.mark.parametrize(
    ("workers", "minutes", "said"),
    [
        (0, None, r"hydra\.launcher\.workers=0 is not allowed: processes, from 1 on, or null"),
        ("two", None, r"hydra\.launcher\.workers=two is not allowed"),
        (None, 0, r"hydra\.launcher\.timeout_minutes=0 is not allowed: minutes, greater than 0, or null"),
    ],
)
def test_what_the_launcher_does_not_take_is_refused(workers: Any, minutes: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_pool_settings(workers, minutes)


def test_each_of_the_visible_gpus_is_for_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert (_visible_gpus(), _gpu_name(1)) == (2, "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert _visible_gpus() == 0
