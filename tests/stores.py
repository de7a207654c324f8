"""Make a run in this process, and read runs, histories, artifacts and models back from a store."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config.composition import compose_job
from experiments.runtime import start_tensorflow
from experiments.tracking.store import connect_store

TIMES = {"epoch_seconds", "examples_per_second", "train_seconds"}


def made(uri: str, *overrides: str) -> Any:
    """Make a run with these overrides in this process, and return it as read back."""
    start_tensorflow(1)  # as in every test: TensorFlow takes its number of threads only once
    from experiments.experiment import run_experiment

    given = [*overrides, f"tracking.uri={uri}"]
    config = compose_job(given)
    return connect_store(uri).get_run(run_experiment(config, given))


def runs(uri: str) -> list[Any]:
    """Return every run in the store, oldest first."""
    client = connect_store(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, order_by=["attributes.start_time ASC"]))


def history(uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Return every point of every metric that is not a time, by step."""
    client = connect_store(uri)
    names = set(client.get_run(run_id).data.metrics) - TIMES
    return {n: sorted((p.step, p.value) for p in client.get_metric_history(run_id, n)) for n in names}


def artifact(uri: str, run_id: str, path: str) -> str:
    return Path(connect_store(uri).download_artifacts(run_id, path)).read_text()


def files(uri: str, run_id: str, folder: str = "") -> set[str]:
    return {item.path for item in connect_store(uri).list_artifacts(run_id, folder)}


def weights(uri: str, run_id: str) -> list[np.ndarray]:
    """Return the weights of the logged model."""
    start_tensorflow(1)
    import keras
    import mlflow

    mlflow.set_tracking_uri(uri)
    folder = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/model")
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # which MLflow has set
    model: Any = keras.saving.load_model(f"{folder}/data/model.keras")
    return list(model.get_weights())
