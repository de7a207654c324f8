"""Runs in MLflow: the one module that knows it. MLflow is imported inside functions, because that takes a second."""

import fcntl
import getpass
import hashlib
import json
import logging
import os
import re
import sqlite3
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments import PROJECT, processes, ui_pages
from experiments.errors import Pruned, StoreError, Terminated
from experiments.profiling import span
from experiments.spool import Operation, Spool, left_behind

if TYPE_CHECKING:
    import keras
    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

MODEL = "model"  # runs:/<run id>/model

SQLITE = "sqlite:///"
_CHOICES = f"Choices: {SQLITE}PATH/mlflow.db, http://HOST:PORT, https://HOST (a database stands behind its own server)."

_ENVIRONMENT = {  # defaults of this project; what the user has set wins
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # MLflow's own seven retries stall for four minutes; we have the spool
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # its errors reach us as exceptions
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def resolve_uri(uri: str | None) -> str:
    """The tracking URI in force: `uri`, else $MLFLOW_TRACKING_URI, else the project's own SQLite store.

    The path of a SQLite store is made absolute.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{PROJECT / 'mlruns' / 'mlflow.db'}"
    path = uri.removeprefix(SQLITE)
    return uri if path in (uri, "", ":memory:") else f"{SQLITE}{Path(path).absolute()}"


def check_uri(uri: str) -> None:
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
        raise StoreError(f"tracking.uri={shown(uri)} is not supported. {_CHOICES}")
    database = database_file(uri)
    if uri in (SQLITE, f"{SQLITE}:memory:") or database.is_dir() or "?" in uri:
        raise StoreError(f"tracking.uri must name a file, and nothing after it: {uri}. {_CHOICES}")
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


def shown(uri: str) -> str:
    """The URI without user name and password."""
    return re.sub(r"://[^/\s@]*@", "://", uri)


def database_file(uri: str) -> Path:
    """The file of a SQLite store."""
    return Path(uri.removeprefix(SQLITE))


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turns what MLflow raises about the store into a StoreError."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, sqlite3.Error, OSError) as error:
        raise StoreError(
            f"The tracking store {shown(uri)} cannot be used: {_first_line(error)} "
            f"Correct that, or choose another store with tracking.uri. {_CHOICES}"
        ) from error


def connect(uri: str) -> "MlflowClient":
    """A client of the store; creates a SQLite store that does not exist yet, safely against other processes and kills.

    Raises:
        StoreError: if the store cannot be used, within ten seconds if the server does not answer.
    """
    check_uri(uri)
    _quiet()
    with store_errors(uri), span("connecting to MLflow"):
        from mlflow import MlflowClient

        if uri.startswith(SQLITE):
            create_database(uri)
        elif reason := _outage(uri, timeout=4):
            raise StoreError(
                f"The tracking server {shown(uri)} does not answer: {reason}. Start it, correct tracking.uri, "
                f"or use the local store: tracking.uri={SQLITE}{PROJECT / 'mlruns' / 'mlflow.db'}"
            )
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def create_database(uri: str) -> None:
    """Creates a SQLite store that does not exist, in one step: others see nothing or all of it, a kill leaves nothing.

    MLflow alone migrates in place, and processes that start together, or a kill, leave a database that never works.
    """
    database = database_file(uri)
    if database.exists() and database.stat().st_size:
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f".{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if database.exists() and database.stat().st_size:
            return
        _quiet()
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        temporary = database.with_name(f".{database.name}.tmp")
        for base in (temporary, database):
            for suffix in ("", "-journal", "-wal", "-shm"):
                base.with_name(base.name + suffix).unlink(missing_ok=True)
        store = SqlAlchemyStore(f"{SQLITE}{temporary}", (database.parent / "artifacts").as_uri())
        store.engine.dispose()
        with closing(sqlite3.connect(temporary)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # readers and a writer do not wait for each other
        temporary.rename(database)


def mark_dead_runs(client: "MlflowClient", experiment_ids: list[str] | None = None) -> list[str]:
    """Marks as KILLED the runs that are RUNNING in the store but whose process on this host is gone.

    Runs of other hosts, and all runs on systems without /proc, are left alone.

    Args:
        client: of the store.
        experiment_ids: where to look; None for everywhere.

    Returns:
        The ids of the runs marked.
    """
    here = processes.tags()
    if "process.boot_id" not in here:
        return []
    if experiment_ids is None:
        experiment_ids = [experiment.experiment_id for experiment in pages(client.search_experiments)]
    of_this_host = f"attributes.status = 'RUNNING' and tags.`process.host` = '{here['process.host']}'"
    running = pages(client.search_runs, experiment_ids=experiment_ids, filter_string=of_this_host)
    dead = [run for run in running if processes.is_dead(run.data.tags)]
    for run in dead:
        last = max((point.timestamp for point in _points(client, run)), default=run.info.start_time)
        end(client, run.info.run_id, "KILLED", "the process vanished: killed, or the machine went down", last)
    return [run.info.run_id for run in dead]


def end(client: "MlflowClient", run_id: str, status: str, reason: str, time: int | None = None) -> None:
    """Gives the run of a process that is gone its status and the reason; `time` is the present one if None."""
    client.set_tag(run_id, "end_reason", reason)
    client.set_terminated(run_id, status, end_time=time)


def pages(search: Callable[..., Any], limit: int | None = None, **arguments: Any) -> list[Any]:
    """What one of the client's searches finds, at most `limit` of it, whatever it gives at once."""
    found: list[Any] = []
    token = None
    while True:
        at_once = 1000 if limit is None else min(1000, limit - len(found))
        page = search(max_results=at_once, page_token=token, **arguments)
        found += page
        token = page.token
        if not token or (limit is not None and len(found) >= limit):
            return found


def latest_experiment(client: "MlflowClient", name: str | None = None) -> str:
    """The id of the experiment `name`, else of the one with the latest run, else of MLflow's Default.

    Raises:
        StoreError: if there is no experiment of that name.
    """
    experiments = {experiment.name: experiment.experiment_id for experiment in pages(client.search_experiments)}
    if name is not None:
        if name not in experiments:
            raise StoreError(
                f"There is no experiment {name!r} in the store. Choices: {', '.join(sorted(experiments))}."
            )
        return experiments[name]
    runs = client.search_runs(list(experiments.values()), order_by=["attributes.start_time DESC"], max_results=1)
    return runs[0].info.experiment_id if runs else "0"


def find_sweep(client: "MlflowClient", parent_id: str) -> str:
    """Where the UI shows the runs of a sweep; also of one without a view, such as one of another program.

    Raises:
        StoreError: there is no such run.
    """
    with store_errors(str(client.tracking_uri)):
        run = _get_run(client, str(client.tracking_uri), parent_id)
        experiment_id = run.info.experiment_id
        if ui_pages.view_tag(parent_id) in client.get_experiment(experiment_id).tags:
            return ui_pages.sweep_table(experiment_id, parent_id)
        return ui_pages.filtered_table(experiment_id, parent_id)


def read_bytes(uri: str, run_id: str, artifact: str) -> bytes:
    """The content of an artifact of a run, such as a figure.

    Raises:
        StoreError: the store cannot be used, or the run has no such artifact.
    """
    client = connect(uri)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run_id, artifact, folder)).read_bytes()
    except Exception as error:  # each kind of artifact store has its own
        raise StoreError(f"Run {run_id} in {shown(uri)} has no artifact {artifact}: {_first_line(error)}") from None


