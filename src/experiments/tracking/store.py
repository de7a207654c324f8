"""Create, connect to and search a tracking store."""

import json
import logging
import os
import re
import shlex
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from experiments import PROJECT
from experiments.errors import StoreError, StoreOutageError, TrainingError, join_sorted, machine_limit
from experiments.profiling import span
from experiments.tracking.addresses import (
    SQLITE,
    URI_CHOICES,
    artifacts_folder,
    check_tracking_uri,
    database_file,
    hide_credentials,
)
from experiments.tracking.moved_store import keep_artifacts_beside, locked_store
from experiments.tracking.outages import first_line, is_outage, outage_reason
from experiments.tracking.spool import send_waiting

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

ARTIFACTS_DELETED = "artifacts_deleted"  # a tag of runs whose rows a server keeps

MLFLOW_ENVIRONMENT = {  # the user's own settings win
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # MLflow's seven retries stall for four minutes; the spool replaces them
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # its errors reach us as exceptions
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow raises about the store into a StoreError."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except Exception as raised:
        error = getattr(raised, "orig", raised)  # SQLAlchemy wraps what SQLite raises
        if not isinstance(error, MlflowException | sqlite3.Error | OSError | json.JSONDecodeError):
            raise
        advice = f"Correct that, or choose another store with tracking.uri. {URI_CHOICES}"
        reason = machine_limit(error) or f"{first_line(error).removesuffix('.')}. {advice}"
        raise (StoreOutageError if is_outage(error) else StoreError)(
            f"The tracking store {hide_credentials(uri)} cannot be used: {reason}"
        ) from error


def connect_store(uri: str, must_exist: bool = False) -> "MlflowClient":
    """Return a client of the store, which has received what waited for it.

    A SQLite store that does not exist yet is created, safely against races and kills, unless it `must_exist`, as it has
    runs: it was moved away, and may come back.

    Raise a StoreError if it cannot be used; a server that does not answer is given up within ten seconds.
    """
    check_tracking_uri(uri)
    if must_exist and not store_exists(uri):
        raise StoreOutageError(
            f"There is no tracking store {uri} yet; the first run creates it (python run.py). "
            f"To use another: --uri {SQLITE}PATH/mlflow.db, --uri http://HOST:PORT"
        )
    quiet_mlflow()
    with store_errors(uri), span("connecting to MLflow"):
        from mlflow import MlflowClient

        if uri.startswith(SQLITE):
            create_database(uri)
        elif reason := outage_reason(uri, timeout=4):
            raise StoreOutageError(
                f"The tracking server {hide_credentials(uri)} does not answer: {reason}. Start it, correct"
                f" tracking.uri, or use the local store: tracking.uri={SQLITE}{PROJECT / 'mlruns' / 'mlflow.db'}"
            )
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        send_waiting(client, hide_credentials(uri))
        return client


def create_database(uri: str) -> None:
    """Create a SQLite store if it does not exist, in one step: other processes see nothing or all of it.

    MLflow itself migrates in place, so that a kill, or processes that start together, leave a broken database. A store
    that exists finds its artifacts beside it afterwards.
    """
    database = database_file(uri)
    if database.exists() and database.stat().st_size:
        return keep_artifacts_beside(uri)
    artifacts_folder(database).mkdir(parents=True, exist_ok=True)
    with locked_store(database):
        if database.exists() and database.stat().st_size:
            return
        quiet_mlflow()
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        temporary = database.with_name(f".{database.name}.tmp")
        for base in (temporary, database):
            for suffix in ("", "-journal", "-wal", "-shm"):
                base.with_name(base.name + suffix).unlink(missing_ok=True)
        SqlAlchemyStore(f"{SQLITE}{temporary}", artifacts_folder(database).as_uri()).engine.dispose()
        with closing(sqlite3.connect(temporary)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # readers and a writer do not wait for each other
        temporary.rename(database)


def quiet_mlflow() -> None:
    """Set our defaults for MLflow, which must happen before its import, and hide its log messages."""
    for key, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a line for each retry
    warnings.filterwarnings("ignore", module=r"mlflow(\.|$)")


def search_pages(search: Callable[..., Any], limit: int | None = None, **arguments: Any) -> list[Any]:
    """Return what a search of the client finds on all pages, at most `limit` results."""
    page = search(max_results=min(limit or 1000, 1000), **arguments)
    found = list(page)
    while page.token and (limit is None or len(found) < limit):
        page = search(max_results=1000, page_token=page.token, **arguments)
        found += page
    return found[:limit]


def all_experiment_ids(client: "MlflowClient") -> list[str]:
    return [experiment.experiment_id for experiment in search_pages(client.search_experiments)]


def latest_experiment_id(client: "MlflowClient", name: str | None = None) -> str:
    """Return the id of the experiment `name`, else of the one with the latest run, else of MLflow's Default.

    Raise a StoreError if there is no experiment of that name.
    """
    experiments = {experiment.name: experiment.experiment_id for experiment in search_pages(client.search_experiments)}
    if name is not None:
        if name not in experiments:
            raise StoreError(f"There is no experiment {name!r} in the store. Choices: {join_sorted(experiments)}.")
        return experiments[name]
    runs = client.search_runs(list(experiments.values()), order_by=["attributes.start_time DESC"], max_results=1)
    return runs[0].info.experiment_id if runs else "0"


def get_mlflow_run(client: "MlflowClient", uri: str, run_id: str) -> "MlflowRun":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise StoreError(f"There is no run {run_id!r} in {hide_credentials(uri)}.") from None


def check_stored(uri: str, run_id: str) -> None:
    """Raise a TrainingError unless the store has the finished run, as whoever reads it next finds it.

    A connection that is already open also reads and writes a database file that was moved or deleted.
    """
    if not uri.startswith(SQLITE):  # the server has just received its end
        return
    status = None
    read_only = f"{database_file(uri).as_uri()}?mode=ro"
    with suppress(sqlite3.Error), closing(sqlite3.connect(read_only, uri=True)) as database:
        (status,) = database.execute("SELECT status FROM runs WHERE run_uuid = ?", [run_id]).fetchone() or [None]
    if status != "FINISHED":
        raise TrainingError(
            f"Run {run_id} has ended, but is not in the tracking store {hide_credentials(uri)}: the store was moved or"
            " deleted while the run trained. Its checkpoint is kept. Put the store back, and resume the run."
        )


def experiment_name(client: "MlflowClient", uri: str, run_id: str) -> str:
    """Return the name that the experiment of a run has now."""
    with store_errors(uri):
        return str(client.get_experiment(get_mlflow_run(client, uri, run_id).info.experiment_id).name)


def deleted_run_advice(client: "MlflowClient", run_id: str) -> str | None:
    """Say, of the id of a deleted run or the beginning of it, how to restore the run; None if it is not one."""
    is_id = re.fullmatch("[0-9a-f]{1,32}", run_id)
    return restoring_advice(client, f"attributes.run_id LIKE '{run_id}%'") if is_id else None


def restoring_advice(client: "MlflowClient", chosen: str) -> str | None:
    """Say how to restore the latest deleted run that MLflow's filter `chosen` matches; None if there is none."""
    from mlflow.entities import ViewType

    store = hide_credentials(client.tracking_uri)
    with store_errors(client.tracking_uri):
        experiments = search_pages(client.search_experiments, view_type=ViewType.ALL)
        ids = [experiment.experiment_id for experiment in experiments]
        found = client.search_runs(ids, filter_string=chosen, run_view_type=ViewType.DELETED_ONLY, max_results=1)
    if not found:
        return None
    info = found[0].info
    if ARTIFACTS_DELETED in found[0].data.tags:
        return f"Run {info.run_id} ({info.run_name}) was deleted with its artifacts, so that it cannot be restored."
    what, restore = f"Run {info.run_id} ({info.run_name})", f"runs restore --run-id {info.run_id}"
    (its,) = (experiment for experiment in experiments if experiment.experiment_id == info.experiment_id)
    if its.lifecycle_stage == "deleted":
        what, restore = f"{what} is in experiment {its.name!r}, which", f"experiments restore -x {its.experiment_id}"
    return f"{what} was deleted. To restore it: MLFLOW_TRACKING_URI={shlex.quote(store)} mlflow {restore}"


def metric_points(client: "MlflowClient", run: "MlflowRun") -> Iterable[Any]:
    for key in run.data.metrics:
        yield from client.get_metric_history(run.info.run_id, key)


def open_existing_store(uri: str) -> "MlflowClient":
    """Return a client of an existing store, for commands that only read, or raise a StoreError."""
    return connect_store(uri, must_exist=True)


def store_exists(uri: str) -> bool:
    """Return whether the store can have runs: a SQLite store exists only after the first one."""
    return not uri.startswith(SQLITE) or database_file(uri).exists()
