"""Runs in MLflow: the one module that knows it. MLflow is imported inside functions, because that takes a second."""

import getpass
import hashlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments.errors import StoreError, Terminated, TrialPruned
from experiments.profiling import span
from experiments.tracking.addresses import SQLITE, database_file, hide_credentials
from experiments.tracking.liveness import mark_dead_runs, process_tags
from experiments.tracking.operations import apply_operation
from experiments.tracking.spool import Spool, SpooledOperation, find_abandoned_spools
from experiments.tracking.store import (
    connect_store,
    first_line,
    get_mlflow_run,
    is_outage,
    metric_points,
    outage_reason,
    store_errors,
)
from experiments.tracking.ui_pages import VIEW_NAME, runs_view, sweep_view, view_tag

if TYPE_CHECKING:
    import keras
    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun


MODEL_NAME = "model"  # runs:/<run id>/model


@contextmanager
def reopen_ended_run(uri: str, run_id: str) -> Iterator["TrackedRun"]:
    """An earlier run to add results to: its status and times stay, and its last value of a metric is the one added.

    Raises:
        StoreError: if the store cannot be used, or there is no such run.
    """
    client = connect_store(uri)
    with store_errors(uri):
        run = TrackedRun(client, uri, get_mlflow_run(client, uri, run_id))
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
) -> Iterator["TrackedRun"]:
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
    client = connect_store(uri)
    experiment_id = _prepare_store(client, uri, experiment)
    tags = {**_source_tags(), **tags, **process_tags()}
    with store_errors(uri):
        if run_id is None:
            run = TrackedRun(client, uri, client.create_run(experiment_id, run_name=name, tags=tags))
        else:
            run = TrackedRun(client, uri, _enter_run(client, uri, run_id, tags))
    try:
        if run_id is None:
            run.log_params(params)
        yield run
        run._end("FINISHED")
    except BaseException as error:
        try:
            run._end_with(error)
        except Exception as failure:  # what ended the run matters more
            print(f"Run {run.run_id} could not be closed: {first_line(failure)}", file=sys.stderr)
        raise


class TrackedRun:
    """A run to log to. What a server that does not answer misses is kept on disk and sent, in order, when it answers
    again: during the run, at its end, or by the next command that uses the store."""

    def __init__(self, client: "MlflowClient", uri: str, run: "MlflowRun") -> None:
        self.uri = uri
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.name: str = run.info.run_name
        self._client = client
        self._spool = Spool(hide_credentials(uri), self.run_id)
        self._next_try = 0.0
        self._tables: list[dict[str, str]] = json.loads(run.data.tags.get("mlflow.loggedArtifacts", "[]"))
        self._params = set(run.data.params)
        self._last_step: dict[str, int] = {}
        for point in metric_points(client, run):
            self._last_step[point.key] = max(point.step, self._last_step.get(point.key, 0))

    def log_metrics(self, metrics: Mapping[str, float], epoch: int | None = None) -> None:
        """Logs the metrics in one batch. A re-entered run leaves out the epochs it has: they are the same."""
        step, now = epoch or 0, _now_milliseconds()
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
                "state": sweep_view(self.run_id, params, charted, metric, mode),
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
            folder = Path(temporary, MODEL_NAME)
            mlflow.keras.save_model(
                model,
                str(folder),
                signature=ModelSignature(input_spec, output_spec),
                # Given, because MLflow finds them by loading the model in another process, which takes five seconds.
                pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "tensorflow", "keras", "numpy")],
            )
            self._log({"model": MODEL_NAME, "source": str(folder)})
            stored = Path(folder, "data", "model.keras").read_bytes()
            self.set_tags({"model_digest": hashlib.sha256(stored).hexdigest()})  # tells whether it was changed since

    def _end_with(self, error: BaseException) -> None:
        """Closes the run after an exception."""
        match error:
            case KeyboardInterrupt():
                self._end("KILLED", "interrupted by Ctrl-C")
            case Terminated():
                self._end("KILLED", "terminated by SIGTERM")
            case TrialPruned():
                self.set_tags({"pruned": str(error.epoch)})
                self._end("KILLED", str(error))
            case SystemExit(code=None | 0):
                self._end("FINISHED")
            case _:
                self.log_text(hide_credentials("".join(traceback.format_exception(error))), "error/traceback.txt")
                reason = f"exit code {error.code}" if isinstance(error, SystemExit) else first_line(error)
                self._end("FAILED", reason)

    def _end(self, status: str, reason: str | None = None) -> None:
        if reason is not None:
            self.set_tags({"end_reason": reason})
        self._log({"status": status, "time": _now_milliseconds()})
        if self._spool:
            self._replay()
        if self._spool:
            self._say(
                f"The tracking store {hide_credentials(self.uri)} still does not answer. The rest of run"
                f" {self.run_id} ({status}) "
                f"is kept in {self._spool.path}; the next command that uses this store sends it."
            )
        self._spool.close()

    @span("logging")
    def _log(self, operation: SpooledOperation) -> None:
        """Sends an operation to the store, or spools it while the store does not answer.

        Raises:
            mlflow.exceptions.MlflowException: if the store answers, and refuses it.
        """
        if not self._spool:
            try:
                return apply_operation(self._client, self.run_id, operation)
            except Exception as error:
                if not is_outage(error):
                    raise
                self._say(
                    f"The tracking store {hide_credentials(self.uri)} does not answer; the run goes on."
                    " What it logs is kept"
                    f" in "
                    f"{self._spool.path} and sent when the store answers again. ({first_line(error)})"
                )
                self._next_try = time.monotonic() + 5
        self._spool.append(operation)
        if time.monotonic() > self._next_try:
            self._replay()

    def _replay(self) -> None:
        started = time.monotonic()
        try:
            if outage_reason(self.uri, timeout=2) is None:
                self._spool.replay(partial(apply_operation, self._client, self.run_id))
                self._say(f"The tracking store {hide_credentials(self.uri)} answers again and has everything.")
        except Exception as error:
            if not is_outage(error):
                self._say(
                    f"The tracking store {hide_credentials(self.uri)} refuses what it missed: {first_line(error)}"
                )
        finally:  # waiting for a silent server costs at most a tenth of the run's time
            self._next_try = time.monotonic() + max(5, 10 * (time.monotonic() - started))

    def _say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