def read(uri: str, run_id: str, artifact: str) -> str:
    """An artifact of a run that is text, such as `config/config.yaml`.

    Raises:
        StoreError: the store cannot be used, the run has no such artifact, or it is no text.
    """
    try:
        return read_bytes(uri, run_id, artifact).decode()
    except UnicodeDecodeError as error:
        raise StoreError(f"Run {run_id} in {shown(uri)}: {artifact} is damaged: {error}") from None


def model_location(uri: str, run_id: str) -> str:
    """Where the store keeps the run's model.

    Raises:
        StoreError: the store cannot be used, there is no such run, or it has no model.
    """
    client = connect(uri)
    with store_errors(uri):
        logged = _logged_models(client, _get_run(client, uri, run_id).info.experiment_id, MODEL, run_id)
    if not logged:
        raise StoreError(
            f"Run {run_id} in {shown(uri)} has no model: a run logs it when it ends, unless tracking.log_model=false."
        )
    return str(logged[0].artifact_location)


def download_model(uri: str, run_id: str, folder: Path) -> Path:
    """A copy in `folder` of the run's model as Keras stores it, a `.keras` file.

    Raises:
        StoreError: the store cannot be used, the run has no model, or its file is not the one that the run logged.
    """
    file = download_model_unchecked(uri, run_id, folder)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with store_errors(uri):
        tags = connect(uri).get_run(run_id).data.tags
    if tags.get("model_digest", digest) != digest:
        raise StoreError(
            f"The model of run {run_id} in {shown(uri)} is not the one that the run logged: its file was changed since,"
            f" by its digest in the tag model_digest. Train it again: python scripts/reproduce.py {run_id}"
        )
    return file


