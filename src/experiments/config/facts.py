"""What follows from a config: counts, shapes, metrics and the objective."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

from experiments.config.data_schema import DataConfig, ImageData, LinearData
from experiments.config.keras_table import split_named
from experiments.config.losses import BINARY_LOSSES, PROBABILITY_LOSSES
from experiments.config.metrics import RUN_METRICS, Mode, Task, higher_is_better, metric_names
from experiments.config.model_schema import MlpConfig, NeuronConfig
from experiments.config.schema import Config
from experiments.errors import ConfigError, did_you_mean, join_sorted
from experiments.runtime import expand_home

LARGE_NETWORK = 1_000_000  # weights; in smaller networks a second thread within an operation costs more than it gains


def count_training_examples(config: Config) -> int:
    """Return the number of training examples: the official training split, cut to `limit`, minus validation."""
    data = config.data
    available = min(data.limit or data.train_examples, data.train_examples)
    if data.folds is None or data.fold is None:
        return available - data.validation
    return available - available // data.folds - (data.fold < available % data.folds)


def network_input_shape(data: DataConfig) -> list[int]:
    """Return the shape of one input as the layers of the network receive it: with `data.padding`."""
    if isinstance(data, LinearData) or len(data.shape) == 1:
        return data.shape
    height, width, *channels = data.shape
    return [height + 2 * data.padding, width + 2 * data.padding, *channels]


def initial_weights_file(config: Config) -> Path | None:
    """Return the file that `model.weights` names, None for a run's id or null; raise a ConfigError if there is none."""
    if config.model.weights is None or "." not in config.model.weights:
        return None
    file = expand_home("model.weights", config.model.weights)
    if not file.is_file():
        raise ConfigError(f"model.weights={config.model.weights}: there is no such file. Correct the path.")
    return file


@dataclass(frozen=True)
class OutputLayer:
    """What the last layer of a network must be."""

    units: int  # one per class, or 1
    activation: str  # a name in Keras


def output_layer(config: Config) -> OutputLayer:
    """Return the output layer that data and loss need: class probabilities, one probability, or a number."""
    if isinstance(config.data, LinearData):
        return OutputLayer(1, "linear")
    if is_binary(config):
        return OutputLayer(1, "sigmoid")
    return OutputLayer(config.data.classes, "softmax")


def loss_name(config: Config) -> str:
    return split_named(config.training.loss, "loss")[0]


def is_binary(config: Config) -> bool:
    """Return whether the network has one output: the probability of the second of two classes."""
    return loss_name(config) in BINARY_LOSSES


def gives_probabilities(config: Config) -> bool:
    """Return whether the outputs for the classes are their probabilities, which only some losses make them."""
    return loss_name(config) in PROBABILITY_LOSSES


def named_class_weights(data: ImageData, weights: Mapping[str, float]) -> list[tuple[int, float]]:
    """Return the numbers of the classes that `training.class_weight` names, or numbers, and their weights.

    Raise a ConfigError if there is no such class.
    """
    found = []
    for key, weight in weights.items():
        number = data.class_names.index(key) if key in data.class_names else int(key) if key.isdecimal() else -1
        if not 0 <= number < data.classes:
            names = join_sorted(data.class_names) if len(data.class_names) <= 20 else "data.class_names"
            raise ConfigError(
                f"training.class_weight: data={data.name} has no class {key!r}{did_you_mean(key, data.class_names)}."
                f" Choices: {names}, or the numbers 0 to {data.classes - 1}"
            )
        found.append((number, weight))
    return found


def task_of(config: Config) -> Task:
    return "numbers" if isinstance(config.data, LinearData) else "classes"


def epoch_metric_names(config: Config) -> list[str]:
    """Return the names of the metrics that measure the model after each epoch."""
    return _measured_names(config, "", "val_")


def final_metric_names(config: Config) -> list[str]:
    """Return the names of the metrics that measure the model at the end of a run."""
    return _measured_names(config, "test_", "best_val_")


def _measured_names(config: Config, prefix: str, prefix_with_validation: str) -> list[str]:
    prefixes = [prefix, *([prefix_with_validation] if config.data.validation else [])]
    return metric_names(*prefixes, task=task_of(config), chosen=config.metrics)


def objective_metric_names(config: Config) -> list[str]:
    """Return the names of the metrics by which runs of this config can be ranked."""
    costs = [metric.name for metric in RUN_METRICS if metric.direction]
    return [*epoch_metric_names(config), *final_metric_names(config), *costs]


def objective_of(config: Config) -> tuple[str, Mode]:
    """Return the metric that ranks runs of this config, and whether its greatest or least value is best."""
    metric, mode = config.objective.metric, config.objective.mode
    if metric == "auto":
        first = metric_names("test_", task=task_of(config), ranked_only=True)[0].removeprefix("test_")
        forms = [prefix + first for prefix in ("best_val_", "val_", "test_")]
        metric = next(name for name in forms if name in objective_metric_names(config))
    return metric, mode if mode != "auto" else "max" if higher_is_better(metric) else "min"


def estimate_weights(config: Config) -> float:
    """Estimate the number of weights; infinite where only Keras knows it, and for convolutions."""
    match config.model:
        case MlpConfig():
            sizes = [prod(network_input_shape(config.data)), *config.model.units, output_layer(config).units]
            return sum(a * b for a, b in pairwise(sizes))
        case NeuronConfig():
            return prod(config.data.shape) + 1
    return float("inf")  # convolutions gain from all cores at any size


def available_cores() -> int:
    """Return how many cores this process may use; a scheduler such as Slurm may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none
