"""From a config to a Keras optimizer, and the learning rate of every step."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import pi
from typing import TYPE_CHECKING

import numpy as np

from experiments.config.optimizer_schema import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    OneCycleSchedule,
    OptimizerConfig,
    PiecewiseSchedule,
    ReduceOnPlateauSchedule,
    ScheduleConfig,
    optimizer_arguments,
    optimizer_builder,
)
from experiments.config.schema import Config
from experiments.errors import ConfigError

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


# Its second moments can be 1e-30 * 1e-30; XLA flushes them to zero, and Keras then divides 0 by 0.
NOT_UNDER_XLA = ("adafactor",)


def build_optimizer(config: OptimizerConfig, gradient_clipping: float | None) -> "keras.optimizers.Optimizer":
    """Build the optimizer of a config; `gradient_clipping` is the largest norm of all gradients together, or None."""
    import keras

    known = optimizer_arguments()[config.name]
    arguments = {  # 0 for 0.0 is accepted here, but SGD does not take an int for its momentum
        key: float(value) if isinstance(known[key], float) and value is not None else value
        for key, value in config.arguments.items()
    }
    optimizer: keras.optimizers.Optimizer = optimizer_builder(config.name)(
        learning_rate=config.learning_rate, **arguments
    )
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ConfigError(f"optimizer {config.name} returned {type(optimizer).__name__}; expected a Keras optimizer.")
    if gradient_clipping is not None:
        optimizer.global_clipnorm = gradient_clipping
    return optimizer


def plan_hyperparameters(config: Config, steps_per_epoch: int, epoch: int, plateau_factor: float) -> np.ndarray:
    """Return the hyperparameters of every step of an epoch, for set_hyperparameters.

    They are float32 [steps_per_epoch, 1], the learning rate; with `training.initial_momentum` float32
    [steps_per_epoch, 2], where the second is the momentum as a fraction of its final value.
    """
    training, peak = config.training, config.optimizer.learning_rate * plateau_factor
    columns = [learning_rates(config.schedule, peak, steps_per_epoch, training.epochs, epoch)]
    if training.initial_momentum is not None:
        final = config.optimizer.arguments["momentum"]
        time = epoch - 1 + np.arange(steps_per_epoch) / steps_per_epoch
        rise = np.minimum(time / training.momentum_epochs, 1)
        columns.append((training.initial_momentum + (final - training.initial_momentum) * rise) / final)
    return np.stack(columns, axis=1).astype(np.float32)


def set_hyperparameters(optimizer: "keras.optimizers.Optimizer", planned: "tf.Tensor | np.ndarray") -> None:
    """Set the planned hyperparameters for the optimizer's next step, also in a compiled program."""
    optimizer.learning_rate = planned[0]
    if len(planned.shape) == 1 and planned.shape[0] == 2:
        # Keras's momentum is a constant; scaling the velocities that it multiplies has the same effect.
        for past in optimizer.momentums:
            past.assign(past * planned[1])


@contextmanager
def updates_of_one_replica() -> Iterator[None]:
    """Let Keras's optimizers update the variables of one replica, as on one device, instead of all replicas at once."""
    import keras

    distributed = keras.optimizers.Optimizer.__mro__[1]
    on_one_device = super(distributed, keras.optimizers.Optimizer)
    names = (
        *("_backend_update_step", "_backend_increment_gradient_accumulators", "_apply_weight_decay"),
        "_overwrite_model_variables_with_average_value",
    )
    replaced = {name: getattr(distributed, name) for name in names}
    for name in names:
        setattr(distributed, name, getattr(on_one_device, name))
    try:
        yield
    finally:
        for name, method in replaced.items():
            setattr(distributed, name, method)


def learning_rates(schedule: ScheduleConfig, peak: float, steps_per_epoch: int, epochs: int, epoch: int) -> np.ndarray:
    """Return the learning rate of every step of epoch `epoch`, from 1 on, of `epochs`: float32 [steps_per_epoch]."""
    step = (epoch - 1) * steps_per_epoch + np.arange(steps_per_epoch)
    factor = _schedule_factor(schedule, step, steps_per_epoch * epochs, steps_per_epoch)
    return (peak * np.broadcast_to(factor, steps_per_epoch)).astype(np.float32)


def _schedule_factor(
    schedule: ScheduleConfig, step: np.ndarray, steps: int, steps_per_epoch: int
) -> np.ndarray | float:
    """Return the learning rate as a fraction of its peak at each step."""
    epoch = step / steps_per_epoch
    match schedule:
        case ConstantSchedule() | ReduceOnPlateauSchedule():  # the trainer applies the plateau's factor
            return 1.0
        case ExponentialSchedule():
            decays = epoch / schedule.decay_epochs
            # 0.3 / 0.1 is slightly less than 3, but the third decay is due.
            return schedule.decay_rate ** (np.floor(decays + 1e-9) if schedule.staircase else decays)
        case PiecewiseSchedule():
            return np.array([1.0, *schedule.factors])[np.searchsorted(schedule.boundaries, epoch, side="right")]
        case CosineSchedule():
            warmup = round(schedule.warmup_epochs * steps_per_epoch)
            rise = (step + 1) / max(warmup, 1)
            fall = _half_cosine(1.0, schedule.final_fraction, (step - warmup) / max(steps - 1 - warmup, 1))
            return np.where(step < warmup, rise, fall)
        case OneCycleSchedule():
            top = max(round(schedule.warmup_fraction * steps) - 1, 1)
            rise = _half_cosine(schedule.initial_fraction, 1.0, step / top)
            fall = _half_cosine(1.0, schedule.final_fraction, (step - top) / max(steps - 1 - top, 1))
            return np.where(step < top, rise, fall)


def _half_cosine(start: float, end: float, progress: np.ndarray) -> np.ndarray:
    """Return the value on half a cosine from start to end, for progress from 0 to 1."""
    return end + (start - end) * (1 + np.cos(pi * np.clip(progress, 0, 1))) / 2
