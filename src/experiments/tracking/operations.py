"""Apply operations on a run to its store; applying one twice has the same effect as applying it once."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.tracking.spool import SpooledOperation
from experiments.tracking.store import is_outage
from experiments.tracking.ui_pages import view_tag

if TYPE_CHECKING:
    from mlflow import MlflowClient


def apply_operation(client: "MlflowClient", run_id: str, operation: SpooledOperation) -> None:
    """Apply an operation to the store."""
    from mlflow.entities import Metric, Param, RunTag

    match operation:
        case {"metrics": points}:
            client.log_batch(run_id, metrics=[Metric(*point) for point in points], synchronous=True)
        case {"params": params}:
            items = [Param(key, value) for key, value in params.items()]
            for start in range(0, len(items), 100):  # the most that MLflow accepts in one request
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


def find_logged_models(client: "MlflowClient", experiment_id: str, name: str, run_id: str) -> list[Any]:
    """Find the models of this name that a run logged."""
    chosen = f"name = '{name}' AND source_run_id = '{run_id}'"
    return list(client.search_logged_models([experiment_id], filter_string=chosen))
