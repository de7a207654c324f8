"""Optimizers that Keras lacks: a function each, whose arguments beside the learning rate are the config's keys."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def signsgd(learning_rate: float) -> "keras.optimizers.Optimizer":
    """Steps of one size against the sign of the gradient (Bernstein et al. 2018, arXiv:1802.04434, algorithm 1)."""
    import keras

    class SignSGD(keras.optimizers.Optimizer):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            self.assign_sub(variable, learning_rate * keras.ops.sign(gradient))

    return SignSGD(learning_rate, name="signsgd")


EXTRA_OPTIMIZERS: dict[str, Callable[..., "keras.optimizers.Optimizer"]] = {"signsgd": signsgd}


def extra_optimizer_arguments() -> dict[str, dict[str, Any]]:
    """By name of the optimizer: its arguments and their defaults, "required" where there is none."""
    return {
        name: {
            key: "required" if parameter.default is parameter.empty else parameter.default
            for key, parameter in inspect.signature(function).parameters.items()
            if key != "learning_rate"
        }
        for name, function in EXTRA_OPTIMIZERS.items()
    }
