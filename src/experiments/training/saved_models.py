"""Logged models, loaded again."""

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.errors import StoreError

if TYPE_CHECKING:
    import keras


def load_keras_model(file: Path, run_id: str) -> "keras.Model":
    """Load the model from a run's `.keras` file, or raise a StoreError."""
    import keras

    try:
        return keras.saving.load_model(file, compile=False)
    except Exception as error:  # Keras raises exceptions of many types
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise StoreError(f"The model of run {run_id} cannot be loaded: {reason}") from None
