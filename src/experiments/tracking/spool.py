"""Operations on a run: applied to its store, or kept while its server does not answer, and replayed in order.

There is a file for each run, JSON lines: the store's address, then one operation per line; files to be uploaded are
copied beside it. Operations can be applied twice without harm, so an interrupted replay simply starts again.
"""

import fcntl
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from experiments import PROJECT
from experiments.tracking.moved_store import keep_artifacts_beside
from experiments.tracking.store import find_logged_models, is_outage, run_artifacts
from experiments.tracking.ui_pages import view_tag

if TYPE_CHECKING:
    from mlflow import MlflowClient

SpooledOperation = dict[str, Any]

SPOOL_FOLDER = PROJECT / "outputs" / "spool"


def apply_operation(client: "MlflowClient", run_id: str, operation: SpooledOperation) -> None:
    """Apply an operation to the store."""
    from mlflow.entities import Metric, Param, RunTag

    if "source" in operation:  # the store may have been moved since it was opened
        keep_artifacts_beside(client.tracking_uri)
    match operation:
        case {"metrics": points}:
            client.log_batch(run_id, metrics=[Metric(*point) for point in points], synchronous=True)
        case {"params": params}:
            items = [Param(key, value) for key, value in params.items()]
            for start in range(0, len(items), 100):  # the most that MLflow accepts in one request
                client.log_batch(run_id, params=items[start : start + 100], synchronous=True)
        case {"tags": tags}:
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True)
        case {"artifacts": folder, "source": source}:
            # Earlier versions also spooled single files.
            artifacts = run_artifacts(client, run_id)
            upload = artifacts.log_artifacts if Path(source).is_dir() else artifacts.log_artifact
            upload(source, folder or None)
        case {"dataset": dataset, "context": context}:
            _apply_dataset(client, run_id, dataset, context)
        case {"model": name, "source": source}:
            _apply_model(client, run_id, name, source)
        case {"view": name, "of": experiment_id, "state": state}:
            client.set_experiment_tag(experiment_id, view_tag(name), state)
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
        if is_outage(error):
            raise
        client.log_inputs(run_id, inputs)  # another run added the same dataset at the same moment


def _apply_model(client: "MlflowClient", run_id: str, name: str, folder: str) -> None:
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    run = client.get_run(run_id)
    earlier = find_logged_models(client, run.info.experiment_id, name, run_id)
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


class Spool:
    """The operations of one run that its store, of this address without credentials, has not received yet.

    False while there are none.
    """

    def __init__(self, store: str, run_id: str) -> None:
        self.store, self.run_id = store, run_id
        self.path = SPOOL_FOLDER / f"{run_id}.jsonl"
        self._files = SPOOL_FOLDER / run_id
        self._file: BinaryIO | None = None
        self._pending: deque[SpooledOperation] = deque()

    def __bool__(self) -> bool:
        return bool(self._pending)

    def append(self, operation: SpooledOperation) -> None:
        """Write an operation to disk, with a copy of the folder that its key `source` names."""
        file = self._file or self._open()
        if "source" in operation:
            source = Path(operation["source"])
            kept = self._files / str(file.tell()) / source.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, kept, dirs_exist_ok=True)
            operation = operation | {"source": str(kept)}
        _write_line(file, operation)
        self._pending.append(operation)

    def replay(self, apply: Callable[[SpooledOperation], object]) -> None:
        """Apply the operations in order and drop each; stop at the first error of `apply`, and raise it."""
        while self._pending:
            apply(self._pending[0])
            self._pending.popleft()
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self._files, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let other processes replay the rest."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        """Open, lock and read the file, which another process may be replaying."""
        SPOOL_FOLDER.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab+")
        fcntl.flock(file, fcntl.LOCK_EX)
        if not os.fstat(file.fileno()).st_nlink:  # replayed and deleted while this process waited
            file.close()
            return self._open()
        self._read(file)
        return file

    def _read(self, file: BinaryIO) -> None:
        file.seek(0)
        content = file.read()
        complete = content[: content.rfind(b"\n") + 1]  # a kill can leave an incomplete line
        file.truncate(len(complete))
        file.seek(len(complete))
        records = [json.loads(line) for line in complete.splitlines()]
        if records:
            self.store = records[0]["store"]
        else:
            _write_line(file, {"store": self.store})
        self._pending.extend(records[1:])
        self._file = file


def find_abandoned_spools(store: str) -> Iterator[Spool]:
    """Find the spools for `store` of runs whose process has ended."""
    for path in sorted(SPOOL_FOLDER.glob("*.jsonl")):
        try:
            file = path.open("rb+")
        except FileNotFoundError:  # replayed and deleted in the meantime
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the run's process holds the lock while it is alive
            except BlockingIOError:
                continue
            spool = Spool(store, path.stem)
            spool._read(file)
            if spool.store == store and path.exists():
                yield spool


def _write_line(file: BinaryIO, record: SpooledOperation) -> None:
    file.write(json.dumps(record).encode() + b"\n")
    file.flush()
