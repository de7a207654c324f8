"""Models that runs logged, loaded again; among them those whose weights to start from (`model.weights`)."""

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
            tracking.model_location(uri, run.run_id)


def load(config: Config, model: "keras.Model") -> None:
    """Give the model the weights of the run that `model.weights` names, if it names one.

    Raises:
        ConfigError: that run's network has weights of other shapes.
        StoreError: they cannot be read.
    """
    if config.model.weights is None:
        return
    uri = tracking.resolve_uri(config.tracking.uri)
    with TemporaryDirectory() as folder, _named():
        file = tracking.download_model(uri, config.model.weights, Path(folder))
        weights = load_model(file, config.model.weights).get_weights()
    theirs, ours = [value.shape for value in weights], [tuple(value.shape) for value in model.weights]
    if theirs != ours:
        raise ConfigError(
            f"model.weights={config.model.weights} does not fit: its weights have the shapes {_shown(theirs)}, those of"
            f" this network {_shown(ours)}. Give data and model as that run had them: python scripts/compare.py"
            f" {config.model.weights}"
        )
    model.set_weights(weights)


def load_model(file: Path, run_id: str) -> "keras.Model":
    """The model in a run's `.keras` file.

    Raises:
        StoreError: it cannot be loaded.
    """
    import keras

    try:
        return keras.saving.load_model(file, compile=False)
    except Exception as error:  # Keras raises whatever its own code stumbles over
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise StoreError(f"The model of run {run_id} cannot be loaded: {reason}") from None


@contextmanager
def _named() -> Iterator[None]:
    """Say of what the store lacks which key asked for it."""
    try:
        yield
    except StoreError as error:
        raise StoreError(f"model.weights: {error}") from None


def _shown(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) or "1" for shape in shapes) or "none"
