"""Artifacts and models of recorded runs, read back; such a model may be the start of another run (`model.weights`)."""

import hashlib
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from experiments.config.facts import initial_weights_file
from experiments.config.schema import Config
from experiments.errors import StoreError, StoreOutageError
from experiments.tracking.addresses import hide_credentials, resolve_tracking_uri
from experiments.tracking.operations import find_logged_models, run_artifacts
from experiments.tracking.outages import announced_reason, is_outage
from experiments.tracking.records import find_runs
from experiments.tracking.run import MODEL_NAME
from experiments.tracking.store import connect_store, get_mlflow_run, open_existing_store, store_errors
from experiments.training.initial_weights import InitialWeights, read_hdf5_weights, weights_of_model
from experiments.training.networks import load_keras_file, load_keras_model

if TYPE_CHECKING:
    from mlflow import MlflowClient

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def read_artifact_bytes(uri: str, run_id: str, artifact: str) -> bytes:
    """Return the contents of an artifact of a run, such as a figure; raise a StoreError if there is none."""
    client = connect_store(uri)
    try:
        with TemporaryDirectory() as folder:
            return Path(run_artifacts(client, run_id).download_artifacts(artifact, folder)).read_bytes()
    except Exception as error:  # each kind of artifact store raises its own errors
        if _is_withheld(client, run_id, artifact):
            raise StoreOutageError(
                f"The tracking server {hide_credentials(uri)} does not send {artifact} of run {run_id}:"
                f" {announced_reason(error)}"
            ) from None
        raise StoreError(
            f"Run {run_id} in {hide_credentials(uri)} has no artifact {artifact}: {announced_reason(error)}"
        ) from None


def _is_withheld(client: "MlflowClient", run_id: str, artifact: str) -> bool:
    """Return whether a server that does not send an artifact has it, or does not answer either."""
    if not client.tracking_uri.startswith("http"):
        return False
    try:
        listed = client.list_artifacts(run_id, str(Path(artifact).parent))
    except Exception as error:
        return is_outage(error)
    return artifact in {entry.path for entry in listed}


def read_artifact_text(uri: str, run_id: str, artifact: str) -> str:
    """Return a text artifact, such as `config/config.yaml`; raise a StoreError if it is missing or not text."""
    try:
        return read_artifact_bytes(uri, run_id, artifact).decode()
    except UnicodeDecodeError as error:
        raise damaged_artifact(uri, run_id, artifact, error) from None


def damaged_artifact(uri: str, run_id: str, artifact: str, error: Exception) -> StoreError:
    """Return the error for a file of a run's record that cannot be read."""
    reason = str(error).removesuffix(".")
    return StoreError(
        f"Run {run_id} in {hide_credentials(uri)}: {artifact} is damaged: {reason}. Without it the run cannot be"
        " repeated; its metrics and model are still in the store. Restore the file from a copy, or make a new run."
    )


def find_run_model(uri: str, run_id: str) -> Any:
    """Return MLflow's record of the run's model; raise a StoreError if there is no such run or model."""
    client = connect_store(uri)
    with store_errors(uri):
        logged = find_logged_models(client, get_mlflow_run(client, uri, run_id).info.experiment_id, MODEL_NAME, run_id)
    if not logged:
        raise StoreError(
            f"Run {run_id} in {hide_credentials(uri)} has no model: runs log it at the end, unless"
            " tracking.log_model=false."
        )
    return logged[0]


def model_location(uri: str, run_id: str) -> str:
    """Return where the store keeps the run's model; raise a StoreError if there is no such run or model."""
    return str(find_run_model(uri, run_id).artifact_location)


def download_model(uri: str, run_id: str, folder: Path, accept_changed: bool = False) -> Path:
    """Download the run's model, a `.keras` file, or raise a StoreError if it is missing or was changed since."""
    # By its location, because MLflow resolves models:/ and runs:/ in $MLFLOW_TRACKING_URI, whatever URI it is given.
    source = f"{model_location(uri, run_id)}/data/model.keras"
    from mlflow.artifacts import download_artifacts

    try:
        file = Path(download_artifacts(source, dst_path=str(folder), tracking_uri=uri))
    except Exception as error:  # each kind of artifact store raises its own errors
        raise StoreError(
            f"The model of run {run_id} in {hide_credentials(uri)} cannot be downloaded: {announced_reason(error)}"
        ) from None
    size, unpacked = file.stat().st_size, _unpacked_size(file)
    if unpacked > largest_unpacked_size(size):
        raise StoreError(
            f"The model of run {run_id} in {hide_credentials(uri)} is not used: its file of {size:,} bytes"
            f" unpacks to {unpacked:,}, which no model does. Train it again: python scripts/reproduce.py {run_id}"
        )
    if not accept_changed:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        with store_errors(uri):
            tags = connect_store(uri).get_run(run_id).data.tags
        if tags.get("model_digest", digest) != digest:
            raise StoreError(
                f"The model of run {run_id} in {hide_credentials(uri)} was changed after the run: its file does not"
                f" match the tag model_digest. Train it again: python scripts/reproduce.py {run_id}"
            )
    return file


def largest_unpacked_size(packed: int) -> int:
    """Return the most bytes that a model's file of so many bytes may unpack to; Keras packs nothing."""
    return 2**26 + 20 * packed


def _unpacked_size(file: Path) -> int:
    """Return how many bytes a `.keras` file unpacks to; 0 if it is damaged, which is left to whoever reads it."""
    try:
        with zipfile.ZipFile(file) as archive:
            return sum(member.file_size for member in archive.infolist())
    except Exception:  # anything may have been put into the file
        return 0


def check_initial_weights(config: Config) -> None:
    """Raise a UserError, before TensorFlow loads, unless the file of `model.weights` is there, or its run and model."""
    if file := initial_weights_file(config):
        with file.open("rb") as opened:
            is_hdf5 = opened.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE
        is_as_named = is_hdf5 if file.suffix == ".h5" else zipfile.is_zipfile(file)
        if not is_as_named or _unpacked_size(file) > largest_unpacked_size(file.stat().st_size):
            raise StoreError(
                f"model.weights={config.model.weights} is not a file that Keras saved as {file.suffix}, or it is"
                " damaged. Save it again: model.save(FILE.keras), or model.save_weights(FILE.weights.h5)."
            )
    elif config.model.weights is not None:
        uri = resolve_tracking_uri(config.tracking.uri)
        try:
            (run,) = find_runs(open_existing_store(uri), [config.model.weights])
            model_location(uri, run.run_id)
        except StoreError as error:
            raise StoreError(f"model.weights: {error}") from None


def load_initial_weights(config: Config) -> InitialWeights | None:
    """Return the weights of the run or file that `model.weights` names, None if it is null, or raise a StoreError."""
    if config.model.weights is None:
        return None
    setting = f"model.weights={config.model.weights}"
    if file := initial_weights_file(config):
        if file.suffix == ".h5":
            return read_hdf5_weights(file, setting, largest_unpacked_size(file.stat().st_size))
        return weights_of_model(load_keras_file(file, setting), setting)
    uri = resolve_tracking_uri(config.tracking.uri)
    try:
        with TemporaryDirectory() as folder:
            file = download_model(uri, config.model.weights, Path(folder))
            return weights_of_model(load_keras_model(file, config.model.weights, config), setting)
    except StoreError as error:
        raise StoreError(f"model.weights: {error}") from None
