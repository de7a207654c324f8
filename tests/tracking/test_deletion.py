"""Runs deleted for good: from the database, the artifacts, and the folders of checkpoints and spools."""

import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from conftest import command

from experiments.errors import StoreError
from experiments.tracking.addresses import database_file
from experiments.tracking.deletion import delete_runs, find_deletable_runs
from experiments.tracking.run import open_run
from experiments.tracking.spool import SPOOL_FOLDER
from experiments.tracking.store import connect_store, outage_reason
from experiments.training.checkpoints import CHECKPOINT_FOLDER

DAY = 86_400_000  # milliseconds


def add_run(uri: str, status: str = "FINISHED", days_ago: int = 0, experiment: str = "first", **tags: str) -> str:
    """Add a run with a metric, an artifact and a logged model, as run.py does; return its id."""
    named = {key.replace("parent", "mlflow.parentRunId"): value for key, value in tags.items()}
    with open_run(uri, experiment, "a name", {"seed": 0}, named) as run:
        run.log_metrics({"loss": 1.0}, 1)
        run.log_text("text", "config/config.yaml")
        run.log_dataset("digits", "digest", "a source", {"train": 1})
    client = connect_store(uri)
    model = client.create_logged_model(run.experiment_id, "model", run.run_id)
    with TemporaryDirectory() as folder:
        Path(folder, "model.keras").write_bytes(b"weights")
        client.log_model_artifacts(model.model_id, folder)
    client.set_terminated(run.run_id, status, end_time=int(time.time() * 1000) - days_ago * DAY - 1000)
    return run.run_id


def add_sweep(uri: str, *statuses: str) -> list[str]:
    """Add a sweep with runs of these statuses; return their ids, and at the end that of the sweep."""
    parent = add_run(uri, sweep="digest")
    return [*(add_run(uri, status, parent=parent) for status in statuses), parent]


def traces(uri: str, run_id: str) -> list[str]:
    """Return the tables and files in which a run is still mentioned."""
    found = []
    with closing(sqlite3.connect(database_file(uri))) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            found += [table for row in database.execute(f"SELECT * FROM {table}") if run_id in map(str, row)]
    places = (database_file(uri).parent / "artifacts", CHECKPOINT_FOLDER, SPOOL_FOLDER)
    return found + [str(path) for place in places for path in place.rglob(f"*{run_id}*")]


WAITING = b'{"store": "of another run"}\n'


def found_ids(uri: str, *run_ids: str, **conditions: Any) -> list[str]:
    return [run.record.run_id for run in find_deletable_runs(connect_store(uri), run_ids, **conditions)]


