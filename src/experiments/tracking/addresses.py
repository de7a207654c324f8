"""The address of a tracking store: resolved, checked, and shown without credentials."""

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import PROJECT
from experiments.errors import StoreError

if TYPE_CHECKING:
    pass


SQLITE = "sqlite:///"
URI_CHOICES = (
    f"Choices: {SQLITE}PATH/mlflow.db, http://HOST:PORT, https://HOST (a database stands behind its own server)."
)


def resolve_tracking_uri(uri: str | None) -> str:
    """The tracking URI in force: `uri`, else $MLFLOW_TRACKING_URI, else the project's own SQLite store.

    The path of a SQLite store is made absolute.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{PROJECT / 'mlruns' / 'mlflow.db'}"
    path = uri.removeprefix(SQLITE)
    return uri if path in (uri, "", ":memory:") else f"{SQLITE}{Path(path).absolute()}"


def check_tracking_uri(uri: str) -> None:
    """Finds without MLflow and without the network what is wrong with a resolved tracking URI.

    Raises:
        StoreError: for a scheme that is not supported, or a SQLite store that cannot be written.
    """
    scheme = uri.partition(":")[0] if "://" in uri or uri.startswith("file:") else ""
    if scheme in ("http", "https") and re.fullmatch(r"https?://[^/\s]+.*", uri):
        return
    if scheme in ("", "file"):
        path = Path(uri.removeprefix("file://").removeprefix("file:")).absolute()
        raise StoreError(
            f"tracking.uri is the folder {uri}, and MLflow has given up its file store. "
            f"Use a SQLite store in it: tracking.uri={SQLITE}{path / 'mlflow.db'}"
        )
    if not uri.startswith(SQLITE):
        raise StoreError(f"tracking.uri={hide_credentials(uri)} is not supported. {URI_CHOICES}")
    database = database_file(uri)
    if uri in (SQLITE, f"{SQLITE}:memory:") or database.is_dir() or "?" in uri:
        raise StoreError(f"tracking.uri must name a file, and nothing after it: {uri}. {URI_CHOICES}")
    folder = next(parent for parent in database.parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(
            f"The tracking store {uri} cannot be written: {folder} is not a folder you may write to. "
            f"Choose another: tracking.uri={SQLITE}PATH/mlflow.db"
        )
    if database.exists():
        if not os.access(database, os.R_OK | os.W_OK):
            raise StoreError(f"The tracking store {uri} cannot be written: no permission for {database}.")
        # Through SQLite: to open and close the file in any other way would drop the locks this process holds on it.
        try:
            with closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA schema_version")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                raise StoreError(f"The tracking store {uri} is no SQLite database. Choose another file.") from None


def hide_credentials(uri: str) -> str:
    """The URI without user name and password."""
    return re.sub(r"://[^/\s@]*@", "://", uri)


def database_file(uri: str) -> Path:
    """The file of a SQLite store."""
    return Path(uri.removeprefix(SQLITE))