def download_model_unchecked(uri: str, run_id: str, folder: Path) -> Path:
    """The same, whether or not it is the file that the run logged.

    Raises:
        StoreError: the store cannot be used, or the run has no model.
    """
    # By its place, as MLflow looks for models:/ and runs:/ in the store of $MLFLOW_TRACKING_URI, whatever it is told.
    source = f"{model_location(uri, run_id)}/data/model.keras"
    from mlflow.artifacts import download_artifacts

    try:
        return Path(download_artifacts(source, dst_path=str(folder), tracking_uri=uri))
    except Exception as error:  # each kind of artifact store has its own
        raise StoreError(
            f"The model of run {run_id} in {shown(uri)} cannot be downloaded: {_first_line(error)}"
        ) from None


@contextmanager
def ended_run(uri: str, run_id: str) -> Iterator["Run"]:
    """An earlier run to add results to: its status and times stay, and its last value of a metric is the one added.

    Raises:
        StoreError: if the store cannot be used, or there is no such run.
    """
    client = connect(uri)
    with store_errors(uri):
        run = Run(client, uri, _get_run(client, uri, run_id))
    run._last_step.clear()  # what was added before may be added again
    try:
        yield run
    finally:
        run._spool.close()


@contextmanager
def open_run(
    uri: str,
    experiment: str,
    name: str | None,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    run_id: str | None = None,
) -> Iterator["Run"]:
    """A run that ends with its true status: FINISHED at the normal end, FAILED (with the traceback as an artifact)
    for an exception, KILLED for Ctrl-C and SIGTERM.

    Args:
        uri: resolved tracking URI.
        experiment: name of the experiment, created if need be.
        name: name of the run, or None for one of MLflow's.
        params: logged as they print.
        tags: such as `mlflow.parentRunId`.
        run_id: an earlier run to enter again; its name and params stay, and points it has are not logged again.

    Raises:
        StoreError: if the store cannot be used, or `run_id` is unknown or still running.
    """
    client = connect(uri)
    experiment_id = _prepare(client, uri, experiment)
    tags = {**_source_tags(), **tags, **processes.tags()}
    with store_errors(uri):
        if run_id is None:
            run = Run(client, uri, client.create_run(experiment_id, run_name=name, tags=tags))
        else:
            run = Run(client, uri, _enter(client, uri, run_id, tags))
    try:
        if run_id is None:
            run.log_params(params)
        yield run
        run._end("FINISHED")
    except BaseException as error:
        try:
            run._end_with(error)
        except Exception as failure:  # what ended the run matters more
            print(f"Run {run.run_id} could not be closed: {_first_line(failure)}", file=sys.stderr)
        raise


