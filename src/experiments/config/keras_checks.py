"""The Keras objects that a config may name: layers, activations, initializers and the like, with their arguments.

The checks use the table of keras_table.py and do not load Keras. Anything that cannot be built, compiled or repeated
exactly is refused.
"""

import math
from collections.abc import Callable
from typing import Any

from pydantic_core import PydanticCustomError

from experiments.config.keras_table import EXACT_RANDOM_LAYERS, keras_table
from experiments.errors import did_you_mean, join_sorted

# LeCun's squashing function, 1.7159 tanh(2/3 x); built of stock layers, as Keras has no activation of this name.
SCALED_TANH = "scaled_tanh"
# Functions of all units of a layer together: constant for one unit, so they cannot be drawn as a curve.
LAYER_WIDE_ACTIVATIONS = ("softmax", "log_softmax", "sparsemax")
DROPOUT_RATE_RANGE = "fraction of values set to zero in training, from 0 up to but not including 1"
REFUSALS = {
    "random": "its random numbers depend on the order of calls, so a run could not be repeated exactly; these are exact"
    f" and allowed: {', '.join(EXACT_RANDOM_LAYERS)}",
    "code": "it runs code of its own",
    "wrapper": "it wraps other layers",
    "inputs": "it takes several inputs",
    "text": "it reads text or tables, not images or numbers",
    "build": "Keras cannot build it into a network",
    "layer": "it is not a layer of a network",
}
# Arguments of Resizing and UpSampling2D for which XLA can compile only these values.
XLA_ARGUMENT_CHOICES = {
    "interpolation": ("bilinear", "nearest"),
    "antialias": (False,),
    "pad_to_aspect_ratio": (False,),
}


def refusal(message: str) -> PydanticCustomError:
    """Return a validation error with our own message (pydantic treats braces as placeholders)."""
    return PydanticCustomError("refused", "{message}", {"message": message})


def keras_name_check(kind: str) -> Callable[[str], str]:
    """Return a validator: the name is one that Keras builds, of this kind (a key of keras_table())."""

    def check(name: str) -> str:
        known = [*keras_table()[kind], *([SCALED_TANH] if kind == "activations" else [])]
        if name in known:
            return name
        raise refusal(f"Keras has no {kind[:-1]} {name!r}{did_you_mean(name, known)}; choices: {join_sorted(known)}")

    return check


def keras_object_check(kind: str, *, or_null: bool = False) -> Callable[[Any], Any]:
    """Return a validator: a name, or {name: {argument: value}}, of this kind."""

    def check(value: Any) -> Any:
        if value is None and or_null:
            return value
        name, arguments = split_named(value, kind[:-1])
        keras_name_check(kind)(name)
        check_arguments(f"{kind[:-1]} {name}", arguments, keras_table()[kind][name]["arguments"])
        return value

    return check


def split_named(value: Any, what: str) -> tuple[str, dict[str, Any]]:
    """Split `name` or `{name: {argument: value}}` into name and arguments."""
    if isinstance(value, str):
        return value, {}
    if isinstance(value, dict) and len(value) == 1:
        name, arguments = next(iter(value.items()))
        if isinstance(name, str) and (arguments is None or isinstance(arguments, dict)):
            return name, arguments or {}
    article = "an" if what[0] in "aeiou" else "a"
    form = "a name, or one name with its arguments as {name: {argument: value}}"
    raise refusal(f"{article} {what} is {form}; received {value!r}")


def check_arguments(of: str, given: dict[str, Any], known: dict[str, Any]) -> None:
    """Refuse arguments that `of` does not have, that are missing, or whose type is not that of Keras's default."""
    for name, value in given.items():
        if name not in known:
            raise refusal(f"{of} has no argument {name!r}{did_you_mean(name, known)}; it has: {join_sorted(known)}")
        check_argument(f"{of}: {name}", name, value, known[name])
    missing = [name for name, default in known.items() if default == "required" and name not in given]
    if missing:
        raise refusal(f"{of} needs {join_sorted(missing)}")


def check_argument(where: str, name: str, value: Any, default: Any) -> None:
    for suffix in ("initializer", "regularizer", "constraint", "activation"):
        if name.endswith(suffix) and value is not None:
            check = keras_name_check if suffix == "activation" else keras_object_check
            check(f"{suffix}s")(value)
            return
    if not is_plain_value(value):
        raise refusal(f"{where} takes a finite number, a name or a list of them; received {value!r}")
    if default == "required" or value is None or (isinstance(value, list) and not isinstance(default, bool | str)):
        return
    expected = {bool: "true or false", int: "a number", float: "a number", str: "a name"}
    kind = type(default)
    if kind in expected and expected[kind] != expected.get(type(value)):
        raise refusal(f"{where} takes {expected[kind]}; received {value!r}")


def is_plain_value(value: Any) -> bool:
    """Accept only numbers, names and lists of them: nothing that Keras would turn into an object."""
    if isinstance(value, list):
        return all(is_plain_value(item) for item in value)
    return not isinstance(value, dict) and not (isinstance(value, float) and not math.isfinite(value))


def check_layer(value: Any) -> Any:
    name, arguments = split_named(value, "layer")
    layers = keras_table()["layers"]
    if name not in layers:
        raise refusal(f"Keras has no layer {name!r}{did_you_mean(name, layers)}; see https://keras.io/api/layers")
    if kind := layers[name]["refused"]:
        raise refusal(f"layer {name!r} is refused: {REFUSALS[kind]}")
    check_arguments(f"layer {name}", arguments, layers[name]["arguments"])
    if name in EXACT_RANDOM_LAYERS and not is_rate(arguments["rate"]):
        raise refusal(f"layer {name}: rate={arguments['rate']!r} is not allowed: {DROPOUT_RATE_RANGE}")
    if SCALED_TANH in arguments.values() and "recurrent_initializer" in layers[name]["arguments"]:
        raise refusal(f"layer {name!r} is refused with {SCALED_TANH}, which is made of layers behind it; use tanh")
    if name == "Normalization" and None in (arguments.get("mean"), arguments.get("variance")):
        why = "it is not adapted to the data; or use BatchNormalization"
        raise refusal(f"layer {name!r} needs mean and variance: {why}")
    for argument, choices in XLA_ARGUMENT_CHOICES.items():
        if argument in arguments and arguments[argument] not in choices:
            why = f"XLA cannot compile it; choices: {join_sorted(choices)}"
            raise refusal(f"layer {name}: {argument}={arguments[argument]!r} is refused: {why}")
    if any(map(arguments.get, ("dropout", "recurrent_dropout"))):
        why = "its masks could not be repeated; add a Dropout layer"
        raise refusal(f"layer {name!r} is refused with a dropout rate: {why}")
    return value


def is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
