"""The default networks in plain Keras, the benchmark's reference: train and evaluate, nothing else.

python scripts/plain_keras.py FILE.npz [--epochs 10] [--batch-size 32] [--network mlp]

FILE.npz holds images as Keras keeps MNIST: x_train, y_train, x_test, y_test. Prints JSON: the seconds of each epoch and
the test accuracy.
"""

import argparse
import json
import time

import keras
import numpy as np
from keras import layers

NETWORKS = {
    "mlp": [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dropout(0.2)],
    "cnn": [
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(2),
        layers.Conv2D(64, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dropout(0.5),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="FILE.npz")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--network", choices=NETWORKS, default="mlp")
    options = parser.parse_args()

    with np.load(options.data) as data:
        x_train, y_train, x_test, y_test = data["x_train"] / 255, data["y_train"], data["x_test"] / 255, data["y_test"]
    output = layers.Dense(10, activation="softmax")
    shape = x_train.shape[1:]
    channels = [layers.Reshape((*shape, 1))] if options.network == "cnn" and len(shape) == 2 else []
    model = keras.Sequential([keras.Input(shape), *channels, *NETWORKS[options.network], output])
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    starts, ends = [], []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: starts.append(time.perf_counter()),
        on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()),
    )
    model.fit(x_train, y_train, epochs=options.epochs, batch_size=options.batch_size, verbose=0, callbacks=[clock])
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    seconds = [end - start for start, end in zip(starts, ends, strict=True)]
    print(json.dumps({"epoch_seconds": seconds, "test_accuracy": accuracy}))


if __name__ == "__main__":
    main()