@span("preparing the store")
def _prepare_store(client: "MlflowClient", uri: str, experiment: str) -> str:
    from mlflow.exceptions import MlflowException

    for spool in find_abandoned_spools(hide_credentials(uri)):
        try:
            spool.replay(partial(apply_operation, client, spool.run_id))
        except Exception as error:
            print(
                f"What the tracking store {hide_credentials(uri)} missed of run {spool.run_id} could not be sent: "
                f"{first_line(error)} It stays in {spool.path}; delete that file to give it up.",
                file=sys.stderr,
            )
    with store_errors(uri):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            location = (database_file(uri).parent / "artifacts").as_uri() if uri.startswith(SQLITE) else None
            try:
                tags = {view_tag(VIEW_NAME): runs_view()}
                return client.create_experiment(experiment, artifact_location=location, tags=tags)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(experiment)  # another process was faster
        if found.lifecycle_stage == "deleted":
            raise StoreError(
                f"The experiment {experiment!r} is deleted in {hide_credentials(uri)}. Restore it with: "
                f"MLFLOW_TRACKING_URI='{hide_credentials(uri)}' mlflow experiments restore"
                f" --experiment-id {found.experiment_id} "
                "- or choose another: tracking.experiment=NAME"
            )
        mark_dead_runs(client, [found.experiment_id])
        return found.experiment_id


def _enter_run(client: "MlflowClient", uri: str, run_id: str, tags: Mapping[str, str]) -> "MlflowRun":
    """Makes an earlier run RUNNING again, owned by this process."""
    from mlflow.entities import RunTag

    run = get_mlflow_run(client, uri, run_id)
    host, pid = (run.data.tags.get(f"process.{key}") for key in ("host", "pid"))
    if run.info.status == "RUNNING" and (host, pid) != (tags["process.host"], tags["process.pid"]):
        raise StoreError(f"Run {run_id} is still running, in process {pid} on {host}. Stop that process first.")
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True)
    if "end_reason" in run.data.tags:
        client.delete_tag(run_id, "end_reason")
    client.update_run(run_id, status="RUNNING")
    return run


def _source_tags() -> dict[str, str]:
    """What the UI shows in its columns User and Source."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = str(os.getuid())
    return {"mlflow.user": user, "mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}


def _now_milliseconds() -> int:
    return int(time.time() * 1000)
