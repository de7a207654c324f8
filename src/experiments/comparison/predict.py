"""Classify a user's own pictures with the model of a run: whole ones, or each digit or letter in them."""

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from experiments.comparison.pictures import SIZE, ReadPicture, read_picture
from experiments.config.data_schema import DataConfig, ImageData, PicturesData
from experiments.config.facts import is_binary
from experiments.data.picture_files import PictureError, PictureStyle, opened_picture, read_picture_array
from experiments.errors import DataError
from experiments.runtime import start_tensorflow
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import download_model
from experiments.tracking.recorded_config import read_recorded_config
from experiments.tracking.records import find_runs
from experiments.tracking.store import open_existing_store
from experiments.training.devices import process_settings
from experiments.training.evaluation import class_outputs
from experiments.training.networks import load_keras_model

ENLARGED = 280  # pixels of a saved picture, at least
INK_DATA = ("mnist", "emnist", "kmnist")  # digits or letters, light on dark, of which pictures show ink on paper


@dataclass(frozen=True)
class Prediction:
    """The model's answer to a picture, or to one digit in it."""

    file: Path
    seen: np.ndarray  # uint8 [height, width] or [height, width, 3], as the network saw it
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

        height, width = self.seen.shape[:2]
        factor = -(-ENLARGED // max(height, width))
        enlarged = Image.fromarray(self.seen).resize((factor * width, factor * height), Image.Resampling.NEAREST)
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
    """Classify pictures with the model of a run. Nothing is logged.

    With a run on digits or letters, each of them in a picture is found and classified; else the whole picture is, in
    the size and colour of the training images.

    Raises:
        PictureError: no file is a picture, or shows anything; then no model is loaded.
        DataError: the run was not trained on images.
        StoreError: there is no such run, or it has no model.
    """
    readable = [picture for picture in files if _problem_of(picture) is None]
    if not readable:
        raise PictureError("\n".join(filter(None, map(_problem_of, files))))
    store = resolve_tracking_uri(uri)
    (run,) = find_runs(open_existing_store(store), [run_id])
    config, _ = read_recorded_config(store, run.run_id)
    data = _image_data(config.data, run.run_id)
    shown: list[tuple[Path, np.ndarray, str]] = []
    remarks, refused = [], []
    for picture in files:
        try:
            read = read_picture(picture) if data.name in INK_DATA else ReadPicture([_like_training(picture, data)], [])
        except PictureError as error:
            refused.append(str(error))
            continue
        count = len(read.digits)
        shown += [(picture, seen, f" ({n} of {count})" * (count > 1)) for n, seen in enumerate(read.digits, 1)]
        remarks += [f"{picture}: {'; '.join(read.remarks)}."] if read.remarks else []
    if not shown:
        raise PictureError("\n".join(refused))
    with TemporaryDirectory() as folder:
        file = download_model(store, run.run_id, Path(folder))
        start_tensorflow(*process_settings(config))
        model = load_keras_model(file, run.run_id, config)
    images = np.stack([seen for _, seen, _ in shown]).astype(np.float32).reshape(-1, *data.shape)
    outputs = np.asarray(model(images * np.float32(data.pixel_max / 255), training=False), np.float32)
    outputs = class_outputs(outputs, is_binary(config))
    predictions = [
        Prediction(picture, seen, output, data.class_names, piece)
        for (picture, seen, piece), output in zip(shown, outputs, strict=True)
    ]
    return PredictedPictures(predictions, remarks, refused)


def _problem_of(file: Path) -> str | None:
    try:
        with opened_picture(file):
            return None
    except PictureError as error:
        return str(error)


def _like_training(file: Path, data: ImageData) -> np.ndarray:
    """Return a picture in the size and colour of the training images, uint8 from 0 to 255."""
    height, width, *channels = data.shape
    fit = data.fit if isinstance(data, PicturesData) else "crop"
    return read_picture_array(file, PictureStyle((height, width), fit, channels == [3]))


def _image_data(data: DataConfig, run_id: str) -> ImageData:
    if not isinstance(data, ImageData) or len(data.shape) == 1:
        raise DataError(
            f"Run {run_id} was trained on data={data.name}, which are not images. Use a run on images, such as:"
            " python run.py data=mnist"
        )
    unlike_mnist = data.name in INK_DATA and (data.shape, data.pixel_max) != ([SIZE, SIZE], 255)
    if data.name == "digits" or unlike_mnist:
        size = " x ".join(map(str, data.shape))
        raise DataError(
            f"Run {run_id} was trained on data={data.name} with {size} pixels, but digits and letters are converted to"
            " images like MNIST's, 28 x 28. Use a run on MNIST: python run.py data=mnist"
        )
    return data
