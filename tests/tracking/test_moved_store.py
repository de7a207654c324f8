"""A SQLite store that was moved or copied finds its artifacts beside it, and leaves the place it comes from alone."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from experiments.errors import StoreError, StoreOutageError
from experiments.tracking import addresses, moved_store, operations, spool
from experiments.tracking.addresses import artifacts_folder, database_file
from experiments.tracking.artifacts import read_artifact_text
from experiments.tracking.run import TrackedRun, open_run, reopen_ended_run
from experiments.tracking.store import connect_store


@pytest.fixture
def original(tmp_path: Path, empty_store: Path) -> str:
    """The URI of a store in the folder `a`."""
    folder = tmp_path / "a"
    artifacts_folder(folder / "mlflow.db").mkdir(parents=True)
    shutil.copy(empty_store, folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"


def add_run(uri: str) -> TrackedRun:
    with open_run(uri, "digits", "run", {}, {}) as run:
        run.log_text("first", "notes/first.txt")
    return run


def stored_addresses(uri: str) -> set[str]:
    with closing(sqlite3.connect(database_file(uri))) as database:
        rows = database.execute("SELECT artifact_uri FROM runs UNION SELECT artifact_location FROM experiments")
        return {address for (address,) in rows}


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix == ".txt"}

    before = contents()
    yield
    assert contents() == before


def test_moved_store_reads_and_writes_at_its_new_place(original: str, tmp_path: Path) -> None:
    run = add_run(original)
    (tmp_path / "a").rename(tmp_path / "b")
    uri = original.replace("/a/", "/b/")
    assert read_artifact_text(uri, run.run_id, "notes/first.txt") == "first"
    add_run(uri)
    assert not (tmp_path / "a").exists()
    assert all(address.startswith(f"file://{tmp_path}/b/artifacts") for address in stored_addresses(uri))


def test_artifact_that_was_not_moved_along_is_named_with_its_place(original: str, tmp_path: Path) -> None:
    run = add_run(original)
    shutil.rmtree(artifacts_folder(database_file(original)) / run.run_id)
    with pytest.raises(StoreError) as refusal:
        read_artifact_text(original, run.run_id, "notes/first.txt")
    place = f"file://{tmp_path}/a/artifacts/{run.run_id}/artifacts"
    assert str(refusal.value).endswith(f"{place}: No such artifact: 'notes/first.txt'")


def test_run_continued_in_a_copy_leaves_the_original_alone(original: str, tmp_path: Path) -> None:
    run = add_run(original)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    uri = original.replace("/a/", "/b/")
    with unchanged(tmp_path / "a"), reopen_ended_run(uri, run.run_id) as again:
        again.log_text("second", "notes/second.txt")
    assert read_artifact_text(uri, run.run_id, "notes/second.txt") == "second"
    with unchanged(tmp_path / "b"), reopen_ended_run(original, run.run_id) as again:
        again.log_text("third", "notes/first.txt")
    assert read_artifact_text(original, run.run_id, "notes/first.txt") == "third"


def test_artifacts_that_went_to_the_old_place_after_the_move_are_brought_back(original: str, tmp_path: Path) -> None:
    add_run(original)
    (tmp_path / "a").rename(tmp_path / "b")
    uri = original.replace("/a/", "/b/")
    from mlflow import MlflowClient

    client = MlflowClient(uri)  # as versions did that knew nothing of moves
    (experiment,) = (found for found in client.search_experiments() if found.name == "digits")
    misled = client.create_run(experiment.experiment_id).info.run_id
    client.log_text(misled, "lost", "notes/lost.txt")
    assert (tmp_path / "a").exists()
    assert read_artifact_text(uri, misled, "notes/lost.txt") == "lost"
    shutil.rmtree(tmp_path / "a")
    assert read_artifact_text(uri, misled, "notes/lost.txt") == "lost"


def test_what_a_run_logs_at_the_old_place_as_its_store_is_moved_is_brought_back(original: str, tmp_path: Path) -> None:
    uri = original.replace("/a/", "/b/")
    with open_run(original, "digits", "run", {}, {}) as run:
        run.log_text("first", "notes/first.txt")
        (tmp_path / "a").rename(tmp_path / "b")
        run.log_text("second", "notes/second.txt")
        run.log_text("third", "other/third.txt")
    assert read_artifact_text(uri, run.run_id, "notes/second.txt") == "second"
    shutil.rmtree(tmp_path / "a")
    texts = [read_artifact_text(uri, run.run_id, f) for f in ("notes/first.txt", "notes/second.txt", "other/third.txt")]
    assert texts == ["first", "second", "third"]


def test_run_that_is_open_while_its_store_is_seen_elsewhere_logs_beside_its_own_database(
    original: str, tmp_path: Path
) -> None:
    with open_run(original, "digits", "run", {}, {}) as run:
        run.log_text("first", "notes/first.txt")
        with closing(sqlite3.connect(database_file(original))) as database, database:  # as from outside of a container
            database.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, '/a/', '/outside/')")
            database.execute(
                "UPDATE experiments SET artifact_location = replace(artifact_location, '/a/', '/outside/')"
            )
        run.log_text("second", "notes/second.txt")
    assert not (tmp_path / "outside").exists()
    assert list((tmp_path / "a").rglob("second.txt"))


def test_run_whose_store_is_moved_and_opened_meanwhile_logs_at_the_new_place(original: str, tmp_path: Path) -> None:
    with open_run(original, "digits", "run", {}, {}) as run:
        run.log_text("first", "notes/first.txt")
        (tmp_path / "a").rename(tmp_path / "b")
        uri = original.replace("/a/", "/b/")
        connect_store(uri)
        run.log_text("second", "notes/second.txt")
    assert read_artifact_text(uri, run.run_id, "notes/second.txt") == "second"
    assert not (tmp_path / "a").exists()


def test_store_behind_a_link_is_not_moved(original: str, tmp_path: Path) -> None:
    add_run(original)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    before = stored_addresses(original)
    connect_store(original.replace("/a/", "/b/"))
    assert stored_addresses(original) == before


def test_artifacts_that_are_elsewhere_by_choice_stay_there(original: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = connect_store(original)
    experiment_id = client.create_experiment("big", (tmp_path / "disk" / "artifacts").as_uri())
    run_id = client.create_run(experiment_id).info.run_id
    MlflowClient(original).log_text(run_id, "large", "notes/large.txt")
    add_run(original)
    with unchanged(tmp_path):
        assert read_artifact_text(original, run_id, "notes/large.txt") == "large"
    assert f"file://{tmp_path}/disk/artifacts" in stored_addresses(original)


def test_the_projects_own_store_that_is_moved_away_and_back_receives_what_its_run_logged_meanwhile(
    original: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (addresses, moved_store, operations):
        monkeypatch.setattr(module, "PROJECT_DATABASE", database_file(original), raising=False)
    monkeypatch.setattr(spool, "SPOOL_FOLDER", tmp_path / "outputs" / "spool")
    with open_run(original, "digits", "run", {}, {}) as run:
        (tmp_path / "a").rename(tmp_path / "b")
        run.log_text("first", "notes/first.txt")
        assert "does not take artifacts; the run continues." in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    with pytest.raises(StoreOutageError, match="There is no tracking store"):
        connect_store(original, must_exist=True)
    (tmp_path / "b").rename(tmp_path / "a")
    assert read_artifact_text(original, run.run_id, "notes/first.txt") == "first"
    assert connect_store(original).get_run(run.run_id).info.status == "FINISHED"


def test_a_child_of_a_sweep_does_not_make_the_store_anew(original: str, tmp_path: Path) -> None:
    parent = add_run(original)
    (tmp_path / "a").rename(tmp_path / "b")
    child = open_run(original, "digits", "child", {}, {"mlflow.parentRunId": parent.run_id})
    with pytest.raises(StoreOutageError, match="There is no tracking store"), child:
        pass
    assert not (tmp_path / "a").exists()