class Run:
    """A run to log to. What a server that does not answer misses is kept on disk and sent, in order, when it answers
    again: during the run, at its end, or by the next command that uses the store."""

    def __init__(self, client: "MlflowClient", uri: str, run: "MlflowRun") -> None:
        self.uri = uri
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.name: str = run.info.run_name
        self._client = client
        self._spool = Spool(shown(uri), self.run_id)
        self._next_try = 0.0
        self._tables: list[dict[str, str]] = json.loads(run.data.tags.get("mlflow.loggedArtifacts", "[]"))
        self._params = set(run.data.params)
        self._last_step: dict[str, int] = {}
        for point in _points(client, run):
            self._last_step[point.key] = max(point.step, self._last_step.get(point.key, 0))

    def log_metrics(self, metrics: Mapping[str, float], epoch: int | None = None) -> None:
        """Logs the metrics in one batch. A re-entered run leaves out the epochs it has: they are the same."""
        step, now = epoch or 0, _now()
        points = [[k, float(v), now, step] for k, v in metrics.items() if step > self._last_step.get(k, -1)]
        if points:
            self._log({"metrics": points})

    def replace_metrics(self, metrics: Mapping[str, float]) -> None:
        """Logs metrics of the whole run, also where a re-entered run has others: the last value is the one added."""
        for name in metrics:
            self._last_step.pop(name, None)
        self.log_metrics(metrics)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Logs the params. A re-entered run leaves out those it has: MLflow does not let them change."""
        self._log({"params": {key: str(value) for key, value in params.items() if key not in self._params}})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._log({"tags": dict(tags)})

    def log_artifacts(self, path: Path, folder: str = "") -> None:
        """Uploads what is in a folder into a folder of the run's artifacts."""
        self._log({"artifacts": folder, "source": str(path)})

    def log_text(self, text: str, artifact: str) -> None:
        """Writes a text as an artifact such as `config/config.yaml`."""
        folder, _, name = artifact.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary, name)
            path.write_text(text, encoding="utf-8")
            self._log({"artifacts": folder, "source": str(path)})

    @span("tables")
    def log_table(self, columns: Any, artifact: str) -> None:
        """Writes a table such as `tables/confusion.json`, in the form that the UI shows as a table.

        MLflow's own function appends to a table that exists; this one replaces it, as a re-entered run must.

        Args:
            columns: a DataFrame, or a dict of columns of equal length.
            artifact: its path, ending in .json.
        """
        import pandas as pd

        self.log_text(pd.DataFrame(columns).to_json(orient="split", index=False, date_format="iso"), artifact)
        table = {"path": artifact, "type": "table"}
        if table not in self._tables:
            self._tables.append(table)
            self.set_tags({"mlflow.loggedArtifacts": json.dumps(self._tables)})

    def log_dataset(
        self, name: str, digest: str, source: str, counts: Mapping[str, int], context: str = "training"
    ) -> None:
        """Records data that the run used, as the UI's dataset column shows it.

        Args:
            name: such as `mnist`.
            digest: of all bytes, at most MLflow's 36 characters. (MLflow's own covers the first 10,000 numbers.)
            source: the path it was read from, or in words where else it came from.
            counts: examples by split, such as {"train": 55000}.
            context: what it was used for: training, evaluation.
        """
        dataset = {
            "name": name,
            "digest": digest,
            "source_type": "local",
            "source": json.dumps({"uri": source}),
            "profile": json.dumps(dict(counts)),
        }
        self._log({"dataset": dataset, "context": context})

    def share_sweep_view(
        self, params: Sequence[str], charted: Sequence[str], metric: str, mode: Literal["min", "max"]
    ) -> None:
        """Makes the view in which the UI shows the children of this run (see `ui_pages`).

        Args:
            params: the columns; the seed is added.
            charted: those of them, with single values, that the charts have as axes.
            metric: the runs are sorted by it.
            mode: which end of it comes first.
        """
        self._log(
            {
                "view": self.run_id,
                "of": self.experiment_id,
                "state": ui_pages.sweep_view(self.run_id, params, charted, metric, mode),
            }
        )

    @span("model")
    def log_model(self, model: "keras.Model", inputs: "np.ndarray", outputs: "np.ndarray") -> None:
        """Stores the model so that MLflow and plain Keras load it without this project: `runs:/<run id>/model`,
        with the file `data/model.keras` in it; the tag `model_digest` is that file's SHA-256 (hex). A run has one
        model; logged again, it is replaced.

        Args:
            model: takes raw inputs, such as uint8 images.
            inputs: [n, ...] some raw inputs; their dtype and shape are the signature.
            outputs: [n, ...] what the model answers to them.
        """
        import mlflow.keras
        from mlflow.models import ModelSignature
        from mlflow.types.schema import Schema, TensorSpec

        input_spec, output_spec = (Schema([TensorSpec(x.dtype, (-1, *x.shape[1:]))]) for x in (inputs, outputs))
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, MODEL)
            mlflow.keras.save_model(
                model,
                str(folder),
                signature=ModelSignature(input_spec, output_spec),
                # Given, because MLflow finds them by loading the model in another process, which takes five seconds.
                pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "tensorflow", "keras", "numpy")],
            )
            self._log({"model": MODEL, "source": str(folder)})
            stored = Path(folder, "data", "model.keras").read_bytes()
            self.set_tags({"model_digest": hashlib.sha256(stored).hexdigest()})  # tells whether it was changed since

    def _end_with(self, error: BaseException) -> None:
        """Closes the run after an exception."""
        match error:
            case KeyboardInterrupt():
                self._end("KILLED", "interrupted by Ctrl-C")
            case Terminated():
                self._end("KILLED", "terminated by SIGTERM")
            case Pruned():
                self.set_tags({"pruned": str(error.epoch)})
                self._end("KILLED", str(error))
            case SystemExit(code=None | 0):
                self._end("FINISHED")
            case _:
                self.log_text(shown("".join(traceback.format_exception(error))), "error/traceback.txt")
                reason = f"exit code {error.code}" if isinstance(error, SystemExit) else _first_line(error)
                self._end("FAILED", reason)

    def _end(self, status: str, reason: str | None = None) -> None:
        if reason is not None:
            self.set_tags({"end_reason": reason})
        self._log({"status": status, "time": _now()})
        if self._spool:
            self._replay()
        if self._spool:
            self._say(
                f"The tracking store {shown(self.uri)} still does not answer. The rest of run {self.run_id} ({status}) "
                f"is kept in {self._spool.path}; the next command that uses this store sends it."
            )
        self._spool.close()

    @span("logging")
    def _log(self, operation: Operation) -> None:
        """Sends an operation to the store, or spools it while the store does not answer.

        Raises:
            mlflow.exceptions.MlflowException: if the store answers, and refuses it.
        """
        if not self._spool:
            try:
                return _apply(self._client, self.run_id, operation)
            except Exception as error:
                if not _is_outage(error):
                    raise
                self._say(
                    f"The tracking store {shown(self.uri)} does not answer; the run goes on. What it logs is kept in "
                    f"{self._spool.path} and sent when the store answers again. ({_first_line(error)})"
                )
                self._next_try = time.monotonic() + 5
        self._spool.append(operation)
        if time.monotonic() > self._next_try:
            self._replay()

    def _replay(self) -> None:
        started = time.monotonic()
        try:
            if _outage(self.uri, timeout=2) is None:
                self._spool.replay(partial(_apply, self._client, self.run_id))
                self._say(f"The tracking store {shown(self.uri)} answers again and has everything.")
        except Exception as error:
            if not _is_outage(error):
                self._say(f"The tracking store {shown(self.uri)} refuses what it missed: {_first_line(error)}")
        finally:  # waiting for a silent server costs at most a tenth of the run's time
            self._next_try = time.monotonic() + max(5, 10 * (time.monotonic() - started))

    def _say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


