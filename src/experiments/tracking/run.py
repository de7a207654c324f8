"""Open a run in MLflow and log to it. MLflow is imported inside functions, because that takes a second."""

import getpass
import hashlib
import json
import os
import shlex
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import RecordingError, StoreError, Terminated, TrialPruned
from experiments.formatting import shorten_marked
from experiments.profiling import span
from experiments.tracking.addresses import SQLITE, artifacts_folder, database_file, hide_credentials
from experiments.tracking.liveness import mark_dead_runs, process_tags
from experiments.tracking.operations import SpooledOperation, apply_operation, clear_end, view_tag
from experiments.tracking.outages import first_line, is_outage, outage_reason
from experiments.tracking.records import LONGEST_PARAM
from experiments.tracking.spool import Spool, sending_command
from experiments.tracking.store import connect_store, experiment_name, get_mlflow_run, metric_points, store_errors
from experiments.tracking.ui_pages import VIEW_NAME, runs_view

if TYPE_CHECKING:
    import keras
    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

MODEL_NAME = "model"  # runs:/<run id>/model
LONGEST_NAME, LONGEST_TAG = 250, 8000  # characters; of a tag, MLflow cuts more without a word
REPORT_MISSING = "report_missing"  # tag of a finished run with the parts of its report that could not be made


@contextmanager
def reopen_ended_run(uri: str, run_id: str) -> Iterator["TrackedRun"]:
    """Open an earlier run to add results, or raise a StoreError; its status and times stay."""
    client = connect_store(uri)
    with store_errors(uri):
        run = TrackedRun(client, uri, get_mlflow_run(client, uri, run_id))
    try:
        yield run
    finally:
        run.spool.close()


@contextmanager
def open_run(
    uri: str,
    experiment: str,
    name: str | None,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    run_id: str | None = None,
) -> Iterator["TrackedRun"]:
    """Open a run that ends with its true status: FINISHED at the normal end, FAILED (with the traceback as an artifact)
    for an exception, KILLED for Ctrl-C and other signals.

    The experiment is created if it does not exist; MLflow chooses a name if there is none. `run_id` is an earlier run
    to enter again: its name and params stay, and points it has are not logged again. Raise a StoreError if the store
    cannot be used, or that run is unknown or still running. What is logged raises a RecordingError if it can be kept
    nowhere, or somebody has deleted the run.
    """
    client = connect_store(uri, must_exist=bool(run_id or "mlflow.parentRunId" in tags))
    if run_id:
        experiment = experiment_name(client, uri, run_id)  # it may have been renamed
    experiment_id = _prepare_store(client, uri, experiment)
    tags = _cut_tags({**_source_tags(), **tags, **process_tags()})
    name = name and shorten_marked(name, LONGEST_NAME)
    with store_errors(uri):
        opened = _enter_run(client, uri, run_id, tags) if run_id else client.create_run(experiment_id, None, tags, name)
        run = TrackedRun(client, uri, opened)
    try:
        if run_id is None:
            run.log_params(params)
        yield run
        run._end("FINISHED")
        run._send_rest()
    except BaseException as error:
        try:
            run._end_with(error)
            run._send_rest()
        except Exception as failure:  # the error that ended the run is the one to raise
            print(f"The end of run {run.run_id} is not recorded whole: {first_line(failure)}", file=sys.stderr)
        raise
    finally:
        run.spool.close()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder for what is to be logged; raise a RecordingError if it cannot be written, as the disk is full."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    except OSError as error:
        raise RecordingError(
            f"What the run logs cannot be written to {tempfile.gettempdir()}: {first_line(error)}. Make space there, or"
            " set TMPDIR to another folder, and resume the run."
        ) from error


