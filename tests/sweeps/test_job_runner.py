"""How the jobs of a sweep are given to an engine, here one that trains nothing: progress, drawing, interruption."""

import math
import time
from signal import SIGINT, Signals

import pytest

from experiments.config.schema import Config
from experiments.config.sweep_composition import compose_sweep
from experiments.errors import TrainingError
from experiments.sweeps import patience
from experiments.sweeps.engines.engine import Engine, JobEnd
from experiments.sweeps.job_runner import JobRunner
from experiments.sweeps.plan import SweepJob, plan_jobs
from experiments.tracking.run import open_run

PARENT = "f" * 32


class FakeEngine(Engine):
    """Makes an empty finished run for each job; drawing raises `on_draw`."""

    def __init__(self, uri: str = "", on_draw: BaseException | None = None) -> None:
        self.uri, self.on_draw = uri, on_draw
        self.told: list[str] = []

    def max_parallel(self, config: Config) -> int:
        return 1

    def give(self, job: SweepJob, draw: str | None = None) -> None:
        self.job = job

    def wait(self, timeout: float = math.inf) -> JobEnd:
        if self.on_draw and timeout < math.inf:
            raise self.on_draw
        tags = {"mlflow.parentRunId": PARENT, "fingerprint": self.job.fingerprint}
        with open_run(self.uri, "digits", self.job.name, {}, tags):
            return JobEnd(self.job, 1.0)

    def interrupt(self, sent: Signals) -> None:
        self.told.append(sent.name)

    def close(self) -> list[JobEnd]:
        self.told.append("close")
        return []


def planned_jobs(uri: str, *overrides: str) -> list[SweepJob]:
    composed = compose_sweep(["data=digits", f"tracking.uri={uri}", *overrides])
    return plan_jobs(composed.jobs, ["seed"])


def test_progress_reaches_the_total_when_jobs_are_the_same_experiment(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with JobRunner(FakeEngine(uri), PARENT) as runner:
        runner.jobs += planned_jobs(uri, "report.style=light,dark", "seed=0,1")
        runner.run(runner.jobs)
    assert [line[:5] for line in capsys.readouterr().out.splitlines()] == ["[2/4]", "[4/4]"]


def test_no_job_is_started_after_the_time_is_over(uri: str) -> None:
    jobs = planned_jobs(uri, "seed=0,1", "report.style=light,dark")
    with JobRunner(FakeEngine(uri), PARENT, minutes=1e-6) as runner:
        runner.jobs += jobs
        time.sleep(0.001)
        runner.run(runner.jobs)
    assert (runner.seconds, runner.not_started) == ([], {0, 1, 2, 3})
    assert not any(outcome.run_id for outcome in runner.outcomes())


def test_a_job_that_runs_when_the_time_is_over_ends(uri: str) -> None:
    with JobRunner(FakeEngine(uri), PARENT, minutes=1e-4) as runner:  # 6 ms: to make a run takes longer
        runner.jobs += planned_jobs(uri, "seed=0,1,2")
        runner._deadline += 1  # to read the outcomes before the first job
        time.sleep(0.9)
        runner.run(runner.jobs)
    done = [outcome.is_done for outcome in runner.outcomes()]
    assert done == [number not in runner.not_started for number in range(3)]


def test_figures_that_take_too_long_are_left_out(new_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(on_draw=TimeoutError())
    with JobRunner(engine, PARENT) as runner:
        runner.draw(planned_jobs(new_uri)[0], "1f0a")
    assert capsys.readouterr().err == "The figures of the best run 1f0a are left out: it took longer than 120 s\n"
    assert engine.told == ["close"]


def test_ctrl_c_while_drawing_interrupts_the_engine(new_uri: str) -> None:
    engine = FakeEngine(on_draw=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt), JobRunner(engine, PARENT) as runner:
        runner.draw(planned_jobs(new_uri)[0], "1f0a")
    assert engine.told == [SIGINT.name, "close"]


def test_ctrl_c_during_an_outage_of_the_store_is_not_held_up() -> None:
    class KilledJobs(FakeEngine):
        def close(self) -> list[JobEnd]:
            return [JobEnd(job, 1.0, "its worker process was killed", "KILLED")]

    (job,) = planned_jobs("http://127.0.0.1:9")
    with pytest.raises(KeyboardInterrupt), JobRunner(KilledJobs(), PARENT):
        raise KeyboardInterrupt


def test_a_sweep_that_waits_in_vain_for_its_store_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patience, "STORE_PATIENCE", 0.1)
    monkeypatch.setattr(patience, "STORE_POLL", 0.1)
    with JobRunner(FakeEngine(), PARENT) as runner:
        runner.jobs += planned_jobs("http://127.0.0.1:9")
        with pytest.raises(TrainingError, match=r"The sweep has waited for its store in vain: The tracking"):
            runner.run(runner.jobs)
    assert capsys.readouterr().err.endswith("The sweep waits for its store, at most 0 s.\n")
