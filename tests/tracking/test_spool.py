"""What waits for a store: sent by whatever opens the store next, and what becomes of a run until then."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import StoreError
from experiments.tracking import spool
from experiments.tracking.artifacts import read_artifact_text
from experiments.tracking.deletion import find_deletable_runs
from experiments.tracking.liveness import check_resumable, mark_dead_runs, process_tags, unseen_notice
from experiments.tracking.records import find_runs
from experiments.tracking.run import open_run
from experiments.tracking.spool import Spool
from experiments.tracking.store import connect_store, open_existing_store


@pytest.fixture(autouse=True)
def spools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(spool, "SPOOL_FOLDER", tmp_path / "spool")
    return tmp_path / "spool"


def dead_run(uri: str, *operations: dict[str, Any]) -> str:
    """Make a run whose process has ended, of which these operations wait; return its id."""
    client = connect_store(uri)
    tags = {**process_tags(), "process.start_time": "1"}
    run_id = str(client.create_run("0", tags=tags).info.run_id)
    waiting = Spool(uri, run_id)
    for operation in operations:
        waiting.append(operation)
    waiting.close()
    return run_id


POINT = {"metrics": [["loss", 0.5, 1, 1]]}
END = {"status": "FINISHED", "time": 2}


def test_a_command_that_reads_sends_what_waits_before_it_judges(uri: str, spools: Path) -> None:
    run_id = dead_run(uri, POINT, END)
    (run,) = find_runs(open_existing_store(uri), [run_id])
    assert (run.status, dict(run.metrics), "end_reason" in run.tags) == ("FINISHED", {"loss": 0.5}, False)
    assert list(spools.iterdir()) == []


def test_a_run_of_which_something_waits_is_not_judged(uri: str, spools: Path, capfd: Any) -> None:
    client = connect_store(uri)
    run_id = dead_run(uri, {"metrics": "what this version cannot send"}, END)
    for _ in range(2):
        assert find_runs(open_existing_store(uri), [run_id])[0].status == "RUNNING"
    assert mark_dead_runs(client, ["0"]) == []
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert f"It stays in {spools / run_id}.jsonl; delete that file to discard it." in told
    (spools / f"{run_id}.jsonl").unlink()
    assert mark_dead_runs(client, ["0"]) == [run_id]


def test_a_run_of_which_something_waits_in_another_project_is_not_judged(uri: str, spools: Path) -> None:
    run_id = dead_run(uri, POINT, END)
    other = spools.with_name("other") / "outputs" / "spool"
    other.mkdir(parents=True)
    (spools / f"{run_id}.jsonl").rename(other / f"{run_id}.jsonl")
    client = connect_store(uri)
    client.set_tag(run_id, "process.spool", str(other))
    assert mark_dead_runs(client) == []
    waiting = f"Run {run_id} has ended, but the rest of its record waits in {other / run_id}.jsonl."
    assert str(unseen_notice(client, run_id)).startswith(waiting)
    for resume_anyway in (False, True):
        with pytest.raises(StoreError, match=re.escape(waiting)):
            check_resumable(uri, run_id, resume_anyway)
    with pytest.raises(StoreError, match=re.escape(waiting)):
        find_deletable_runs(client, [run_id])


def test_what_waits_is_sent_after_the_project_was_moved(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    monkeypatch.setattr(spool, "PROJECT", before)
    monkeypatch.setattr(spool, "SPOOL_FOLDER", before / "outputs" / "spool")
    (before / "mlruns").mkdir(parents=True)
    shutil.copy(empty_store, before / "mlruns" / "mlflow.db")
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("text")
    run_id = dead_run(f"sqlite:///{before}/mlruns/mlflow.db", {"artifacts": "texts", "source": str(texts)}, END)
    before.rename(after)
    monkeypatch.setattr(spool, "PROJECT", after)
    monkeypatch.setattr(spool, "SPOOL_FOLDER", after / "outputs" / "spool")
    uri = f"sqlite:///{after}/mlruns/mlflow.db"
    assert open_existing_store(uri).get_run(run_id).info.status == "FINISHED"
    assert read_artifact_text(uri, run_id, "texts/a.txt") == "text"
    assert list((after / "outputs" / "spool").iterdir()) == []


def test_a_run_that_was_taken_for_dead_and_is_finished_has_no_reason(uri: str, spools: Path) -> None:
    run_id = dead_run(uri, POINT, END)
    (spools / f"{run_id}.jsonl").rename(spools / "elsewhere")
    client = connect_store(uri)
    assert mark_dead_runs(client, ["0"]) == [run_id]
    (spools / "elsewhere").rename(spools / f"{run_id}.jsonl")
    found = open_existing_store(uri).get_run(run_id)
    assert (found.info.status, found.info.end_time) == ("FINISHED", 2)
    assert "end_reason" not in found.data.tags


@pytest.mark.parametrize(
    ("damage", "lines", "sent"),
    [
        (lambda lines: [lines[0], b"x", *lines[1:]], "2", True),
        (lambda lines: [lines[0], b"\xff\x00", b"[1]", *lines[1:]], "2, 3", True),
        (lambda lines: [b"x", *lines[1:]], "1", False),
        (lambda _: [b"x"], "1", False),
        (lambda lines: [b'{"tags": {}}', *lines[1:]], "1", False),
    ],
)
def test_a_damaged_file_is_set_aside_and_its_sound_lines_are_sent(
    uri: str, spools: Path, capfd: Any, damage: Any, lines: str, sent: bool
) -> None:
    run_id = dead_run(uri, POINT, END)
    file = spools / f"{run_id}.jsonl"
    damaged = b"\n".join([*damage(file.read_bytes().splitlines()), b""])
    file.write_bytes(damaged)
    with open_run(uri, "digits", "next", {}, {}):
        pass
    open_existing_store(uri)
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert f"{file}, which keeps what run {run_id} could not send to its store, is damaged in line {lines}." in told
    assert (spools / f"{run_id}.jsonl.damaged").read_bytes() == damaged
    assert not file.exists()
    assert (open_existing_store(uri).get_run(run_id).info.status == "FINISHED") == sent


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_of_another_user_stops_no_command(uri: str, spools: Path, capfd: Any) -> None:
    run_id = dead_run(uri, POINT, END)
    (spools / f"{run_id}.jsonl").chmod(0)
    for _ in range(2):
        assert find_runs(open_existing_store(uri), [run_id])[0].status == "RUNNING"
    assert capfd.readouterr().err.count("\n") == 1


def test_an_entry_that_is_not_a_file_stops_no_command(uri: str, spools: Path, capfd: Any) -> None:
    (spools / "notes.jsonl").mkdir(parents=True)
    with open_run(uri, "digits", "next", {}, {}):
        pass
    assert f"{spools / 'notes.jsonl'} cannot be read: Is a directory" in capfd.readouterr().err


def test_an_empty_file_is_deleted_without_a_word(uri: str, spools: Path, capfd: Any) -> None:
    spools.mkdir()
    (spools / "a.jsonl").touch()
    connect_store(uri)
    assert list(spools.iterdir()) == []
    assert capfd.readouterr().err == ""


def test_a_full_disk_leaves_no_half_line_in_the_file(uri: str, spools: Path) -> None:
    import resource
    import signal

    waiting = Spool(uri, "a")
    waiting.append(POINT)
    size = (spools / "a.jsonl").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 9, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left on device"):
            waiting.append({"tags": {"long": "value"}})
        resource.setrlimit(resource.RLIMIT_FSIZE, (9, limits[1]))
        with pytest.raises(OSError, match="No space left on device"):
            Spool(uri, "b").append(POINT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert sorted(path.name for path in spools.iterdir()) == ["a.jsonl"]
    waiting.append(END)
    waiting.close()
    lines = (spools / "a.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"store": uri}, POINT, END]
