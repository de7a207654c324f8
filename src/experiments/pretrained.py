"""Weights to start from: those of the model that an earlier run logged (`model.weights`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from experiments import runs, tracking
from experiments.errors import ConfigError, StoreError
from experiments.schema import Config

if TYPE_CHECKING:
    import keras


def check(config: Config) -> None:
    """Find out before TensorFlow loads that the run is in this run's store, and has a model.

    Raises:
        StoreError: it is not, or has none.
    """
    if config.model.weights is not None:
        uri = tracking.resolve_uri(config.tracking.uri)
        with _named():
            (run,) = runs.by_id(runs.open_store(uri), [config.model.weights])
            tracking.check_model(uri, run.run_id)


def load(config: Config, model: "keras.Model") -> None:
    """Give the model the weights of the run that `model.weights` names, if it names one.

    Raises:
        ConfigError: that run's network has weights of other shapes.
        StoreError: they cannot be read.
    """
    if config.model.weights is None:
        return
    import keras

    uri = tracking.resolve_uri(config.tracking.uri)
    with TemporaryDirectory() as folder, _named():
        file = tracking.download_model(uri, config.model.weights, Path(folder))
        weights = keras.saving.load_model(file, compile=False).get_weights()
    theirs, ours = [value.shape for value in weights], [tuple(value.shape) for value in model.weights]
    if theirs != ours:
        raise ConfigError(
            f"model.weights={config.model.weights} does not fit: its weights have the shapes {_shown(theirs)}, those of"
            f" this network {_shown(ours)}. Give data and model as that run had them: python scripts/compare.py"
            f" {config.model.weights}"
        )
    model.set_weights(weights)


@contextmanager
def _named() -> Iterator[None]:
    """Say of what the store lacks which key asked for it."""
    try:
        yield
    except StoreError as error:
        raise StoreError(f"model.weights: {error}") from None


def _shown(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) or "1" for shape in shapes) or "none"
