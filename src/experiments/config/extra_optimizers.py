"""Optimizers that Keras lacks: one function each, whose arguments besides the learning rate are the config's keys."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def signsgd(learning_rate: float) -> "keras.optimizers.Optimizer":
    """Take steps of one size against the gradient's sign (Bernstein et al. 2018, arXiv:1802.04434, algorithm 1)."""
    import keras

    class SignSGD(keras.optimizers.Optimizer):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            self.assign_sub(variable, learning_rate * keras.ops.sign(gradient))

    return SignSGD(learning_rate, name="signsgd")


EXTRA_OPTIMIZERS: dict[str, Callable[..., "keras.optimizers.Optimizer"]] = {"signsgd": signsgd}