def test_nothing_of_a_deleted_run_stays(uri: str) -> None:
    kept, deleted = add_run(uri), add_run(uri)
    for file in (CHECKPOINT_FOLDER / f"{deleted}.npz", SPOOL_FOLDER / f"{deleted}.jsonl", SPOOL_FOLDER / deleted / "0"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(WAITING)
    done = command(deleted[:12], f"--uri={uri}", script="scripts/delete.py")
    assert (done.returncode, done.stderr) == (2, "Nothing was deleted. To delete them, add --yes.\n")
    assert done.stdout.splitlines() == [f"1 run and 0.0 MB of files in {uri}:", f"  {deleted}  FINISHED  a name"]
    (run,) = find_deletable_runs(connect_store(uri), [deleted])
    assert run.size == len("text") + len("weights") + 3 * len(WAITING)
    assert len(traces(uri, deleted)) > 5
    before = traces(uri, kept)

    done = command(deleted, "--yes", f"--uri={uri}", script="scripts/delete.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("Deleted 1 run and 0.0 MB of files.\n")
    assert traces(uri, deleted) == []
    assert traces(uri, kept) == before
    assert len(list((database_file(uri).parent / "artifacts").rglob("model.keras"))) == 1
    assert "There is no run" in command(deleted, f"--uri={uri}", script="scripts/delete.py").stderr


def test_a_sweep_takes_its_runs_along(uri: str) -> None:
    alone, sweep, half = (
        add_run(uri, "FAILED"),
        add_sweep(uri, "FAILED", "KILLED"),
        add_sweep(uri, "FINISHED", "FAILED"),
    )
    assert sorted(found_ids(uri, sweep[-1])) == sorted(sweep)
    assert found_ids(uri, sweep[-1])[-1] == sweep[-1]  # last: if cut off, the same command deletes the rest
    assert found_ids(uri, sweep[0]) == [sweep[0]]
    # Without its finished run the sweep would lose what it was: it stays.
    assert sorted(found_ids(uri, status="FAILED")) == sorted([alone, sweep[0], half[1]])
    assert found_ids(uri, half[-1], status="FAILED") == [half[1]]


def test_runs_that_start_from_a_deleted_one_are_named(uri: str) -> None:
    start, other = add_run(uri), add_run(uri)
    with open_run(uri, "first", "trained further", {"model.continue": start, "model.weights": None}, {}) as run:
        pass
    said = f"Run {run.run_id} (trained further) starts from {start}, and cannot be reproduced without it.\n"
    assert said in command(start, "--uri", uri, script="scripts/delete.py").stdout
    assert "starts from" not in command(start, run.run_id, "--uri", uri, script="scripts/delete.py").stdout
    assert "starts from" not in command(other, "--uri", uri, script="scripts/delete.py").stdout


def test_runs_are_chosen_by_experiment_age_and_status(uri: str) -> None:
    old, new = add_run(uri, "FAILED", days_ago=40), add_run(uri, "FAILED")
    other = add_run(uri, "KILLED", days_ago=40, experiment="second")
    month = time.time() * 1000 - 30 * DAY
    assert set(found_ids(uri, ended_before=month)) == {old, other}
    assert found_ids(uri, status="FAILED", ended_before=month) == [old]
    assert set(found_ids(uri, experiment="first")) == {old, new}
    assert found_ids(uri, experiment="second", status="FAILED") == []
    with pytest.raises(StoreError, match="There is no experiment 'third'"):
        found_ids(uri, experiment="third")
    done = command("--older-than=30d", "--status=FAILED", "--yes", f"--uri={uri}", script="scripts/delete.py")
    assert (done.returncode, done.stdout.count(old), traces(uri, old)) == (0, 1, [])
    assert (len(traces(uri, new)) > 5, len(traces(uri, other)) > 5) == (True, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Nothing is named to be deleted: give RUN_ID, --experiment, --status or --older-than."),
        (
            ["--older-than=1"],
            "--older-than=1 is not allowed: a number of days, hours or minutes, such as 30d, 12h, 90m",
        ),
        (["0" * 32], f"There is no run '{'0' * 32}' in "),
    ],
)
def test_mistakes_are_reported_in_one_line(arguments: list[str], message: str, uri: str) -> None:
    done = command(*arguments, "--yes", f"--uri={uri}", script="scripts/delete.py")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(message)


def test_a_running_run_is_refused_and_all_stay(uri: str) -> None:
    ended = add_run(uri)
    with open_run(uri, "first", "runs", {}, {}) as running:
        done = command("--experiment=first", "--yes", f"--uri={uri}", script="scripts/delete.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Run {running.run_id} (runs) is RUNNING: stop it first. Nothing was deleted.\n"
    assert sorted(found_ids(uri)) == sorted([ended, running.run_id])


def test_what_cannot_be_deleted_is_named(uri: str) -> None:
    first = add_run(uri)
    client = connect_store(uri)
    (run,) = find_deletable_runs(client, [first])
    with closing(sqlite3.connect(database_file(uri))) as database, database:
        shared = database_file(uri).parent.as_uri()
        database.execute("UPDATE runs SET artifact_uri = ?", (shared,))
    done = command(first, "--yes", f"--uri={uri}", script="scripts/delete.py")
    assert done.returncode == 1
    assert done.stderr == (
        f"Deleted 0 of 1 run. Run {first} (a name) cannot be deleted: its artifacts are in {shared}, which is not a"
        " folder of its own.\n"
    )
    assert database_file(uri).exists()
    delete_runs(client, [run])
    assert traces(uri, first) == []


@pytest.fixture
def server(uri: str) -> Iterator[str]:
    """Serve the store of this test, with artifacts that clients reach only through the server; return its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    command += ["--artifacts-destination", str(database_file(uri).parent / "artifacts"), "--port", str(port)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while outage_reason(f"http://127.0.0.1:{port}", timeout=5):
            assert process.poll() is None
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_server_marks_them_as_deleted_and_its_owner_can_remove_the_rows(server: str, uri: str) -> None:
    kept, deleted = add_run(server), add_run(server)
    artifacts = database_file(uri).parent / "artifacts"
    assert len(list(artifacts.rglob("model.keras"))) == 2
    done = command(deleted, "--yes", f"--uri={server}", script="scripts/delete.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert found_ids(server) == [kept]
    assert len(list(artifacts.rglob("model.keras"))) == len(list(artifacts.rglob("config.yaml"))) == 1
    assert "runs" in traces(uri, deleted)
    lost = command(deleted, f"--uri={server}", script="scripts/evaluate.py").stderr
    assert lost == f"Run {deleted} (a name) was deleted with its artifacts, so that it cannot be restored.\n"
    gc = re.search(r"marked as deleted, until its owner runs there: (mlflow gc --run-ids .*)", done.stdout)
    assert gc is not None
    owner = [sys.executable, "-m", *shlex.split(gc[1]), "--backend-store-uri", uri, "--tracking-uri", server]
    subprocess.run(owner, check=True, capture_output=True)
    left = [place for place in traces(uri, deleted) if not place.endswith(deleted)]  # MLflow leaves an empty folder,
    assert left == ["inputs"]  # and what links a run with its data
    assert found_ids(server) == [kept]
