"""Delete runs for good, with their models, artifacts, checkpoints and spools; MLflow's `gc` leaves models behind."""

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import StoreError
from experiments.formatting import plural
from experiments.tracking.addresses import SQLITE, artifacts_folder, database_file
from experiments.tracking.liveness import unseen_notice
from experiments.tracking.outages import first_line
from experiments.tracking.records import RunRecord, experiment_runs, find_runs, runs_with_tags
from experiments.tracking.spool import SPOOL_FOLDER
from experiments.tracking.store import ARTIFACTS_DELETED, store_errors
from experiments.training.checkpoints import CHECKPOINT_FOLDER

if TYPE_CHECKING:
    from mlflow import MlflowClient


class NotDeletedError(StoreError):
    """A run that could not be deleted; those before it are gone."""

    exit_code = 1


@dataclass(frozen=True)
class StoredRun:
    """A run and what is stored of it."""

    record: RunRecord
    models: dict[str, str]  # id -> URI of the artifacts, of its logged models
    artifacts: str  # URI
    files: list[Path]  # its checkpoints and spools on this machine
    size: int  # of all that, in bytes


def find_deletable_runs(
    client: "MlflowClient",
    run_ids: Sequence[str],
    experiment: str | None = None,
    status: str | None = None,
    ended_before: float | None = None,
) -> list[StoredRun]:
    """Find the runs with these ids or unique prefixes of ids, those of an experiment, or without both all in the store.

    The runs of a sweep are taken along, and come before it. With `status` or `ended_before` (milliseconds since 1970)
    all others are left out, and so is a sweep with a run that is left out. Raise a StoreError if there is no such run
    or experiment, or if one of the runs has not ended.
    """
    found = find_runs(client, run_ids)
    if experiment is not None:
        found += experiment_runs(client, experiment)[1]
    elif not run_ids:
        found += runs_with_tags(client, {})
    for sweep in [run for run in found if "sweep" in run.tags]:
        found += runs_with_tags(client, {"mlflow.parentRunId": sweep.run_id})
    chosen = {run.run_id: run for run in found}
    matching = [
        run
        for run in chosen.values()
        if status in (None, run.status) and (ended_before is None or (run.end_time or run.start_time) < ended_before)
    ]
    left_out = chosen.keys() - {run.run_id for run in matching}
    incomplete = {chosen[run_id].tags.get("mlflow.parentRunId") for run_id in left_out}
    deletable = [run for run in matching if run.run_id not in incomplete]
    for run in deletable:
        if run.status in ("RUNNING", "SCHEDULED"):
            running = f"Run {run.run_id} ({run.name}) is {run.status}: stop it first."
            raise StoreError(f"{unseen_notice(client, run.run_id) or running} Nothing was deleted.")
    with store_errors(client.tracking_uri):
        return [_look_up(client, run) for run in sorted(deletable, key=lambda run: "sweep" in run.tags)]


def delete_runs(client: "MlflowClient", runs: Sequence[StoredRun]) -> None:
    """Delete runs in this order; raise a NotDeletedError for the first that cannot be deleted.

    The rows of a SQLite store go too. A server marks them as deleted, and only `mlflow gc` on its machine removes them.
    A run stays in the store until all else of it is gone, so a command that is cut off can be repeated.
    """
    rows: Any = client
    if client.tracking_uri.startswith(SQLITE):
        rows = _LocalRows(client.tracking_uri)
    for number, run in enumerate(runs):
        try:
            client.set_tag(run.record.run_id, ARTIFACTS_DELETED, "true")
            for owner, place in {**run.models, run.record.run_id: run.artifacts}.items():
                _delete_artifacts(owner, place, client.tracking_uri)
            for file in run.files:
                shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
            for model_id in run.models:
                rows.delete_logged_model(model_id)
            rows.delete_run(run.record.run_id)
        except Exception as error:  # each kind of artifact store raises its own errors
            raise NotDeletedError(
                f"Deleted {number:,} of {plural(len(runs), 'run')}. Run {run.record.run_id} ({run.record.name}) cannot"
                f" be deleted: {first_line(error)}"
            ) from None


class _LocalRows:
    """Deletes the rows of a SQLite store as `mlflow gc` does, which would take all deleted experiments along."""

    def __init__(self, uri: str) -> None:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        self.store = SqlAlchemyStore(uri, artifacts_folder(database_file(uri)).as_uri())
        self.delete_logged_model = self.store._hard_delete_logged_model

    def delete_run(self, run_id: str) -> None:
        from mlflow.store.tracking.dbmodels.models import SqlInput, SqlInputTag

        with self.store.ManagedSessionMaker(read_only=False) as session:  # MLflow leaves the links to data and models
            for end in (SqlInput.source_id, SqlInput.destination_id):
                links = session.query(SqlInput.input_uuid).filter(end == run_id)
                session.query(SqlInputTag).filter(SqlInputTag.input_uuid.in_(links)).delete(synchronize_session=False)
                session.query(SqlInput).filter(end == run_id).delete(synchronize_session=False)
        self.store._hard_delete_run(run_id)


def _look_up(client: "MlflowClient", run: RunRecord) -> StoredRun:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    info = client.get_run(run.run_id).info
    logged = client.search_logged_models([info.experiment_id], filter_string=f"source_run_id = '{run.run_id}'")
    models = {model.model_id: model.artifact_location for model in logged}
    files = [file for folder in (CHECKPOINT_FOLDER, SPOOL_FOLDER) for file in folder.glob(f"{run.run_id}*")]
    places = [*models.values(), info.artifact_uri]
    size = sum(_size_of_artifacts(get_artifact_repository(place, client.tracking_uri)) for place in places)
    size += sum(part.stat().st_size for file in files for part in (file, *file.rglob("*")) if part.is_file())
    return StoredRun(run, models, info.artifact_uri, files, size)


def _size_of_artifacts(repository: Any, folder: str | None = None) -> int:
    items = repository.list_artifacts(folder)
    return sum(_size_of_artifacts(repository, item.path) if item.is_dir else item.file_size or 0 for item in items)


def _delete_artifacts(owner: str, place: str, uri: str) -> None:
    """Delete the artifacts of a run or model, and the empty folder that is left of it on this machine."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    if owner not in place.split("/"):  # a record of the store must not make us delete a folder that others use
        raise StoreError(f"its artifacts are in {place}, which is not a folder of its own.")
    get_artifact_repository(place, uri).delete_artifacts()
    if is_local_uri(place):
        with contextlib.suppress(OSError):
            Path(local_file_uri_to_path(place)).parent.rmdir()
