"""Runs whose server is replaced behind a proxy, whose artifacts cannot be stored, or that somebody deletes."""

import json
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from servers import Proxy, Server
from stores import runs

from experiments.errors import RecordingError, StoreOutageError
from experiments.tracking import spool
from experiments.tracking.artifacts import read_artifact_text
from experiments.tracking.records import find_runs
from experiments.tracking.run import TrackedRun, open_run
from experiments.tracking.store import connect_store, open_existing_store
from experiments.training.checkpoints import checkpoint_path

PAGE = b"<html>the server is being replaced</html>"


@pytest.fixture(autouse=True)
def spools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(spool, "SPOOL_FOLDER", tmp_path / "spool")
    return tmp_path / "spool"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    try:
        yield Proxy(server.port)
    finally:
        server.kill()


def send_again(run: TrackedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_next_try", 0.0)  # instead of waiting five seconds
    run.set_tags({"again": "yes"})


@pytest.mark.slow
@pytest.mark.parametrize("status", [200, 401, 404])
def test_an_answer_that_is_not_about_the_content_is_an_outage(
    proxy: Proxy, spools: Path, status: int, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    with open_run(proxy.uri, "digits", str(status), {"seed": 0}, {}) as run:
        capfd.readouterr()
        for number, (of, log) in enumerate(
            [
                ("log-batch", lambda: run.log_metrics({"loss": 0.5}, 1)),
                ("PUT", lambda: run.log_text("text", "texts/a.txt")),
                ("GET", lambda: run.log_text("text", "texts/b.txt")),
                ("log-inputs", lambda: run.log_dataset("digits", "d" * 36, "/data", {"train": 1})),
            ]
        ):
            proxy.answer(status, PAGE, of)
            log()
            proxy.pass_all()
            assert bool(run.spool), of
            assert capfd.readouterr().err.count("the run continues. What it logs is kept in") == 1
            send_again(run, monkeypatch)
            assert not run.spool, of
            assert "answers again and has received everything." in capfd.readouterr().err, number
        proxy.answer(status, PAGE, "runs/update")
    assert f"Of run {run.run_id} (FINISHED) these wait in" in capfd.readouterr().err
    proxy.pass_all()
    (found,) = find_runs(open_existing_store(proxy.uri), [run.run_id])
    assert (found.status, dict(found.metrics), dict(found.params)) == ("FINISHED", {"loss": 0.5}, {"seed": "0"})
    assert [read_artifact_text(proxy.uri, run.run_id, f"texts/{name}.txt") for name in "ab"] == ["text"] * 2
    assert list(spools.iterdir()) == []


@pytest.mark.slow
def test_an_empty_file_arrives_at_a_server(proxy: Proxy, spools: Path) -> None:
    with open_run(proxy.uri, "digits", "empty", {}, {}) as run:
        run.log_text("", "environment/uncommitted.diff")  # as in a clean checkout
        assert not run.spool
    assert read_artifact_text(proxy.uri, run.run_id, "environment/uncommitted.diff") == ""


@pytest.mark.slow
def test_a_command_that_reads_tells_an_outage_in_one_line(proxy: Proxy) -> None:
    client = connect_store(proxy.uri)
    proxy.answer(404, PAGE, "experiments/search")
    with pytest.raises(StoreOutageError, match="failed with error code 404") as told:
        find_runs(client, ["a" * 32])
    proxy.pass_all()
    assert "\n" not in str(told.value)


def block_artifacts(run: TrackedRun) -> Path:
    """Put a file in the place of the run's artifacts."""
    place = Path(connect_store(run.uri).get_run(run.run_id).info.artifact_uri.removeprefix("file://"))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("not a folder")
    return place


def test_artifacts_that_cannot_be_stored_are_sent_by_the_next_command(uri: str, spools: Path, capfd: Any) -> None:
    with open_run(uri, "digits", "blocked", {}, {}) as run:
        place = block_artifacts(run)
        run.log_text("text", "texts/a.txt")
        run.log_metrics({"loss": 0.5}, 1)
    told = capfd.readouterr().err
    assert f"The tracking store {uri} does not take artifacts; the run continues." in told
    file = spools / f"{run.run_id}.jsonl"
    assert told.splitlines()[1:] == [
        f"The tracking store {uri} still does not take artifacts. Of run {run.run_id} (FINISHED) these wait in {file}:"
        f" artifacts, metrics, status. To send them, once the store takes them: python scripts/compare.py --uri {uri}"
    ]
    found = connect_store(uri).get_run(run.run_id)
    assert (found.info.status, found.data.tags["end_reason"]) == (
        "RUNNING",
        f"finished; the rest waits to be sent in {file}",
    )
    checkpoint_path(run.run_id).parent.mkdir(parents=True, exist_ok=True)
    checkpoint_path(run.run_id).touch()
    place.unlink()
    (sent,) = find_runs(open_existing_store(uri), [run.run_id])
    assert (sent.status, dict(sent.metrics), "end_reason" in sent.tags) == ("FINISHED", {"loss": 0.5}, False)
    assert read_artifact_text(uri, run.run_id, "texts/a.txt") == "text"
    assert list(spools.iterdir()) == []
    assert not checkpoint_path(run.run_id).exists()


def test_how_a_run_ended_is_recorded_though_its_artifacts_wait(uri: str, spools: Path) -> None:
    def fail() -> None:
        with open_run(uri, "digits", "blocked", {}, {}) as run:
            runs.append(run)
            block_artifacts(run)
            run.log_text("text", "texts/a.txt")
            raise ValueError("the real reason")

    runs: list[TrackedRun] = []
    with pytest.raises(ValueError, match="the real reason"):
        fail()
    client = connect_store(uri)
    found = client.get_run(runs[0].run_id)
    assert (found.info.status, found.data.tags["end_reason"]) == ("FAILED", "the real reason")
    operations = [json.loads(line) for line in (spools / f"{found.info.run_id}.jsonl").read_text().splitlines()[1:]]
    assert [operation["artifacts"] for operation in operations] == ["texts", "error"]


def test_a_run_that_can_be_recorded_nowhere_fails_with_the_reason(uri: str, spools: Path, capfd: Any) -> None:
    def record() -> None:
        with open_run(uri, "digits", "full", {}, {}) as run:
            runs.append(run)
            block_artifacts(run)
            spools.write_text("not a folder")
            run.log_text("text", "texts/a.txt")

    runs: list[TrackedRun] = []
    with pytest.raises(RecordingError, match="does not take artifacts") as raised:
        record()
    assert "\n" not in str(raised.value)
    assert f"and {spools / runs[0].run_id}.jsonl cannot be written: " in str(raised.value)
    assert capfd.readouterr().err == ""
    spools.unlink()
    found = connect_store(uri).get_run(runs[0].run_id)
    assert (found.info.status, found.data.tags["end_error"]) == ("FAILED", "RecordingError")
    assert str(raised.value).startswith(found.data.tags["end_reason"])  # which is cut


def test_a_temporary_folder_that_cannot_be_written_is_told_in_one_line(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record() -> None:
        with open_run(uri, "digits", "full", {}, {}) as run:
            monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
            run.log_text("text", "texts/a.txt")

    with pytest.raises(RecordingError) as raised:
        record()
    place = re.escape(str(tmp_path / "gone"))
    told = rf"What the run logs cannot be written to {place}: \[Errno 2\] .*\. Make space there, or set TMPDIR to"
    assert re.match(told, str(raised.value))
    (found,) = runs(uri)
    assert (found.info.status, found.data.tags["end_error"]) == ("FAILED", "RecordingError")


def delete_for_good(uri: str, run_id: str) -> None:
    """Delete a run as `mlflow gc` does."""
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database, database:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", [run_id])


@pytest.mark.parametrize("what", ["run", "experiment", "run for good"])
def test_a_run_that_is_deleted_ends_with_one_line_and_can_be_resumed_once_restored(
    uri: str, what: str, spools: Path, capfd: Any
) -> None:
    def train() -> None:
        with open_run(uri, "digits", what, {}, {}) as run:
            runs.append(run)
            run.log_metrics({"loss": 0.5}, 1)
            if what == "experiment":
                client.delete_experiment(run.experiment_id)
            else:
                client.delete_run(run.run_id)
            if what == "run for good":
                delete_for_good(uri, run.run_id)
            run.log_metrics({"loss": 0.4}, 2)

    client = connect_store(uri)
    runs: list[TrackedRun] = []
    with pytest.raises(RecordingError) as raised:
        train()
    (run,) = runs
    assert capfd.readouterr().err == ""
    assert not spools.exists()
    if what == "run for good":
        assert str(raised.value) == f"Run {run.run_id} was deleted from {uri} for good while it was running."
        return
    restore = client.restore_experiment if what == "experiment" else client.restore_run
    id_ = run.experiment_id if what == "experiment" else run.run_id
    assert str(raised.value).endswith(f"MLFLOW_TRACKING_URI='{uri}' mlflow {what}s restore --{what}-id {id_}")
    restore(id_)
    with open_run(uri, "digits", what, {}, {}, run_id=run.run_id) as again:
        again.log_metrics({"loss": 0.4}, 2)
    assert connect_store(uri).get_run(run.run_id).info.status == "FINISHED"
