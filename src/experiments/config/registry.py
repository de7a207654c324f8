"""The functions of the user's own code, by kind and name, as the decorators that `experiments` exports have noted them.

A name in the config picks a function; the other keys of its choice are the function's keyword arguments.
"""

import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from experiments.errors import ConfigError
from experiments.formatting import plural

Function = TypeVar("Function", bound=Callable[..., Any])
Direction = Literal["max", "min"]

# What the pipeline gives a function of each kind, by position.
GIVEN = {
    "model": ("inputs", "outputs"),
    "dataset": (),
    "optimizer": ("learning_rate",),
    "metric": ("targets", "outputs"),
    "figure": ("results",),
    "loss": ("targets", "outputs"),
    "augmentation": ("images",),
}
WITHOUT_KEYS = ("metric", "figure")  # the config only names them
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class OwnFunction:
    """A function of the user's own code."""

    kind: str  # a key of GIVEN
    function: Callable[..., Any]
    direction: Direction = "max"  # of a metric: whether the greatest or the least value is best

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def meaning(self) -> str:
        """The first line of its docstring, without the full stop."""
        return (inspect.getdoc(self.function) or self.name).splitlines()[0].rstrip(".")

    @property
    def file(self) -> str:
        return self.function.__code__.co_filename

    @property
    def keys(self) -> list[inspect.Parameter]:
        """The parameters that are keys of the config: those that are given by keyword only."""
        return [p for p in inspect.signature(self.function).parameters.values() if p.kind == p.KEYWORD_ONLY]


_own_functions: dict[str, dict[str, OwnFunction]] = {kind: {} for kind in GIVEN}


def own_functions(kind: str) -> dict[str, OwnFunction]:
    """Return the functions of the user's own code of this kind (a key of GIVEN), by name."""
    return _own_functions[kind]


def model(function: Function) -> Function:
    """Offer a function as `model=NAME`: from inputs, a Keras tensor, and an OutputLayer to the output, a Keras tensor.

    Its keyword-only arguments are the keys of the config.
    """
    return _register("model", function)


def dataset(function: Function) -> Function:
    """Offer a function as `data=NAME`: it returns NumPy arrays by the names x_train, y_train, x_test and y_test, or
    images and labels.

    Its keyword-only arguments are the keys of the config.
    """
    return _register("dataset", function)


def optimizer(function: Function) -> Function:
    """Offer a function as `optimizer=NAME`: from a learning rate to a Keras optimizer.

    Its keyword-only arguments are the keys of the config.
    """
    return _register("optimizer", function)


def metric(*given: Any, direction: Direction | None = None) -> Callable[[Function], Function]:
    """Offer a function as `metrics=[NAME]`: from targets [n] and outputs [n, classes] of a split, NumPy, to a number.

    `direction` is "max" if more is better, "min" if less is.
    """
    if given or direction not in ("max", "min"):
        raise ConfigError('A metric has a direction. Write @experiments.metric(direction="max") or "min".')
    return lambda function: _register("metric", function, direction)


def figure(function: Function) -> Function:
    """Draw a further figure of every run: from its Results to a Matplotlib figure."""
    return _register("figure", function)


def loss(function: Function) -> Function:
    """Offer a function as `training.loss=NAME`: from targets [batch] and outputs [batch, classes], TensorFlow's, to the
    loss of each example, [batch].

    Its keyword-only arguments are those of `training.loss={NAME: {ARGUMENT: VALUE}}`.
    """
    return _register("loss", function)


def augmentation(function: Function) -> Function:
    """Offer a function as `data.augmentation.own=[NAME]`: from training images, float32 [batch, ...], to changed ones.

    It draws its random numbers with `experiments.random`. Its keyword-only arguments are those of
    `{NAME: {ARGUMENT: VALUE}}`.
    """
    return _register("augmentation", function)


def _register(kind: str, function: Function, direction: Direction = "max") -> Function:
    if not inspect.isfunction(function):
        raise ConfigError(f"@experiments.{kind} is for functions, not for {function!r}.")
    own = OwnFunction(kind, function, direction)
    where, given = f"{own.file}: {own.name}", GIVEN[kind]
    parameters = inspect.signature(function).parameters.values()
    taken = [parameter.name for parameter in parameters if parameter.kind in POSITIONAL]
    if not own.name.isidentifier():
        raise ConfigError(f"{where}: a function without a name cannot be chosen. Write it with def.")
    variadic = any(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in parameters)
    if len(taken) != len(given) or variadic or (own.keys and kind in WITHOUT_KEYS):
        keys = [] if kind in WITHOUT_KEYS else ["*", "key: type = default"]
        none_else = " and no others" if kind in WITHOUT_KEYS else ""
        form = f"{own.name}({', '.join([*given, *keys])})"
        raise ConfigError(f"{where} must take {plural(len(given), 'argument')} by position{none_else}: write {form}.")
    if earlier := _own_functions[kind].get(own.name):
        raise ConfigError(f"{where} has the name of another {kind}, in {earlier.file}. Rename one.")
    _own_functions[kind][own.name] = own
    return function


class CurrentDraw(threading.local):
    """What `random` draws from, set by the training loop; per thread, as each replica is traced in its own thread."""

    uniform: Callable[[Any, tuple[int, ...]], Any] | None = None


current_draw = CurrentDraw()


def random(rows: Any, *shape: int) -> Any:
    """Draw uniform random numbers in a layer or an augmentation: a tensor, float32 [rows, *shape], in [0, 1).

    They are a function of the seed, epoch, step and row, so that a run can be repeated and resumed to the last bit,
    on any number of devices. `rows` is the number of examples, `tf.shape(inputs)[0]`. Only training draws: raise a
    RuntimeError elsewhere.
    """
    if current_draw.uniform is None:
        raise RuntimeError("experiments.random draws in training only: call it where `training` is true.")
    return current_draw.uniform(rows, shape)
