"""The address of a tracking store: resolved, checked, and shown without credentials."""

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

from experiments import PROJECT
from experiments.errors import StoreError, existing_place, join_sorted
from experiments.formatting import hide_credentials

SQLITE = "sqlite:///"
URI_CHOICES = f"Choices: {SQLITE}PATH/mlflow.db, http://HOST:PORT, https://HOST (other databases need a server)."
PROJECT_DATABASE = PROJECT / "mlruns" / "mlflow.db"
MLFLOW_TABLES = {"alembic_version", "experiments", "runs"}  # among others


def resolve_tracking_uri(uri: str | None) -> str:
    """Return `uri`, else $MLFLOW_TRACKING_URI, else that of the project's own store; SQLite paths are made absolute.

    Raise a StoreError if the path begins with the home of a user who has none.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{PROJECT_DATABASE}"
    path = uri.removeprefix(SQLITE)
    if path in (uri, "", ":memory:"):
        return uri
    try:
        absolute = Path(path).expanduser().absolute()
    except RuntimeError:
        home = Path(path).parts[0]
        raise StoreError(f"tracking.uri={uri}: {home} is not the home of a user. Write the whole path.") from None
    return f"{SQLITE}{absolute}{'/' if path.endswith('/') else ''}"


def check_tracking_uri(uri: str) -> None:
    """Raise a StoreError, without MLflow and the network, unless the resolved URI is supported and can be written."""
    if re.fullmatch(r"https?://[^/\s]\S*", uri):
        return
    if not uri.startswith(SQLITE):
        raise StoreError(_explain_unsupported(uri))
    path = uri.removeprefix(SQLITE)
    database = Path(path)
    if path in ("", ":memory:") or path.endswith("/") or database.is_dir() or "?" in path:
        raise StoreError(f"tracking.uri={uri} must end with the name of a file. {URI_CHOICES}")
    if unquote(path) != path:
        code = re.findall("%[0-9A-Fa-f]{2}", path)[0]
        raise StoreError(
            f"The tracking store {uri} cannot be used: MLflow reads {code!r} in a path as {unquote(code)!r}. Rename the"
            f" folder, or choose another store: tracking.uri={SQLITE}PATH/mlflow.db"
        )
    place = existing_place(database)
    folder = database.parent if place == database else place
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(
            f"The tracking store {uri} cannot be written: {folder} is not a folder with write permission. "
            f"Choose another: tracking.uri={SQLITE}PATH/mlflow.db"
        )
    if database.exists():
        _check_database(uri, database)


def _explain_unsupported(uri: str) -> str:
    """Return what to write instead of an address that is neither a server's nor a SQLite file's."""
    shown = hide_credentials(f"tracking.uri={uri}")
    if "://" not in uri and re.fullmatch(r"[^/\s]+:\d+(/\S*)?", uri):
        return f"{shown} is neither a file nor a URL. For a tracking server: {shown.replace('=', '=http://')}"
    if "://" in uri and not uri.startswith("file:"):
        return f"{shown} is not supported. {URI_CHOICES}"
    path = Path(shown.removeprefix("tracking.uri=").removeprefix("file://").removeprefix("file:")).absolute()
    if path.is_file() or path.suffix in (".db", ".sqlite", ".sqlite3"):
        return f"{shown} is not a URL. For a SQLite store: tracking.uri={SQLITE}{path}"
    return (
        f"{shown} is a folder, and MLflow no longer supports file stores. "
        f"Use a SQLite store in it: tracking.uri={SQLITE}{path / 'mlflow.db'}"
    )


def _check_database(uri: str, database: Path) -> None:
    if not os.access(database, os.R_OK | os.W_OK):
        raise StoreError(f"The tracking store {uri} cannot be written: no permission for {database}.")
    # Through SQLite: opening and closing the file in any other way would drop this process's locks on it.
    try:
        with closing(sqlite3.connect(database)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise StoreError(f"The tracking store {uri} is not a SQLite database. Choose another file.") from None
        return
    if tables and not tables >= MLFLOW_TABLES:
        raise StoreError(
            f"The tracking store {uri} is the database of another program, with the tables"
            f" {join_sorted(sorted(tables)[:5])}. MLflow would add its own. Choose another file."
        )


def database_file(uri: str) -> Path:
    """Return the file of a SQLite store."""
    return Path(uri.removeprefix(SQLITE))


def artifacts_folder(database: Path) -> Path:
    """Return the folder in which a SQLite store keeps artifacts."""
    return database.parent / "artifacts"
