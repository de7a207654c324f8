"""What follows from a config: counts, shapes, metrics and the objective."""

import os
from itertools import pairwise
from math import prod
from typing import Literal

from experiments.config.data_schema import DataConfig, LinearData
from experiments.config.metrics import higher_is_better
from experiments.config.model_schema import MlpConfig, NeuronConfig
from experiments.config.schema import Config

LARGE_NETWORK = 1_000_000  # weights; below, a second thread within an operation costs more than it gains


def count_training_examples(config: Config) -> int:
    """Examples that are trained on: the official training split, limited, less validation."""
    data = config.data
    return min(data.limit or data.train_examples, data.train_examples) - data.validation


def network_input_shape(data: DataConfig) -> list[int]:
    """The shape of one input as the layers of the network receive it: with `data.padding`."""
    if isinstance(data, LinearData):
        return data.shape
    height, width, *channels = data.shape
    return [height + 2 * data.padding, width + 2 * data.padding, *channels]


def epoch_metric_names(config: Config) -> list[str]:
    """The names of what tells after each epoch how good the model is."""
    names = ["loss", quality_metric(config)]
    return names + ([f"val_{name}" for name in names] if config.data.validation else [])


def quality_metric(config: Config) -> str:
    return "mean_absolute_error" if isinstance(config.data, LinearData) else "accuracy"


def final_metric_names(config: Config) -> list[str]:
    quality = quality_metric(config)
    names = ["test_loss", f"test_{quality}"] + [f"best_val_{quality}"] * bool(config.data.validation)
    return names + ["test_error_percent"] * (quality == "accuracy")


def objective_of(config: Config) -> tuple[str, Literal["max", "min"]]:
    """The metric that ranks runs of this config, and whether its greatest or least value is best."""
    metric, mode = config.objective.metric, config.objective.mode
    if metric == "auto":
        classes = not isinstance(config.data, LinearData)
        validated, tested = ("best_val_accuracy", "test_accuracy") if classes else ("val_loss", "test_loss")
        metric = validated if config.data.validation else tested
    return metric, mode if mode != "auto" else "max" if higher_is_better(metric) else "min"


def estimate_weights(config: Config) -> float:
    """About how many weights the network has; infinite where only Keras could tell, and for convolutions."""
    match config.model:
        case MlpConfig():
            outputs = 1 if isinstance(config.data, LinearData) else config.data.classes
            sizes = [prod(network_input_shape(config.data)), *config.model.units, outputs]
            return sum(a * b for a, b in pairwise(sizes))
        case NeuronConfig():
            return prod(config.data.shape) + 1
        case _:
            return float("inf")  # convolutions gain from all cores at any size


def available_cores() -> int:
    """How many cores this process may use, which a scheduler such as Slurm can have made fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
