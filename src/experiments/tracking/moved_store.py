"""Keep the artifacts of a SQLite store beside its database, wherever both stand now.

MLflow records the absolute address of each artifact folder. A store that was moved, or a copy of one, would therefore
read and write at the old place.
"""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from experiments import PROJECT
from experiments.tracking.addresses import PROJECT_DATABASE, SQLITE, artifacts_folder, database_file

# Where MLflow records addresses; those of the first two name a folder that belongs to one row.
ADDRESS_COLUMNS = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("experiments", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
WITHIN = "({0} = :old OR substr({0}, 1, length(:old) + 1) = :old || '/')"


@contextmanager
def locked_store(database: Path) -> Iterator[None]:
    """Hold the lock under which a SQLite store is created and repaired."""
    with database.with_name(f".{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def keep_artifacts_beside(uri: str) -> None:
    """Correct the addresses in a SQLite store that was moved or copied since they were recorded.

    Artifacts that were logged at the old place after the move are copied here. It takes a millisecond to see that
    nothing is to be done. Raise sqlite3.Error or OSError if the store cannot be repaired.
    """
    if not uri.startswith(SQLITE):
        return
    database = database_file(uri)
    if _recorded_elsewhere(database):
        with locked_store(database):
            for address in _recorded_elsewhere(database):  # unless another process was faster
                _move_addresses(database, address)


def is_moved_away(uri: str) -> bool:
    """Return whether this is the project's own store, which is not in the project now; not if that was moved itself."""
    return database_file(uri) == PROJECT_DATABASE and PROJECT.exists() and not PROJECT_DATABASE.parent.exists()


def _recorded_elsewhere(database: Path) -> list[str]:
    """Return the addresses at which experiments keep artifacts that are now beside the database."""
    here = artifacts_folder(database)
    if not database.exists() or not (here.is_dir() or database == PROJECT_DATABASE):
        return []
    with closing(_open_database(database)) as connection:
        try:
            found = connection.execute("SELECT artifact_location, experiment_id FROM experiments").fetchall()
            # MLflow's Default, and experiments made in the UI, have a folder of their own within.
            roots = {str(location).removesuffix(f"/{experiment_id}") for location, experiment_id in found}
            others = [root for root in roots if root.startswith("file:///") and root.endswith("/artifacts")]
            others = [root for root in others if os.path.realpath(_local_path(root)) != os.path.realpath(here)]
            return [root for root in others if _has_moved(connection, root, database)]
        except sqlite3.OperationalError:  # locked, or not a store: whoever uses it next says so
            return []


def _has_moved(connection: sqlite3.Connection, root: str, database: Path) -> bool:
    """Return whether the store was moved or copied from there; else its owner may want some artifacts elsewhere."""
    old, here = _local_path(root), artifacts_folder(database).as_uri()
    if database == PROJECT_DATABASE and root.endswith(f"/{database.parent.name}/artifacts"):
        return True
    if _is_copy(old, database):
        return True
    runs = connection.execute(f"SELECT artifact_uri FROM runs WHERE {WITHIN.format('artifact_uri')}", {"old": root})
    places = [_local_path(here + address.removeprefix(root)) for (address,) in runs]
    return any(place.exists() for place in places) or not (places or os.access(old, os.F_OK))


def _is_copy(old: Path, database: Path) -> bool:
    """Return whether the database still stands beside its old folder of artifacts, too."""
    return os.access(old.with_name(database.name), os.F_OK)


def _move_addresses(database: Path, old: str) -> None:
    values = {"old": old, "new": artifacts_folder(database).as_uri()}
    copy = _copy_if_only_there if _is_copy(_local_path(old), database) else _copy_files_only_there
    with closing(_open_database(database)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        for table, column in ADDRESS_COLUMNS:
            if table not in tables:  # in a store of another version of MLflow
                continue
            within = WITHIN.format(column)
            if table in ("runs", "logged_models"):
                for (address,) in connection.execute(f"SELECT {column} FROM {table} WHERE {within}", values):
                    copy(_local_path(address), _local_path(values["new"] + address.removeprefix(old)))
            moved = f":new || substr({column}, length(:old) + 1)"
            connection.execute(f"UPDATE {table} SET {column} = {moved} WHERE {within}", values)
        connection.execute("COMMIT")


def _copy_if_only_there(there: Path, here: Path) -> None:
    if os.access(there, os.R_OK | os.X_OK) and not here.exists():
        temporary = here.with_name(f".{here.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(there, temporary)
        temporary.rename(here)


def _copy_files_only_there(there: Path, here: Path) -> None:
    """Copy what a run logged at the old place, as the store was moved while it trained."""
    _copy_if_only_there(there, here)
    for file in there.rglob("*") if os.access(there, os.R_OK | os.X_OK) else ():
        target = here / file.relative_to(there)
        if file.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.tmp")
            shutil.copyfile(file, temporary)
            temporary.rename(target)


def _local_path(address: str) -> Path:
    """Return the folder of a `file://` address."""
    return Path(url2pathname(urlsplit(address).path))


def _open_database(database: Path) -> sqlite3.Connection:
    """Connect to an existing database, without the transactions that Python begins by itself."""
    return sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, isolation_level=None)
