"""The engine `pool`: workers that die, hang or lose their sweep, and the GPUs that they see."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from conftest import command, start
from stores import artifact, history, runs
from sweep_runs import child_runs, parent_run, wait_until

from experiments.config.composition import compose_job
from experiments.config.sweep_composition import PoolSettings, compose_sweep
from experiments.sweeps.engines import pool
from experiments.sweeps.engines.pool import PoolEngine, PoolWorker, parse_listed_gpus, visible_gpus, worker_environment
from experiments.sweeps.plan import plan_jobs

SMALL = ["data=digits", "training.epochs=2"]


@pytest.mark.soak
def test_a_sweep_survives_the_death_of_a_worker_and_is_resumed_after_its_own(uri: str) -> None:
    line = ["-m", "data=digits", "training.epochs=100000", "report.figures=none", "seed=0,1,2"]
    line += ["hydra.launcher.workers=1", f"tracking.uri={uri}"]

    def training(name: str, more_than: int = 1) -> Callable[[], Any]:
        def has_begun() -> Any:
            run = child_runs(uri).get(name) if Path(uri.removeprefix("sqlite:///")).exists() else None
            return run and run.info.status == "RUNNING" and len(epochs(name)) > more_than and run

        return has_begun

    def epochs(name: str) -> list[int]:
        run_id = child_runs(uri)[name].info.run_id
        return [step for step, _ in history(uri, run_id).get("loss", [])]

    process = start(*line)
    os.kill(int(wait_until(training("seed 0")).data.tags["process.pid"]), signal.SIGKILL)
    worker = int(wait_until(training("seed 1")).data.tags["process.pid"])
    killed = child_runs(uri)["seed 0"]
    assert (killed.info.status, killed.data.tags["end_reason"]) == (
        "KILLED",
        "its worker process was killed by SIGKILL",
    )
    process.kill()
    process.wait()
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), seconds=30)
    assert child_runs(uri)["seed 1"].data.tags["end_reason"] == "terminated by SIGTERM"
    before = len(epochs("seed 0"))

    process = start(*line, "report.style=dark")  # the runs that were begun keep theirs
    wait_until(training("seed 0", before))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "2 to resume, 1 to run." in out
    assert "Resume the sweep: python run.py -m data=digits" in err
    after = epochs("seed 0")
    assert after == list(range(1, len(after) + 1))
    assert "style: light" in artifact(uri, killed.info.run_id, "config/config.yaml")
    assert len(runs(uri)) == 3
    assert (parent_run(uri).info.status, child_runs(uri)["seed 0"].info.status) == ("KILLED", "KILLED")


@pytest.mark.soak
def test_a_job_beyond_its_time_limit_is_killed(uri: str) -> None:
    line = ["-m", "data=digits", "training.epochs=100000", "report.figures=none", "hydra.launcher.timeout_minutes=0.2"]
    done = command(*line, f"tracking.uri={uri}")
    assert done.returncode == 1
    assert "it took longer than hydra.launcher.timeout_minutes=0.2" in done.stderr
    assert [run.info.status for run in child_runs(uri).values()] == ["KILLED"]


@pytest.mark.soak
def test_a_sweep_goes_on_when_nobody_reads_its_output(uri: str) -> None:
    process = start("-m", *SMALL, "seed=0,1", "hydra.launcher.workers=1", f"tracking.uri={uri}")
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    assert (process.wait(120), said) == (0, "")
    assert {run.info.status for run in runs(uri)} == {"FINISHED"}
    assert len(child_runs(uri)) == 2


@pytest.mark.soak
@pytest.mark.parametrize("loaded", [True, False])
def test_a_worker_ends_when_its_sweep_is_gone(loaded: bool) -> None:
    ours, theirs = Pipe()
    command_line = [sys.executable, "-m", "experiments.sweeps.engines.pool", str(theirs.fileno()), ".", *"110", ""]
    worker = subprocess.Popen(command_line, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
    theirs.close()
    if loaded:
        assert ours.poll(60)
    ours.close()
    assert worker.communicate(timeout=60) == (None, b"")
    assert worker.returncode == 0  # by itself: it is not 0 where it has to be ended


@pytest.mark.slow
def test_workers_make_room_for_jobs_of_another_kind_and_dead_ones_are_replaced(uri: str) -> None:
    composed = compose_sweep([*SMALL, "training.threads=1,2", f"tracking.uri={uri}"])
    planned = plan_jobs(composed.jobs, ["training.threads"])
    one, two = (replace(job, fingerprint="of other code") for job in planned)  # they fail at once
    engine = PoolEngine(PoolSettings(workers=1, timeout_minutes=None))
    engine.start("f" * 32)
    processes = []
    try:
        for job in (one, one, two):
            engine.give(job)
            end = engine.wait()
            assert (end.job, end.lost_status) == (job, None)
            assert end.reason.startswith("The project's code or packages have changed since the sweep started.")
            (worker,) = engine.workers
            processes.append(worker.process)
        assert processes[0] is processes[1] is not processes[2]
        processes[2].kill()
        processes[2].wait()
        engine.give(two, draw="1f0a")
        assert "1f0a" in engine.wait().reason
        engine.give(two)
        engine.workers[0].process.kill()
        end = engine.wait()
        assert (end.reason, end.lost_status) == ("its worker process was killed by SIGKILL", "KILLED")
    finally:
        assert engine.close() == []


@pytest.mark.parametrize(("seconds", "code"), [("0.5", 0), ("60", -9)])
def test_idle_workers_are_waited_for_and_killed_if_they_stay(
    seconds: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "GRACE_SECONDS", 5)
    engine = PoolEngine(PoolSettings(workers=1, timeout_minutes=None))
    process = subprocess.Popen(["sleep", seconds])
    engine.workers.append(PoolWorker(compose_job([]), None, process, Pipe()[0]))
    assert engine.close() == []
    assert process.returncode == code


def test_waits_no_longer_than_asked() -> None:
    engine = PoolEngine(PoolSettings(workers=1, timeout_minutes=None))
    with pytest.raises(TimeoutError):
        engine.wait(0.1)


@pytest.mark.parametrize(
    ("workers", "gpus", "seen"),
    [(3, ["4", "7"], ["4", "7", "4"]), (2, ["0", "1", "2"], ["0", "1"]), (2, ["0"], ["0", "0"])],
)
def test_workers_share_the_gpus_evenly(workers: int, gpus: list[str], seen: list[str]) -> None:
    taken: list[str] = []
    for _ in range(workers):
        environment = worker_environment(gpus, taken, 1)
        taken.append(environment["CUDA_VISIBLE_DEVICES"])
    assert taken == seen
    assert worker_environment(gpus, taken[1:], 1)["CUDA_VISIBLE_DEVICES"] == taken[0]  # the first worker has ended


def test_a_worker_of_several_devices_sees_as_many_gpus() -> None:
    assert worker_environment(["0", "1", "2"], ["0"], 2)["CUDA_VISIBLE_DEVICES"] == "1,2"


def test_workers_without_gpus_have_the_environment_of_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert worker_environment([], [], 2) == dict(os.environ)


def test_each_visible_gpu_serves_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert visible_gpus() == ["4", "7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1a,MIG-2b")
    assert visible_gpus() == ["GPU-1a", "MIG-2b"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []


def test_each_instance_of_a_split_gpu_serves_one_worker() -> None:
    listed = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5d1e)
  MIG 1g.10gb     Device  0: (UUID: MIG-3f2a)
  MIG 1g.10gb     Device  1: (UUID: MIG-77c0)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-90ab)
"""
    assert parse_listed_gpus(listed) == ["MIG-3f2a", "MIG-77c0", "GPU-90ab"]
    assert parse_listed_gpus("No devices found.\n") == []
