"""Made pictures, and processes that read them with the project or with plain Keras, for benchmark.py."""

import io
import json
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.config.composition import compose_job
from experiments.data import picture_cache
from experiments.data.datasets import load_dataset

HEIGHT, WIDTH = 480, 640  # pixels of a made picture, as most of COCO's
DIFFERENT = 500  # of the made pictures
SIDE = 64  # pixels of the images that are read from them
CLASSES = 10


def make_pictures(folder: Path, count: int) -> None:
    """Save JPEG files that look like blurred photos, in a folder for each class."""
    from PIL import Image

    def draw(number: int) -> bytes:
        generator = np.random.default_rng(number)
        coarse = Image.fromarray(generator.integers(0, 256, (HEIGHT // 12, WIDTH // 12, 3)).astype(np.uint8))
        photo = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
        photo += generator.normal(0, 6, (HEIGHT, WIDTH, 1)).astype(np.float32)
        stream = io.BytesIO()
        Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=88)
        return stream.getvalue()

    with ThreadPoolExecutor() as pool:
        drawn = list(pool.map(draw, range(min(count, DIFFERENT))))
    for number in range(count):
        file = folder / f"class {number % CLASSES}" / f"{number:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(drawn[number % len(drawn)])


def make_arrays(file: Path, examples: int) -> None:
    """Save arrays of CIFAR-10's shapes, a tenth of them to test on."""
    generator = np.random.default_rng(0)
    labels = np.arange(examples + examples // 10) % CLASSES
    images = generator.integers(0, 256, (len(labels), 32, 32, 3)).astype(np.uint8)
    (x_train, x_test), (y_train, y_test) = (np.split(array, [examples]) for array in (images, labels))
    np.savez(file, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


@dataclass(frozen=True)
class MeasuredReading:
    """Seconds of reading all pictures, without imports; by how much the memory rose at most, and the array's size."""

    seconds: float
    mebibytes: float
    array_mebibytes: float


def read_with_project(pictures: Path, cache: Path) -> MeasuredReading:
    """Find the facts of a folder of pictures and load them, through a cache that may be empty."""
    import PIL.JpegImagePlugin

    assert PIL.JpegImagePlugin
    compose_job([])
    picture_cache.PICTURE_FOLDER = cache
    before, start = _peak_memory(), time.perf_counter()
    config = compose_job(["data=images", f"data.path={json.dumps(str(pictures))}", f"data.size={SIDE}"])
    dataset = load_dataset(config.data, 0)
    seconds = time.perf_counter() - start
    size = sum(split.inputs.nbytes for split in (dataset.train, dataset.validation, dataset.test))
    return MeasuredReading(seconds, _peak_memory() - before, size / 2**20)


def read_with_keras(pictures: Path) -> float:
    """Return the seconds in which plain Keras reads the same pictures once."""
    import keras

    start = time.perf_counter()
    batches = keras.utils.image_dataset_from_directory(
        pictures, image_size=(SIDE, SIDE), crop_to_aspect_ratio=True, verbose=False
    )
    for _ in batches:
        pass
    return time.perf_counter() - start


def _peak_memory() -> float:
    """Return the peak memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak / 2**20
