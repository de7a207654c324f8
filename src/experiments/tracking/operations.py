"""What is recorded of a run, as operations that can wait on disk, and how each is applied to a store."""

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.tracking.addresses import PROJECT_DATABASE
from experiments.tracking.moved_store import is_moved_away, keep_artifacts_beside

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo
    from mlflow.entities import Run as MlflowRun
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

SpooledOperation = dict[str, Any]


def view_tag(name: str) -> str:
    """Return the tag of an experiment with the state of its view of this name."""
    return f"mlflow.sharedViewState.{name}"


def apply_operation(client: "MlflowClient", run_id: str, operation: SpooledOperation) -> None:
    """Apply an operation to the store."""
    from mlflow.entities import Metric, Param, RunTag

    if "source" in operation:  # the store may have been moved since it was opened
        keep_artifacts_beside(client.tracking_uri)
        _check_in_place(client, run_id)
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
            with _artifact_errors():
                upload(source, folder or None)
            _check_arrival(client, artifacts.list_artifacts, Path(source), folder)
        case {"dataset": dataset, "context": context}:
            _apply_dataset(client, run_id, dataset, context)
        case {"model": name, "source": source}:
            _apply_model(client, run_id, name, source)
        case {"view": name, "of": experiment_id, "state": state}:
            client.set_experiment_tag(experiment_id, view_tag(name), state)
        case {"status": status, "time": end}:
            if status == "FINISHED":  # whoever took it for dead, while this waited, gave a reason
                clear_end(client, client.get_run(run_id))
            client.set_terminated(run_id, status, end_time=end)
        case _:
            raise AssertionError(f"unknown operation {operation}")


def _check_in_place(client: "MlflowClient", run_id: str) -> None:
    """Raise an OSError if the project's own store was moved away: its folder would be made anew, and be in the way."""
    folder = PROJECT_DATABASE.parent
    if is_moved_away(client.tracking_uri) and client.get_run(run_id).info.artifact_uri.startswith(folder.as_uri()):
        raise FileNotFoundError(errno.ENOENT, "the store was moved away", str(folder))


def run_artifacts(client: "MlflowClient", run_id: str) -> "ArtifactRepository":
    """Return the artifacts of a run at the address in the store; the client's own functions use an earlier one."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(client.get_run(run_id).info.artifact_uri, tracking_uri=client.tracking_uri)


def _apply_dataset(client: "MlflowClient", run_id: str, dataset: dict[str, str], context: str) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    inputs = [DatasetInput(Dataset(**dataset), [InputTag("mlflow.data.context", context)])]
    try:
        client.log_inputs(run_id, inputs)
    except MlflowException as error:
        if error.error_code != "BAD_REQUEST":
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
    with _artifact_errors():
        client.log_model_artifacts(logged.model_id, folder)
    _check_arrival(client, partial(client.list_logged_model_artifacts, logged.model_id), Path(folder), "")
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    if run.outputs is None or all(output.model_id != logged.model_id for output in run.outputs.model_outputs):
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])


@contextmanager
def _artifact_errors() -> Iterator[None]:
    """Turn what the client of an artifact store raises, such as that of S3, into an OSError."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def _check_arrival(
    client: "MlflowClient", listed: "Callable[[str | None], Iterable[FileInfo]]", source: Path, folder: str
) -> None:
    """Raise an OSError unless a server lists the files of `source`: a proxy's page answers an upload with success."""
    if not client.tracking_uri.startswith("http"):
        return
    files = [file for file in source.rglob("*") if file.is_file()] if source.is_dir() else [source]
    root = source if source.is_dir() else source.parent
    arrived: dict[Path, dict[str, int]] = {}
    for file in files:
        place = Path(folder, file.parent.relative_to(root))
        if place not in arrived:
            entries = listed(None if place == Path() else place.as_posix())
            arrived[place] = {Path(entry.path).name: entry.file_size or 0 for entry in entries}
        if arrived[place].get(file.name) != file.stat().st_size:
            raise OSError(f"{(place / file.name).as_posix()} did not arrive whole")


def clear_end(client: "MlflowClient", run: "MlflowRun", *further: str) -> None:
    """Delete the tags that say why an earlier end of the run was not FINISHED, and further ones."""
    for key in ("end_reason", "end_error", *further):
        if key in run.data.tags:
            client.delete_tag(run.info.run_id, key)


def find_logged_models(client: "MlflowClient", experiment_id: str, name: str, run_id: str) -> list[Any]:
    """Find the models of this name that a run logged."""
    chosen = f"name = '{name}' AND source_run_id = '{run_id}'"
    return list(client.search_logged_models([experiment_id], filter_string=chosen))