class TrackedRun:
    """A run to log to.

    While the store, or the place of its artifacts, cannot take what is logged, it is kept on disk. It is sent in order
    once it can be: during the run, at its end, or by the next command that uses the store.
    """

    def __init__(self, client: "MlflowClient", uri: str, run: "MlflowRun") -> None:
        self.uri = uri
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.name: str = run.info.run_name
        self._client = client
        self.spool = Spool(hide_credentials(uri), self.run_id)
        self._status, self._problem, self._reported = "RUNNING", "", ""
        self._next_try = 0.0
        self._one_at_a_time = threading.RLock()
        self._tables: list[dict[str, str]] = json.loads(run.data.tags.get("mlflow.loggedArtifacts", "[]"))
        self._params = set(run.data.params)
        self._last_step: dict[str, int] = {}
        for point in metric_points(client, run):
            self._last_step[point.key] = max(point.step, self._last_step.get(point.key, 0))

    def log_metrics(self, metrics: Mapping[str, float], epoch: int | None = None) -> None:
        """Log metrics in one batch: of an epoch, unless a re-entered run has it, or the last ones of the whole run."""
        step, now = epoch or 0, int(time.time() * 1000)
        new = {k: float(v) for k, v in metrics.items() if epoch is None or step > self._last_step.get(k, -1)}
        if new:
            self._log({"metrics": [[name, value, now, step] for name, value in new.items()]})
            self._last_step |= dict.fromkeys(new, step)

    def last_step(self, prefix: str) -> int:
        """Return the last step of a metric whose name begins so, also before the run was re-entered; 0 without one."""
        return max((step for name, step in self._last_step.items() if name.startswith(prefix)), default=0)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log the params that the run does not have yet: MLflow does not allow them to change.

        Those that are too long for MLflow are cut, with a digest of the whole.
        """
        new = {key: value for key, value in params.items() if key not in self._params}
        self._log({"params": {key: shorten_marked(str(value), LONGEST_PARAM) for key, value in new.items()}})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._log({"tags": _cut_tags(tags)})

    def log_artifacts(self, path: Path, folder: str = "") -> None:
        """Upload the contents of a folder into a folder of the run's artifacts."""
        self._log({"artifacts": folder, "source": str(path)})

    def log_text(self, text: str, artifact: str) -> None:
        """Write a text as an artifact such as `config/config.yaml`."""
        folder, _, name = artifact.rpartition("/")
        with temporary_folder() as temporary:
            (temporary / name).write_text(text, encoding="utf-8")
            self.log_artifacts(temporary, folder)

    @span("tables")
    def log_table(self, columns: Any, artifact: str) -> None:
        """Write a DataFrame, or a dict of columns, as a table such as `tables/confusion.json`, which the UI shows.

        MLflow's own function appends to an existing table; this one replaces it, which re-entered runs need.
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
        """Record data that the run used for `context`, for the dataset column of the UI.

        `digest` is that of all bytes, at most MLflow's 36 characters (its own covers only the first 10,000 numbers);
        `source` is a path or a description; `counts` are the examples by split, such as {"train": 55000}.
        """
        described = {"source": json.dumps({"uri": source}), "profile": json.dumps(dict(counts))}
        dataset = {"name": name, "digest": digest, "source_type": "local", **described}
        self._log({"dataset": dataset, "context": context})

    def share_view(self, state: str) -> None:
        """Save the view with which the UI shows the children of this run, as of `ui_pages.sweep_view`."""
        self._log({"view": self.run_id, "of": self.experiment_id, "state": state})

    @span("model")
    def log_model(self, model: "keras.Model", inputs: "np.ndarray", outputs: "np.ndarray") -> None:
        """Store the model so that MLflow and plain Keras load it without this project, as `runs:/<run id>/model`.

        It contains the file `data/model.keras`; the SHA-256 (hex) of that becomes the tag `model_digest`. A run has one
        model; logging another replaces it. The signature is inferred from some raw inputs [n, ...] and their outputs.
        """
        import mlflow.keras
        from mlflow.models import ModelSignature
        from mlflow.types.schema import Schema, TensorSpec

        input_spec, output_spec = (Schema([TensorSpec(x.dtype, (-1, *x.shape[1:]))]) for x in (inputs, outputs))
        with temporary_folder() as temporary:
            folder = temporary / MODEL_NAME
            signature = ModelSignature(input_spec, output_spec)
            # To find them itself, MLflow loads the model in another process, which takes five seconds.
            packages = [f"{name}=={version(name)}" for name in ("mlflow", "tensorflow", "keras", "numpy")]
            mlflow.keras.save_model(model, str(folder), signature=signature, pip_requirements=packages)
            self._log({"model": MODEL_NAME, "source": str(folder)})
            stored = Path(folder, "data", "model.keras").read_bytes()
            self.set_tags({"model_digest": hashlib.sha256(stored).hexdigest()})

    def _end_with(self, error: BaseException) -> None:
        """Close the run after an exception."""
        match error:
            case KeyboardInterrupt():
                self._end("KILLED", "interrupted by Ctrl-C")
            case Terminated():
                self._end("KILLED", str(error))
            case TrialPruned():
                self.set_tags({"pruned": str(error.epoch)})
                self._end("KILLED", str(error))
            case SystemExit(code=None | 0):
                self._end("FINISHED")
            case RecordingError():
                with suppress(Exception):  # the store may take this, and not what it was to record
                    self._end("FAILED", first_line(error), type(error).__name__)
            case _:
                reason = f"exit code {error.code}" if isinstance(error, SystemExit) else first_line(error)
                self._end("FAILED", reason, type(error).__name__)
                self.log_text(hide_credentials("".join(traceback.format_exception(error))), "error/traceback.txt")

    def _end(self, status: str, reason: str | None = None, error: str | None = None) -> None:
        tags = {key: value for key, value in (("end_error", error), ("end_reason", reason)) if value is not None}
        operations: list[SpooledOperation] = [{"tags": tags}] if tags else []
        operations.append({"status": status, "time": int(time.time() * 1000)})
        self._status = status
        if status == "FINISHED" or not self._send_ahead(operations):
            for operation in operations:
                self._log(operation)

    def _send_ahead(self, operations: Sequence[SpooledOperation]) -> bool:
        """Send how the run ended, before what waits, which may not be accepted soon; return whether that was done."""
        try:
            if not self.spool or outage_reason(self.uri, timeout=2):
                return False
            for operation in operations:
                apply_operation(self._client, self.run_id, operation)
        except Exception:  # then it waits as well
            return False
        return True

    def _send_rest(self) -> None:
        """Send what waits at the end of the run, or say where it is kept."""
        if self.spool:
            self._replay()
        if not self.spool:
            return
        if self._status == "FINISHED":  # until that is sent, the run is RUNNING there
            self._send_ahead([{"tags": {"end_reason": f"finished; the rest waits to be sent in {self.spool.path}"}}])
        self._report(
            f"still {self._problem}. Of run {self.run_id} ({self._status}) these wait in {self.spool.path}:"
            f" {self.spool.kinds}. To send them, once the store takes them: {sending_command(self.uri)}"
        )

    @span("logging")
    def _log(self, operation: SpooledOperation) -> None:
        """Send an operation to the store, or spool it while that fails; raise the store's error if it refuses."""
        with self._one_at_a_time:  # the load of the machine is logged by another thread
            self._log_or_spool(operation)

    def _log_or_spool(self, operation: SpooledOperation) -> None:
        began, reason = False, ""
        if not self.spool:
            try:
                return apply_operation(self._client, self.run_id, operation)
            except Exception as error:
                if not is_outage(error):
                    self._check_not_deleted()
                    raise
                began, reason = True, f" ({first_line(error)})"
                self._problem = "does not take artifacts" if "source" in operation else "does not answer"
                self._next_try = time.monotonic() + 5
        try:
            self.spool.append(operation)
        except OSError as error:
            raise RecordingError(
                f"Run {self.run_id} cannot be recorded: the tracking store {hide_credentials(self.uri)}"
                f" {self._problem}{reason}, and {self.spool.path} cannot be written: {first_line(error)}"
            ) from error
        if began:
            self._report(
                f"{self._problem}; the run continues. What it logs is kept in {self.spool.path} and sent when the store"
                f" answers again.{reason}"
            )
        elif time.monotonic() > self._next_try:
            self._replay()

    def _replay(self) -> None:
        """Send what is spooled, if the store answers again."""
        started = time.monotonic()
        try:
            if outage_reason(self.uri, timeout=2) is None:
                self.spool.replay(partial(apply_operation, self._client, self.run_id))
                self._report("answers again and has received everything.")
        except Exception as error:
            if not is_outage(error):
                self._check_not_deleted()
                self._report(f"refuses what was kept for it: {first_line(error)}")
        finally:  # waiting for a silent server takes at most a tenth of the run's time
            self._next_try = time.monotonic() + max(5, 10 * (time.monotonic() - started))

    def _check_not_deleted(self) -> None:
        """Raise a RecordingError if somebody has deleted the run or its experiment."""
        from mlflow.exceptions import MlflowException

        store, what, restore = hide_credentials(self.uri), f"Run {self.run_id}", f"runs restore --run-id {self.run_id}"
        try:
            run = self._client.get_run(self.run_id)
            experiment = self._client.get_experiment(self.experiment_id)
        except MlflowException as error:
            if is_outage(error):
                return
            raise RecordingError(f"{what} was deleted from {store} for good while it was running.") from None
        if experiment.lifecycle_stage == "deleted":
            what = f"The experiment {experiment.name!r} of run {self.run_id}"
            restore = f"experiments restore --experiment-id {self.experiment_id}"
        elif run.info.lifecycle_stage != "deleted":
            return
        raise RecordingError(
            f"{what} was deleted in {store} while it was running. Restore it with: MLFLOW_TRACKING_URI='{store}' mlflow"
            f" {restore}"
        )

    def _report(self, message: str) -> None:
        """Print a message about the store, unless it is the last one again."""
        if message != self._reported:
            print(f"The tracking store {hide_credentials(self.uri)} {message}", file=sys.stderr, flush=True)
        self._reported = message