def _apply(client: "MlflowClient", run_id: str, operation: Operation) -> None:
    """Does in the store what the operation says. Doing it twice is the same as once."""
    from mlflow.entities import Metric, Param, RunTag

    match operation:
        case {"metrics": points}:
            client.log_batch(run_id, metrics=[Metric(*point) for point in points], synchronous=True)
        case {"params": params}:
            items = [Param(key, value) for key, value in params.items()]
            for start in range(0, len(items), 100):  # MLflow takes no more in one request
                client.log_batch(run_id, params=items[start : start + 100], synchronous=True)
        case {"tags": tags}:
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True)
        case {"artifacts": folder, "source": source} if Path(source).is_dir():
            client.log_artifacts(run_id, source, folder or None)
        case {"artifacts": folder, "source": source}:
            client.log_artifact(run_id, source, folder or None)
        case {"dataset": dataset, "context": context}:
            _apply_dataset(client, run_id, dataset, context)
        case {"model": name, "source": source}:
            _apply_model(client, run_id, name, source)
        case {"view": name, "of": experiment_id, "state": state}:
            client.set_experiment_tag(experiment_id, ui_pages.view_tag(name), state)
        case {"status": status, "time": end}:
            client.set_terminated(run_id, status, end_time=end)
        case _:
            raise AssertionError(f"unknown operation {operation}")


def _apply_dataset(client: "MlflowClient", run_id: str, dataset: dict[str, str], context: str) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    inputs = [DatasetInput(Dataset(**dataset), [InputTag("mlflow.data.context", context)])]
    try:
        client.log_inputs(run_id, inputs)
    except MlflowException as error:
        if _is_outage(error):
            raise
        client.log_inputs(run_id, inputs)  # another run of the experiment added the same dataset at the same instant


def _apply_model(client: "MlflowClient", run_id: str, name: str, folder: str) -> None:
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    run = client.get_run(run_id)
    earlier = _logged_models(client, run.info.experiment_id, name, run_id)
    logged = earlier[0] if earlier else client.create_logged_model(run.info.experiment_id, name, run_id)
    description = Model.load(folder)
    description.run_id = run_id
    description.model_id = description.model_uuid = logged.model_id
    description.artifact_path = logged.artifact_location
    description.save(str(Path(folder, "MLmodel")))
    client.log_model_artifacts(logged.model_id, folder)
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    if run.outputs is None or all(output.model_id != logged.model_id for output in run.outputs.model_outputs):
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])


