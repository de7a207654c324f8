"""Small data of a user's own: a folder of pictures of three classes, and the same kind of images in an npz file."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 60, 40)}
EACH = 40  # pictures of a class


def _noisy(colour: tuple[int, int, int], generator: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return (np.array(colour) + generator.normal(0, 40, (*size, 3))).clip(0, 255).astype(np.uint8)


@cache
def own_pictures() -> Path:
    """Pictures of several sizes and formats, in a folder for each of COLOURS."""
    folder, generator = Path(mkdtemp(prefix="own-pictures-")), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for number in range(EACH):
            size = (20 + number % 7, 20 + number % 5)
            suffix = ("png", "jpg", "webp", "bmp")[number % 4]
            Image.fromarray(_noisy(colour, generator, size)).save(folder / name / f"{number:02}.{suffix}")
    return folder


@cache
def own_arrays() -> Path:
    """Images of 8 x 8 pixels with their classes as texts."""
    file, generator = Path(mkdtemp(prefix="own-arrays-"), "own.npz"), np.random.default_rng(0)
    images = [_noisy(colour, generator, (8, 8)) for colour in COLOURS.values() for _ in range(EACH)]
    np.savez(file, images=np.stack(images), labels=np.repeat(list(COLOURS), EACH))
    return file
