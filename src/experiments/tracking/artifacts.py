"""Artifacts and models of recorded runs, read back."""

import hashlib
import tempfile
from pathlib import Path

from experiments.errors import StoreError
from experiments.tracking.addresses import hide_credentials
from experiments.tracking.operations import find_logged_models
from experiments.tracking.run import MODEL_NAME
from experiments.tracking.store import connect_store, first_line, get_mlflow_run, store_errors


def read_artifact_bytes(uri: str, run_id: str, artifact: str) -> bytes:
    """Return the contents of an artifact of a run, such as a figure.

    Raises:
        StoreError: the store cannot be used, or the run has no such artifact.
    """
    client = connect_store(uri)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run_id, artifact, folder)).read_bytes()
    except Exception as error:  # each kind of artifact store raises its own errors
        raise StoreError(
            f"Run {run_id} in {hide_credentials(uri)} has no artifact {artifact}: {first_line(error)}"
        ) from None


def read_artifact_text(uri: str, run_id: str, artifact: str) -> str:
    """Return a text artifact of a run, such as `config/config.yaml`.

    Raises:
        StoreError: the store cannot be used, the run has no such artifact, or it is not text.
    """
    try:
        return read_artifact_bytes(uri, run_id, artifact).decode()
    except UnicodeDecodeError as error:
        raise StoreError(f"Run {run_id} in {hide_credentials(uri)}: {artifact} is damaged: {error}") from None


def model_location(uri: str, run_id: str) -> str:
    """Return where the store keeps the run's model.

    Raises:
        StoreError: the store cannot be used, there is no such run, or it has no model.
    """
    client = connect_store(uri)
    with store_errors(uri):
        logged = find_logged_models(client, get_mlflow_run(client, uri, run_id).info.experiment_id, MODEL_NAME, run_id)
    if not logged:
        raise StoreError(
            f"Run {run_id} in {hide_credentials(uri)} has no model: runs log it at the end, unless"
            " tracking.log_model=false."
        )
    return str(logged[0].artifact_location)


def download_model(uri: str, run_id: str, folder: Path) -> Path:
    """Download the run's model, a `.keras` file, into `folder`.

    Raises:
        StoreError: the store cannot be used, the run has no model, or its file was changed since.
    """
    file = download_model_unchecked(uri, run_id, folder)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with store_errors(uri):
        tags = connect_store(uri).get_run(run_id).data.tags
    if tags.get("model_digest", digest) != digest:
        raise StoreError(
            f"The model of run {run_id} in {hide_credentials(uri)} was changed after the run: its file does not match"
            f" the tag model_digest. Train it again: python scripts/reproduce.py {run_id}"
        )
    return file


def download_model_unchecked(uri: str, run_id: str, folder: Path) -> Path:
    """Download the run's model even if it was changed after the run.

    Raises:
        StoreError: the store cannot be used, or the run has no model.
    """
    # By its location, because MLflow resolves models:/ and runs:/ in $MLFLOW_TRACKING_URI, whatever URI it is given.
    source = f"{model_location(uri, run_id)}/data/model.keras"
    from mlflow.artifacts import download_artifacts

    try:
        return Path(download_artifacts(source, dst_path=str(folder), tracking_uri=uri))
    except Exception as error:  # each kind of artifact store raises its own errors
        raise StoreError(
            f"The model of run {run_id} in {hide_credentials(uri)} cannot be downloaded: {first_line(error)}"
        ) from None
