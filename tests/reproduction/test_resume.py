"""Runs that are killed at any moment and resumed end equal to uninterrupted ones, to the last bit."""

import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import command, start
from stores import history, made, runs, weights

from experiments.config.composition import compose_job
from experiments.reproduction.resume import find_resumed_run
from experiments.tracking.store import connect_store

# With dropout, augmentation, batch normalization, a plateau schedule, the best epoch restored, an uneven last batch,
# and checkpoints between steps.
EVERYTHING = [
    "training.epochs=5",
    "training.checkpoint_minutes=0",
    "training.restore_best=true",
    "model.batch_normalization=true",
    "schedule=reduce_on_plateau",
    "schedule.patience=1",
    "schedule.min_delta=0.05",
    "report.figures=none",
    "data.limit=3010",
    "data.validation=500",
    "data.augmentation={shift:2,rotation:10,elastic:30}",
]


def killed_after(seconds: float, *arguments: str, line: str = "epoch") -> None:
    """Start a command, wait for the first line that begins with `line` and `seconds` more, and send SIGKILL."""
    process = start(*arguments)
    assert process.stdout
    while not (printed := process.stdout.readline()).startswith(line):
        assert printed, process.communicate()[1]
    time.sleep(seconds)
    process.kill()
    process.communicate()


@pytest.mark.soak
def test_a_run_killed_at_random_moments_ends_equal_to_an_uninterrupted_one(uri: str, mnist: Path) -> None:
    seed = random.randrange(1000)
    print(f"random.Random({seed})")  # shown when this fails
    moments = random.Random(seed)
    killed_after(moments.uniform(0, 0.3), *EVERYTHING, f"tracking.uri={uri}")
    assert [run.info.status for run in runs(uri)] == ["RUNNING"]
    assert command(*EVERYTHING, f"tracking.uri={uri}").returncode == 0
    assert [run.info.status for run in runs(uri)] == ["KILLED", "FINISHED"]  # the next command marks it
    run_id, whole = (run.info.run_id for run in runs(uri))
    # A resumed run prints nothing before its first epoch ends, so the kill comes after a random time.
    process = start(f"resume={run_id}", f"tracking.uri={uri}")
    time.sleep(moments.uniform(1, 6))
    process.kill()
    process.communicate()
    done = command(f"resume={run_id}", f"tracking.uri={uri}")
    assert done.returncode == 0, done.stderr
    assert [run.info.status for run in runs(uri)] == ["FINISHED"] * 2
    assert history(uri, run_id) == history(uri, whole)
    for resumed, uninterrupted in zip(weights(uri, run_id), weights(uri, whole), strict=True):
        np.testing.assert_array_equal(resumed, uninterrupted)


@pytest.mark.soak
def test_an_interrupted_run_prints_the_command_that_resumes_it(uri: str) -> None:
    arguments = ["data=digits", "training.loop=fit", "report.figures=none", "training.epochs=10"]
    process = start(*arguments, f"tracking.uri={uri}")
    assert process.stdout
    while not process.stdout.readline().startswith("epoch  2"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the run was faster than the signal")
    assert process.returncode == 130, err
    assert "Traceback" not in err
    run_id = runs(uri)[0].info.run_id
    assert f"Resume it from its last checkpoint: python run.py resume={run_id}" in err
    assert runs(uri)[0].info.status == "KILLED"
    assert command(f"resume={run_id}", f"tracking.uri={uri}").returncode == 0
    assert command(*arguments, f"tracking.uri={uri}").returncode == 0
    resumed, whole = (history(uri, run.info.run_id) for run in runs(uri))
    assert resumed == whole


@pytest.mark.slow
def test_a_run_that_cannot_be_resumed_is_refused(uri: str) -> None:
    small = ["data=digits", "training.epochs=1", "report.figures=none", "tracking.log_model=false"]
    assert command(*small, f"tracking.uri={uri}").returncode == 0
    run_id = runs(uri)[0].info.run_id

    finished = command(f"resume={run_id}", f"tracking.uri={uri}")
    assert (finished.returncode, "is finished: there is nothing to resume" in finished.stderr) == (0, True)
    unknown = command(f"resume={'0' * 32}", f"tracking.uri={uri}")
    assert (unknown.returncode, "There is no run" in unknown.stderr) == (2, True)

    killed_after(0, "data=digits", "training.epochs=100000", "report.figures=none", f"tracking.uri={uri}")
    run_id = runs(uri)[1].info.run_id
    other = command(f"resume={run_id}", "training.epochs=7", f"tracking.uri={uri}")
    assert other.returncode == 2
    assert "training.epochs=7 disagrees with run" in other.stderr
    assert "started with training.epochs=100000" in other.stderr

    connect_store(uri).set_tag(run_id, "code_digest", "0" * 36)
    changed = command(f"resume={run_id}", f"tracking.uri={uri}")
    assert changed.returncode == 2
    assert "cannot be resumed, because these changed: the project's code (code_digest was" in changed.stderr
    assert "resume_anyway=true" in changed.stderr
    assert len(runs(uri)) == 2


@pytest.mark.slow
def test_keys_that_cannot_affect_the_result_can_be_changed(uri: str, tmp_path: Path, mnist: Path) -> None:
    small = ["data.limit=100", "data.validation=0", "training.epochs=1", "report.figures=none"]
    run_id = made(uri, *small, "tracking.log_model=false").info.run_id
    connect_store(uri).set_terminated(run_id, "KILLED")
    anew = [f"data.path={tmp_path}", "report.style=dark", "training.checkpoint_minutes=7", "expected.seeds=[1]"]
    config = compose_job([f"resume={run_id}", f"tracking.uri={uri}", "experiment=walkthrough", *anew])
    found = find_resumed_run(config, [f"resume={run_id}", *anew])[0]
    assert (found.data.path, found.training.checkpoint_minutes) == (str(tmp_path), 7)
    assert (found.report.style, found.report.figures) == ("dark", "none")
    assert (found.data.limit, found.training.epochs, found.expected) == (100, 1, None)


@pytest.mark.soak
def test_sigterm_writes_a_checkpoint_and_exits_with_143(uri: str) -> None:
    process = start("data=digits", "training.epochs=100000", f"tracking.uri={uri}")
    assert process.stdout
    while not process.stdout.readline().startswith("epoch"):
        assert process.poll() is None
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, runs(uri)[0].info.status) == (143, "KILLED")
    assert "python run.py resume=" in err
    assert "Traceback" not in err