@span("preparing the store")
def _prepare_store(client: "MlflowClient", uri: str, experiment: str) -> str:
    """Mark dead runs, and return the id of the experiment."""
    from mlflow.exceptions import MlflowException

    with store_errors(uri):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            location = artifacts_folder(database_file(uri)).as_uri() if uri.startswith(SQLITE) else None
            try:
                tags = {view_tag(VIEW_NAME): runs_view()}
                return client.create_experiment(experiment, artifact_location=location, tags=tags)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(experiment)  # another process was faster
        if found.lifecycle_stage == "deleted":
            store = hide_credentials(uri)
            raise StoreError(
                f"The experiment {experiment!r} is deleted in {store}. Restore it with:"
                f" MLFLOW_TRACKING_URI={shlex.quote(store)} mlflow experiments restore --experiment-id"
                f" {found.experiment_id} - or choose another: tracking.experiment=NAME"
            )
        mark_dead_runs(client, [found.experiment_id])
        return found.experiment_id


def _enter_run(client: "MlflowClient", uri: str, run_id: str, tags: Mapping[str, str]) -> "MlflowRun":
    """Make an earlier run RUNNING again, owned by this process."""
    from mlflow.entities import RunTag

    run = get_mlflow_run(client, uri, run_id)
    host, pid = (run.data.tags.get(f"process.{key}") for key in ("host", "pid"))
    if run.info.status == "RUNNING" and (host, pid) != (tags["process.host"], tags["process.pid"]):
        raise StoreError(f"Run {run_id} is still running, in process {pid} on {host}. Stop that process first.")
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True)
    clear_end(client, run, REPORT_MISSING)
    client.update_run(run_id, status="RUNNING")
    return run


def _cut_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: shorten_marked(value, LONGEST_TAG) for key, value in tags.items()}


def _source_tags() -> dict[str, str]:
    """Return the tags behind the columns User and Source of the UI."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return {"mlflow.user": user, "mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
