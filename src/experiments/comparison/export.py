"""Export the model of a run for use without this project, and check that it gives the same outputs."""

import importlib.util
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from experiments.config.data_schema import LinearData
from experiments.config.schema import Config
from experiments.data.datasets import Dataset, load_dataset
from experiments.errors import TrainingError, UserError
from experiments.runtime import start_tensorflow
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import download_model
from experiments.tracking.recorded_config import read_recorded_config
from experiments.tracking.records import RunRecord, find_runs
from experiments.tracking.store import open_existing_store
from experiments.training.devices import process_settings
from experiments.training.networks import load_keras_model

if TYPE_CHECKING:
    import keras

ExportFormat = Literal["keras", "onnx", "tf_saved_model"]
# The end of the name of the file; a SavedModel is a folder.
EXPORT_SUFFIXES: dict[str, str] = {"keras": ".keras", "onnx": ".onnx", "tf_saved_model": ""}
NEEDED_PACKAGES = {"onnx": ("tf2onnx", "onnx", "onnxruntime")}  # by format: those of the extra of this name
CHECKED_EXAMPLES = 1000  # of the test set
TOLERANCE = 1e-4  # of outputs; relative for those above 1


class ExportError(UserError):
    """A model that cannot be exported as requested: what was requested, and what to do."""


class FailedExportError(TrainingError):
    """A model that its format cannot express, or only with other outputs: nothing was kept of it."""


@dataclass(frozen=True)
class ExportedModel:
    """A model written to a file or folder, and how its outputs there compare with those of the run's model."""

    run: RunRecord
    path: Path
    origin_file: Path  # JSON, beside it
    origin: dict[str, Any]  # where it is from and what it takes, the contents of that file
    difference: float  # the greatest of an output
    examples: int  # compared


def export_model(run_id: str, format_: ExportFormat, to: Path | None = None, uri: str | None = None) -> ExportedModel:
    """Write the model of a run in a format, with its origin as JSON beside it, and compare outputs on test examples.

    Args:
        to: the file, or for `tf_saved_model` the folder, to make; an existing folder gets it under a name of its own,
            as the working folder does by default.

    Raises:
        ExportError: the packages for the format are missing, or `to` exists or does not suit the format.
        DataError: the test examples cannot be found.
        StoreError: there is no such run, or it has no model.
        FailedExportError: the format cannot express the model, or the outputs there differ: by more than TOLERANCE, or
            in the class of an example. What was written is removed.
    """
    check_packages(format_)
    store = resolve_tracking_uri(uri)
    (run,) = find_runs(open_existing_store(store), [run_id])
    path = _choose_path(run, format_, to)
    origin_file = path.with_name(path.name + ".json")
    for taken in (path, origin_file):
        if taken.exists():
            raise ExportError(f"{taken} exists, and is not overwritten. Remove it, or choose another with --to.")
    # Beside the target, so that it can be moved there in one step.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        file = download_model(store, run.run_id, Path(folder))
        config, _ = read_recorded_config(store, run.run_id)
        dataset = load_dataset(config.data, config.seed)
        start_tensorflow(*process_settings(config))
        model = load_keras_model(file, run.run_id, config)
        inputs = dataset.test.inputs[:CHECKED_EXAMPLES].astype(np.float32)
        expected = np.asarray(model(inputs, training=False), np.float32)  # Keras exports only what was called
        written = Path(folder, f"exported{EXPORT_SUFFIXES[format_]}")
        try:
            _write(model, file, format_, written)
            outputs = LOADERS[format_](written)(inputs)
        except Exception as error:  # each exporter raises its own
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise FailedExportError(
                f"The model of run {run.run_id} cannot be exported as {format_}: {reason}"
            ) from None
        difference = check_exported_outputs(expected, outputs, format_)
        origin = {"run_id": run.run_id, "run_name": run.name, "format": format_}
        origin |= _describe_use(config, dataset, expected.shape[1])
        described = Path(folder, "origin.json")
        described.write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        described.rename(origin_file)
        written.rename(path)
    return ExportedModel(run, path, origin_file, origin, difference, len(inputs))


def check_packages(format_: str) -> None:
    """Raise an ExportError unless the packages that a format needs are installed."""
    missing = [name for name in NEEDED_PACKAGES.get(format_, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"--format={format_} needs packages that this Python does not have: {', '.join(missing)}. Install the"
            f" extra, in the project's folder: python -m pip install -e '.[{format_}]'"
        )


def _choose_path(run: RunRecord, format_: str, to: Path | None) -> Path:
    suffix = EXPORT_SUFFIXES[format_]
    to = to or Path()
    is_export = (to / "saved_model.pb").exists()  # of an earlier command, and not a folder to put others into
    path = to / f"model-{run.run_id[:8]}{suffix}" if to.is_dir() and not is_export else to
    if path.suffix != suffix and suffix:
        raise ExportError(f"--to={to} is not allowed: with --format={format_} the name of the file ends in {suffix}")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise ExportError(f"--to={to} is not allowed: {path.parent} is not a folder, or cannot be written to.")
    return path


def _write(model: "keras.Model", file: Path, format_: str, path: Path) -> None:
    if format_ == "keras":
        shutil.copyfile(file, path)
        return
    with warnings.catch_warnings(action="ignore"):  # of packages about each other
        model.export(path, format=format_, verbose=False)


def _load_keras(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    import keras

    model = keras.saving.load_model(path, compile=False)
    return lambda inputs: np.asarray(model(inputs, training=False), np.float32)


def _load_onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    return lambda inputs: np.asarray(session.run(None, {name: inputs})[0], np.float32)


def _load_saved_model(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return lambda inputs: np.asarray(loaded.serve(inputs), np.float32)


LOADERS = {"keras": _load_keras, "onnx": _load_onnx, "tf_saved_model": _load_saved_model}


def check_exported_outputs(expected: np.ndarray, outputs: np.ndarray, format_: str) -> float:
    """Return the greatest difference, or raise a FailedExportError if it is too great or changes a class."""
    if outputs.shape != expected.shape:
        raise FailedExportError(f"As {format_} the outputs have the shape {outputs.shape}, not {expected.shape}.")
    difference = float(np.abs(outputs - expected).max())
    other = int((outputs.argmax(1) != expected.argmax(1)).sum())
    if other or not np.allclose(outputs, expected, rtol=TOLERANCE, atol=TOLERANCE):
        raise FailedExportError(
            f"As {format_} the outputs differ from the model's by up to {difference:.2g} (allowed: {TOLERANCE:g}), and"
            f" in the class of {other:,} of {len(expected):,} test examples. Nothing was kept."
        )
    return difference


def _describe_use(config: Config, dataset: Dataset, outputs: int) -> dict[str, Any]:
    """Describe what whoever uses the model has to know: what it was trained on, what it takes, and what it gives."""
    data, names = config.data, list(dataset.class_names)
    kind = "a value for each class, in this order" if names else "the predicted numbers"
    return {
        "data": dataset.name,
        "data_digest": dataset.digest,
        "input": {
            "shape": [None, *dataset.test.inputs.shape[1:]],
            "dtype": "float32",
            "range": None if isinstance(data, LinearData) or len(data.shape) == 1 else [0, data.pixel_max],
        },
        "output": {
            "shape": [None, outputs],
            "values": f"the probability of {names[1]}" if names and outputs == 1 else kind,
            "classes": names,
        },
    }