def _logged_models(client: "MlflowClient", experiment_id: str, name: str, run_id: str) -> list[Any]:
    chosen = f"name = '{name}' AND source_run_id = '{run_id}'"
    return list(client.search_logged_models([experiment_id], filter_string=chosen))


@span("preparing the store")
def _prepare(client: "MlflowClient", uri: str, experiment: str) -> str:
    from mlflow.exceptions import MlflowException

    for spool in left_behind(shown(uri)):
        try:
            spool.replay(partial(_apply, client, spool.run_id))
        except Exception as error:
            print(
                f"What the tracking store {shown(uri)} missed of run {spool.run_id} could not be sent: "
                f"{_first_line(error)} It stays in {spool.path}; delete that file to give it up.",
                file=sys.stderr,
            )
    with store_errors(uri):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            location = (database_file(uri).parent / "artifacts").as_uri() if uri.startswith(SQLITE) else None
            try:
                tags = {ui_pages.view_tag(ui_pages.VIEW): ui_pages.runs_view()}
                return client.create_experiment(experiment, artifact_location=location, tags=tags)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(experiment)  # another process was faster
        if found.lifecycle_stage == "deleted":
            raise StoreError(
                f"The experiment {experiment!r} is deleted in {shown(uri)}. Restore it with: "
                f"MLFLOW_TRACKING_URI='{shown(uri)}' mlflow experiments restore --experiment-id {found.experiment_id} "
                "- or choose another: tracking.experiment=NAME"
            )
        mark_dead_runs(client, [found.experiment_id])
        return found.experiment_id


def _get_run(client: "MlflowClient", uri: str, run_id: str) -> "MlflowRun":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise StoreError(f"There is no run {run_id!r} in {shown(uri)}.") from None


def _enter(client: "MlflowClient", uri: str, run_id: str, tags: Mapping[str, str]) -> "MlflowRun":
    """Makes an earlier run RUNNING again, owned by this process."""
    from mlflow.entities import RunTag

    run = _get_run(client, uri, run_id)
    host, pid = (run.data.tags.get(f"process.{key}") for key in ("host", "pid"))
    if run.info.status == "RUNNING" and (host, pid) != (tags["process.host"], tags["process.pid"]):
        raise StoreError(f"Run {run_id} is still running, in process {pid} on {host}. Stop that process first.")
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True)
    if "end_reason" in run.data.tags:
        client.delete_tag(run_id, "end_reason")
    client.update_run(run_id, status="RUNNING")
    return run


def _points(client: "MlflowClient", run: "MlflowRun") -> Iterable[Any]:
    for key in run.data.metrics:
        yield from client.get_metric_history(run.info.run_id, key)


def _source_tags() -> dict[str, str]:
    """What the UI shows in its columns User and Source."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = str(os.getuid())
    return {"mlflow.user": user, "mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}


def _outage(uri: str, timeout: int) -> str | None:
    """Why the server does not answer; None if it does, or if the store is a file."""
    if uri.startswith(SQLITE):
        return None
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        response = http_request(
            get_default_host_creds(uri), "/health", "GET", max_retries=0, timeout=timeout, raise_on_status=False
        )
    except MlflowException as error:
        cause = error.__cause__ or error.__context__
        return type(cause).__name__ if cause else _first_line(error)
    return f"HTTP status {response.status_code}" if response.status_code >= 500 else None


def _is_outage(error: BaseException) -> bool:
    """Whether the store did not answer, rather than answered no."""
    import requests

    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "error_code", None) == "TEMPORARILY_UNAVAILABLE":
            return True
        if isinstance(cause, requests.RequestException):
            return cause.response is None or cause.response.status_code >= 500
        cause = cause.__cause__ or cause.__context__
    return False


def _quiet() -> None:
    """Sets MLflow's defaults to ours before its import, and hides its chatter."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a line for each retry
    warnings.filterwarnings("ignore", module=r"mlflow(\.|$)")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return shown(lines[0][:500]) if lines else type(error).__name__


def _now() -> int:
    return int(time.time() * 1000)
