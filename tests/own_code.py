"""Folders of code of a user's own, for tests."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.config_store import ConfigStore

from experiments.config import choices, own_code

NETWORKS = '''
from typing import Annotated, Literal

import experiments
import numpy as np
from pydantic import Field


@experiments.dataset
def stripes(*, examples: Annotated[int, Field(ge=30)] = 300, size: int = 8):
    """Pictures of stripes, across or down."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, examples)
    wave = np.sin(np.arange(size))[None, :, None] * np.ones((1, 1, size))
    images = 0.5 + 0.3 * np.concatenate([wave, wave.transpose(0, 2, 1)])[labels]
    images = np.clip(images + 0.1 * draw.standard_normal(images.shape), 0, 1)
    return {"images": images.astype("float32"), "labels": np.array(["across", "down"])[labels]}


@experiments.model
def tiny(
    inputs,
    outputs,
    *,
    width: Annotated[int, Field(ge=1)] = 16,
    rate: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    activation: Literal["relu", "tanh"] = "relu",
):
    """One hidden layer.

    width: units of the hidden layer.
    """
    import keras

    hidden = keras.layers.Dense(width, activation=activation)(keras.layers.Flatten()(inputs))
    return keras.layers.Dense(outputs.units, activation=outputs.activation)(keras.layers.Dropout(rate)(hidden))


@experiments.model
def noisy(inputs, outputs, *, deviation: float = 0.3):
    """Noise of our own behind a hidden layer."""
    import keras
    import tensorflow as tf

    @keras.saving.register_keras_serializable("tests")
    class Noise(keras.layers.Layer):
        def __init__(self, deviation, **rest):
            super().__init__(**rest)
            self.deviation = deviation

        def call(self, inputs, training=False):
            if not training:
                return inputs
            return inputs + self.deviation * (experiments.random(tf.shape(inputs)[0], inputs.shape[1]) - 0.5)

        def get_config(self):
            return {**super().get_config(), "deviation": self.deviation}

    hidden = keras.layers.Dense(16, activation="relu")(keras.layers.Flatten()(inputs))
    return keras.layers.Dense(outputs.units, activation=outputs.activation)(Noise(deviation)(hidden))


@experiments.optimizer
def ngd(learning_rate=0.05, *, epsilon: Annotated[float, Field(gt=0)] = 1e-7):
    """Gradient descent with every gradient scaled to length 1."""
    import keras

    class NormalizedGradientDescent(keras.optimizers.Optimizer):
        def update_step(self, gradient, variable, learning_rate):
            self.assign_sub(variable, learning_rate * gradient / (keras.ops.norm(gradient) + epsilon))

    return NormalizedGradientDescent(learning_rate, name="ngd")


@experiments.figure
def confidence(results):
    """How confident the model is."""
    from matplotlib.figure import Figure

    page = Figure()
    page.subplots().hist(results.test.outputs.max(1))
    return page
'''


def write_own_code(folder: Path, **files: str) -> Path:
    """Write Python files (`networks` for networks.py), by default NETWORKS, and return their folder."""
    folder.mkdir(exist_ok=True)
    for name, text in (files or {"networks": NETWORKS}).items():
        (folder / f"{name}.py").write_text(text)
    return folder


@contextmanager
def loaded(folder: Path) -> Iterator[None]:
    """Load the code in a folder, and forget it afterwards."""
    modules, path = set(sys.modules), list(sys.path)
    try:
        own_code.load_own_code(str(folder))
        yield
    finally:
        for group in choices.OWN_KINDS:
            for name in choices.own_choices(group):
                ConfigStore.instance().repo.get(group, {}).pop(f"{name}.yaml", None)
        own_code.forget_own_code()
        choices.choice_values.cache_clear()
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).parent == folder:
                del sys.modules[name]
