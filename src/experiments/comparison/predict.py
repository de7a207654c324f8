"""Classify a user's own pictures of digits with the model of a run."""

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from experiments.comparison.pictures import SIZE, read_picture
from experiments.config.data_schema import DataConfig, ImageData
from experiments.data.picture_files import PictureError
from experiments.errors import DataError
from experiments.runtime import start_tensorflow
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import download_model
from experiments.tracking.recorded_config import read_recorded_config
from experiments.tracking.records import find_runs
from experiments.tracking.store import open_existing_store
from experiments.training.devices import process_settings
from experiments.training.networks import load_keras_model

ENLARGED = 10  # pixels of a saved picture for each one that the network saw


@dataclass(frozen=True)
class Prediction:
    """The model's answer to one digit of a picture."""

    file: Path
    seen: np.ndarray  # uint8 [28, 28], the digit as the network saw it
    outputs: np.ndarray  # float32 [classes], one for each name in class_names
    class_names: Sequence[str]
    piece: str = ""  # such as ` (2 of 3)` in a picture of several digits

    @property
    def place(self) -> str:
        """Return the picture, and which of its digits this is."""
        return f"{self.file}{self.piece}"

    @property
    def name(self) -> str:
        """Return the class with the largest output."""
        return self.class_names[int(self.outputs.argmax())]

    @property
    def are_probabilities(self) -> bool:
        """Return whether the outputs are probabilities of the classes, as from softmax."""
        return bool((self.outputs >= 0).all() and abs(self.outputs.sum() - 1) < 1e-3)

    def save(self, folder: Path) -> Path:
        """Save what the network saw, enlarged, as NAME.seen.png in the folder, or raise a PictureError.

        If that is another picture, save it as NAME-2.seen.png, and so on.
        """
        from PIL import Image

        height, width = self.seen.shape
        enlarged = Image.fromarray(self.seen).resize((ENLARGED * width, ENLARGED * height), Image.Resampling.NEAREST)
        stream = io.BytesIO()
        enlarged.save(stream, "PNG")
        content = stream.getvalue()
        targets = (folder / f"{self.file.stem}{f'-{n}' * (n > 1)}.seen.png" for n in itertools.count(1))
        try:
            target = next(target for target in targets if not target.exists() or target.read_bytes() == content)
            target.write_bytes(content)
        except OSError as error:
            said = f"What the network saw of {self.place} cannot be saved in {folder}: {error.strerror}."
            raise PictureError(said) from None
        return target


@dataclass(frozen=True)
class PredictedPictures:
    """The answers to some pictures."""

    predictions: list[Prediction]
    remarks: list[str]  # what speaks against the answers: a line for each such picture
    refused: list[str]  # why a picture was not classified, a line each


def predict_pictures(run_id: str, files: Sequence[Path], uri: str | None = None) -> PredictedPictures:
    """Classify the digits in each of the files with the model of a run on MNIST. Nothing is logged.

    Raises:
        PictureError: no file is a picture of a digit; then no model is loaded.
        DataError: the run was not trained on MNIST.
        StoreError: there is no such run, or it has no model.
    """
    digits: list[tuple[Path, np.ndarray, str]] = []
    remarks, refused = [], []
    for picture in files:
        try:
            read = read_picture(picture)
        except PictureError as error:
            refused.append(str(error))
            continue
        count = len(read.digits)
        digits += [(picture, seen, f" ({n} of {count})" * (count > 1)) for n, seen in enumerate(read.digits, 1)]
        remarks += [f"{picture}: {'; '.join(read.remarks)}."] if read.remarks else []
    if not digits:
        raise PictureError("\n".join(refused))
    store = resolve_tracking_uri(uri)
    (run,) = find_runs(open_existing_store(store), [run_id])
    with TemporaryDirectory() as folder:
        file = download_model(store, run.run_id, Path(folder))
        config, _ = read_recorded_config(store, run.run_id)
        names = _digit_names(config.data, run.run_id)
        start_tensorflow(*process_settings(config))
        model = load_keras_model(file, run.run_id, config)
    images = np.stack([seen for _, seen, _ in digits]).astype(np.float32)
    outputs = np.asarray(model(images, training=False), np.float32)
    predictions = [
        Prediction(picture, seen, output, names, piece)
        for (picture, seen, piece), output in zip(digits, outputs, strict=True)
    ]
    return PredictedPictures(predictions, remarks, refused)


def _digit_names(data: DataConfig, run_id: str) -> Sequence[str]:
    size = [SIZE, SIZE]
    if not (isinstance(data, ImageData) and data.name == "mnist" and data.shape == size and data.pixel_max == 255):
        raise DataError(
            f"Run {run_id} was trained on data={data.name}, but pictures are converted to images like MNIST's."
            " Use a run on MNIST: python run.py data=mnist"
        )
    return data.class_names
