"""The address of a tracking store: resolved, checked, and shown without credentials."""

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from experiments import PROJECT
from experiments.errors import StoreError

SQLITE = "sqlite:///"
URI_CHOICES = f"Choices: {SQLITE}PATH/mlflow.db, http://HOST:PORT, https://HOST (other databases need a server)."


def resolve_tracking_uri(uri: str | None) -> str:
    """Return `uri`, else $MLFLOW_TRACKING_URI, else that of the project's own store; SQLite paths are made absolute."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{PROJECT / 'mlruns' / 'mlflow.db'}"
    path = uri.removeprefix(SQLITE)
    return uri if path in (uri, "", ":memory:") else f"{SQLITE}{Path(path).absolute()}"


def check_tracking_uri(uri: str) -> None:
    """Raise a StoreError, without MLflow and the network, unless the resolved URI is supported and can be written."""
    scheme = uri.partition(":")[0] if "://" in uri or uri.startswith("file:") else ""
    if scheme in ("http", "https") and re.fullmatch(r"https?://[^/\s]+.*", uri):
        return
    if scheme in ("", "file"):
        path = Path(uri.removeprefix("file://").removeprefix("file:")).absolute()
        raise StoreError(
            f"tracking.uri={uri} is a folder, and MLflow no longer supports file stores. "
            f"Use a SQLite store in it: tracking.uri={SQLITE}{path / 'mlflow.db'}"
        )
    if not uri.startswith(SQLITE):
        raise StoreError(f"tracking.uri={hide_credentials(uri)} is not supported. {URI_CHOICES}")
    database = database_file(uri)
    if uri in (SQLITE, f"{SQLITE}:memory:") or database.is_dir() or "?" in uri:
        raise StoreError(f"tracking.uri={uri} must end with the name of a file. {URI_CHOICES}")
    folder = next(parent for parent in database.parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(
            f"The tracking store {uri} cannot be written: {folder} is not a folder with write permission. "
            f"Choose another: tracking.uri={SQLITE}PATH/mlflow.db"
        )
    if database.exists():
        if not os.access(database, os.R_OK | os.W_OK):
            raise StoreError(f"The tracking store {uri} cannot be written: no permission for {database}.")
        # Through SQLite: opening and closing the file in any other way would drop this process's locks on it.
        try:
            with closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA schema_version")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                raise StoreError(f"The tracking store {uri} is not a SQLite database. Choose another file.") from None


def hide_credentials(uri: str) -> str:
    """Return the URI without user name and password."""
    return re.sub(r"://[^/\s@]*@", "://", uri)


def database_file(uri: str) -> Path:
    """Return the file of a SQLite store."""
    return Path(uri.removeprefix(SQLITE))
