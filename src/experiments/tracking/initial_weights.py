"""The weights of an earlier run to start from (`model.weights`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from experiments.config.schema import Config
from experiments.errors import StoreError
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import download_model, model_location
from experiments.tracking.records import find_runs
from experiments.tracking.store import open_existing_store
from experiments.training.saved_models import load_keras_model

if TYPE_CHECKING:
    import numpy as np


def check_initial_weights(config: Config) -> None:
    """Find out before TensorFlow loads that the run is in this run's store, and has a model.

    Raises:
        StoreError: it is not, or has none.
    """
    if config.model.weights is not None:
        uri = resolve_tracking_uri(config.tracking.uri)
        with _name_the_key():
            (run,) = find_runs(open_existing_store(uri), [config.model.weights])
            model_location(uri, run.run_id)


def load_initial_weights(config: Config) -> "list[np.ndarray] | None":
    """Return the weights of the run that `model.weights` names, None if it names none.

    Raises:
        StoreError: they cannot be read.
    """
    if config.model.weights is None:
        return None
    uri = resolve_tracking_uri(config.tracking.uri)
    with TemporaryDirectory() as folder, _name_the_key():
        file = download_model(uri, config.model.weights, Path(folder))
        return load_keras_model(file, config.model.weights).get_weights()


@contextmanager
def _name_the_key() -> Iterator[None]:
    """Say of what the store lacks which key asked for it."""
    try:
        yield
    except StoreError as error:
        raise StoreError(f"model.weights: {error}") from None
