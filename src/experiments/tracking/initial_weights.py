"""The weights of an earlier run to start from (`model.weights`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from experiments.config.schema import Config
from experiments.errors import ConfigError, StoreError
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import download_model, model_location
from experiments.tracking.records import find_runs
from experiments.tracking.store import open_existing_store
from experiments.training.saved_models import _show_shapes, load_keras_model

if TYPE_CHECKING:
    import keras


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


def load_initial_weights(config: Config, model: "keras.Model") -> None:
    """Give the model the weights of the run that `model.weights` names, if it names one.

    Raises:
        ConfigError: that run's network has weights of other shapes.
        StoreError: they cannot be read.
    """
    if config.model.weights is None:
        return
    uri = resolve_tracking_uri(config.tracking.uri)
    with TemporaryDirectory() as folder, _name_the_key():
        file = download_model(uri, config.model.weights, Path(folder))
        weights = load_keras_model(file, config.model.weights).get_weights()
    theirs, ours = [value.shape for value in weights], [tuple(value.shape) for value in model.weights]
    if theirs != ours:
        raise ConfigError(
            f"model.weights={config.model.weights} does not fit: its weights have the shapes"
            f" {_show_shapes(theirs)}, those of"
            f" this network {_show_shapes(ours)}. Give data and model as that run had them: python scripts/compare.py"
            f" {config.model.weights}"
        )
    model.set_weights(weights)


@contextmanager
def _name_the_key() -> Iterator[None]:
    """Say of what the store lacks which key asked for it."""
    try:
        yield
    except StoreError as error:
        raise StoreError(f"model.weights: {error}") from None
