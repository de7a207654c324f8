"""Runs that are killed as they begin, resumed by two processes at once, damaged on disk, or lose their store."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import command, start
from stores import artifact, history, runs

from experiments.reproduction.original_run import find_original_run
from experiments.training.checkpoints import CHECKPOINT_FOLDER, checkpoint_path, drop_checkpoint

SMALL = ["data=digits", "training.epochs=30", "report.figures=none", "tracking.log_model=false"]
pytestmark = pytest.mark.soak


def files_of(run_id: str) -> list[str]:
    return [path.name for path in CHECKPOINT_FOLDER.glob(f"{run_id}*")]


def killed_when(condition: str, uri: str) -> str:
    """Start a run, kill it once the database has a row for this query, and return its id."""
    process = start(*SMALL, f"tracking.uri={uri}")
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        while not (found := database.execute(condition).fetchone()):
            assert process.poll() is None
            time.sleep(0.001)
    process.kill()
    process.communicate()
    return str(found[0])


def test_a_run_killed_as_it_begins_is_resumed_by_one_of_two_processes(uri: str) -> None:
    run_id = killed_when("SELECT run_uuid FROM runs", uri)
    resumes = [start(f"resume={run_id}", f"tracking.uri={uri}") for _ in range(2)]
    ends = sorted((err, process.returncode) for process in resumes for _, err in [process.communicate(timeout=120)])
    assert [code for _, code in ends] == [0, 2], ends
    assert ends[1][0].startswith(f"Run {run_id} is still running, in ")
    assert [epoch for epoch, _ in history(uri, run_id)["loss"]] == list(range(1, 31))
    assert len(find_original_run(run_id, uri).record_changes()) == 0
    assert "training.epochs=30" in artifact(uri, run_id, "config/overrides.yaml")
    assert files_of(run_id) == []


def test_lost_files_of_the_record_are_written_again(uri: str) -> None:
    run_id = killed_when("SELECT run_uuid FROM metrics WHERE step = 3", uri)
    artifacts = Path(uri.removeprefix("sqlite:///")).parent / "artifacts" / run_id / "artifacts"
    for name in ("config/config.yaml", "environment/hardware.json"):
        (artifacts / name).write_bytes(b"")
    checkpoint = checkpoint_path(run_id)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    done = command(f"resume={run_id}", f"tracking.uri={uri}")
    assert done.returncode == 0, done.stderr
    assert f"The checkpoint {checkpoint} is damaged" in done.stderr
    assert "epoch  1/30" not in done.stdout
    assert find_original_run(run_id, uri).record_changes() == []


def test_a_run_whose_store_was_deleted_keeps_its_checkpoint(uri: str) -> None:
    process = start(*SMALL, f"tracking.uri={uri}")
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        while not database.execute("SELECT 1 FROM metrics").fetchone():
            assert process.poll() is None
            time.sleep(0.01)
    run_id = runs(uri)[0].info.run_id
    Path(uri.removeprefix("sqlite:///")).unlink()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"Run {run_id} has ended, but is not in the tracking store {uri}" in err
    assert checkpoint_path(run_id).exists()
    drop_checkpoint(run_id)
