"""The tutorial's script in plain Keras, the benchmark's reference: train and evaluate, nothing else.

python scripts/plain_keras.py FOLDER [--epochs 10] [--batch-size 32] [--network mlp]

FOLDER holds MNIST: four IDX files (plain or gzip) or mnist.npz. Prints JSON: the seconds of each epoch, test accuracy.
"""

import argparse
import gzip
import json
import time
from pathlib import Path

import keras
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="FOLDER")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--network", choices=("mlp", "cnn"), default="mlp")
    options = parser.parse_args()

    (x_train, y_train), (x_test, y_test) = load(options.data)
    x_train, x_test = x_train / 255.0, x_test / 255.0
    model = cnn() if options.network == "cnn" else mlp()
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    clock = Clock()
    model.fit(x_train, y_train, epochs=options.epochs, batch_size=options.batch_size, verbose=0, callbacks=[clock])
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(json.dumps({"epoch_seconds": clock.seconds, "test_accuracy": accuracy}))


def mlp() -> keras.Sequential:
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def cnn() -> keras.Sequential:
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Reshape((28, 28, 1)),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


class Clock(keras.callbacks.Callback):
    """Takes the seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def load(place: Path) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(x_train, y_train), (x_test, y_test), as keras.datasets.mnist.load_data returns them."""
    archive = place if place.suffix == ".npz" else place / "mnist.npz"
    if archive.exists():
        with np.load(archive) as arrays:
            return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])
    train = idx(place, "train-images?idx3-ubyte*").reshape(-1, 28, 28), idx(place, "train-labels?idx1-ubyte*")
    test = idx(place, "t10k-images?idx3-ubyte*").reshape(-1, 28, 28), idx(place, "t10k-labels?idx1-ubyte*")
    return train, test


def idx(folder: Path, pattern: str) -> np.ndarray:
    """The bytes of an IDX file after its header, uint8."""
    file = max(folder.glob(pattern))  # the .gz file where there are both
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])


if __name__ == "__main__":
    main()
