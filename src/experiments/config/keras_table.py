"""What Keras can build by name, as a table that is read without Keras, and the checks of what a config names.

`python -m experiments.config.keras_table` makes `keras_table.json` from the installed Keras; a test compares the two.
The table is also the limit of what a config may name: nothing in it runs code supplied by a config, and anything that
cannot be built, compiled or repeated exactly is refused.
"""

import functools
import inspect
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic_core import PydanticCustomError

from experiments.errors import did_you_mean, join_sorted

KERAS_TABLE_FILE = Path(__file__).with_name("keras_table.json")

# Arguments that only the pipeline may set (seeds, names, types), or that would load or wrap something.
NOT_CONFIGURABLE = {
    *("self", "name", "seed", "dtype", "kwargs", "learning_rate", "noise_shape", "weights", "vocabulary"),
    *("quantization_config", "lora_rank", "lora_alpha", "gptq_unpacked_column_size", "reverse_dtype"),
}
NOT_OF_A_LOSS = ("axis", "reduction", "from_logits", "label_smoothing", "ignore_class")  # follow from the rest
NOT_AN_ACTIVATION = frozenset({"get", "serialize", "deserialize", "glu"})  # glu halves the units that Dense announces
NOT_AN_OPTIMIZER = frozenset({"Optimizer", "OptimizerMap", "LossScaleOptimizer", "MultiOptimizer"})
EXACT_RANDOM_LAYERS = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")
# Arguments of keras.applications that the pipeline sets, or that only concern the head, which it replaces.
SET_OF_APPLICATIONS = (
    *("include_top", "input_tensor", "input_shape", "pooling", "classes", "classifier_activation"),
    *("include_preprocessing", "dropout", "dropout_rate"),
)
REFUSED_LAYERS = {  # by kind: the reason, and the layers that are refused by name for it
    "code": ("it runs code of its own", "Lambda JaxLayer FlaxLayer TFSMLayer TorchModuleWrapper"),
    "wrapper": (
        "it wraps other layers",
        "Bidirectional TimeDistributed RNN StackedRNNCells Wrapper SpectralNormalization Pipeline GRUCell LSTMCell"
        " SimpleRNNCell",
    ),
    "inputs": (
        "it takes several inputs",
        "Add Average Concatenate Dot Maximum Minimum Multiply Subtract Attention AdditiveAttention MultiHeadAttention"
        " GroupQueryAttention",
    ),
    "text": (
        "it reads text or tables, not images or numbers",
        "StringLookup IntegerLookup TextVectorization Hashing HashedCrossing Discretization CategoryEncoding"
        " MaxNumBoundingBoxes",
    ),
    "build": ("Keras cannot build it into a network", "Equalization"),
    "layer": ("it is not a layer of a network", "Layer InputLayer InputSpec"),
    "random": (
        "its random numbers depend on the order of calls, so a run could not be repeated exactly; these are exact and"
        f" allowed: {', '.join(EXACT_RANDOM_LAYERS)}",
        "",
    ),
}

# LeCun's squashing function, 1.7159 tanh(2/3 x); built of stock layers, as Keras has no activation of this name.
SCALED_TANH = "scaled_tanh"
RESIDUAL = "Residual"  # of model=layers: layers whose input is added to their output
# Functions of all units of a layer together: constant for one unit, so they cannot be drawn as a curve.
LAYER_WIDE_ACTIVATIONS = ("softmax", "log_softmax", "sparsemax")
DROPOUT_RATE_RANGE = "fraction of values set to zero in training, from 0 up to but not including 1"
# Arguments of Resizing and UpSampling2D for which XLA can compile only these values.
XLA_CHOICES = {"interpolation": ("bilinear", "nearest"), "antialias": (False,), "pad_to_aspect_ratio": (False,)}

# The kind of an argument is that of its default. Of those without one, or with null, these are not a single number.
NAME_ARGUMENTS = {"equation", "bias_axes", "data_format"}
LIST_ARGUMENTS = {
    *("axis", "input_axes", "output_axes", "shared_axes", "dims", "target_shape", "output_shape", "output_size"),
    *("kernel_size", "pool_size", "size", "strides", "dilation_rate", "padding", "output_padding", "cropping"),
    *("tile_grid_size", "value_range", "mean", "variance", "scale", "offset"),
}


@functools.cache
def keras_table() -> dict[str, dict[str, Any]]:
    """Return the committed table: kind of object ("optimizers", "losses", ...) -> name -> its class and arguments."""
    contents: dict[str, dict[str, Any]] = json.loads(KERAS_TABLE_FILE.read_text())
    return contents


def describe_keras() -> dict[str, dict[str, Any]]:
    """Make the same table from the Keras that is installed (imports Keras)."""
    import keras

    return {
        "optimizers": {
            name.lower(): {"class": name, "arguments": configurable_arguments(cls)}
            for name, cls in _public_classes(keras.optimizers)
            if name not in NOT_AN_OPTIMIZER
        },
        "activations": {
            name: {}
            for name, function in inspect.getmembers(keras.activations, inspect.isfunction)
            if name not in NOT_AN_ACTIVATION and list(configurable_arguments(function).values()).count("required") == 1
        },
        **{
            kind: {
                name: {"arguments": configurable_arguments(cls)}
                for name, cls in _public_classes(getattr(keras, kind))
                if name.islower()
            }
            for kind in ("initializers", "regularizers", "constraints")
        },
        "losses": {name: {"arguments": _loss_arguments(cls)} for name, cls in _losses(keras.losses)},
        "layers": {
            name: {"arguments": configurable_arguments(cls), "refused": _why_refused(name, cls)}
            for name, cls in _public_classes(keras.layers)
        },
        "applications": {
            name: {"arguments": _application_arguments(function), "smallest": _smallest_image(function)}
            for name, function in inspect.getmembers(keras.applications, inspect.isfunction)
        },
    }


def _application_arguments(function: Callable[..., Any]) -> dict[str, Any]:
    arguments = configurable_arguments(function)
    return {name: default for name, default in arguments.items() if name not in SET_OF_APPLICATIONS}


def _smallest_image(function: Callable[..., Any]) -> int:
    """Return the least height and width, in pixels, that an application takes, as its source states it."""
    stated = re.findall(r"min_size=(\d+)", inspect.getsource(inspect.getmodule(function) or function))
    return int(stated[0]) if stated else 32


def _public_classes(module: Any) -> list[tuple[str, type]]:
    return [(name, cls) for name, cls in inspect.getmembers(module, inspect.isclass) if not name.startswith("_")]


def _losses(module: Any) -> list[tuple[str, type]]:
    """Return the losses by the names of their functions: `log_cosh` for LogCosh."""
    functions = {name.replace("_", ""): name for name, _ in inspect.getmembers(module, inspect.isfunction)}
    return sorted((functions[n.lower()], cls) for n, cls in _public_classes(module) if n.lower() in functions)


def _loss_arguments(cls: type) -> dict[str, Any]:
    return {name: value for name, value in configurable_arguments(cls).items() if name not in NOT_OF_A_LOSS}


def configurable_arguments(function: Callable[..., Any]) -> dict[str, Any]:
    """Argument -> default as JSON; an argument that must be given has the default "required"."""
    return {
        p.name: "required" if p.default is p.empty else p.default
        for p in inspect.signature(function).parameters.values()
        if p.name not in NOT_CONFIGURABLE and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


def _why_refused(name: str, cls: type) -> str | None:
    arguments = inspect.signature(cls).parameters
    # Recurrent layers, which have a rate `dropout`, are exact while it is 0.
    is_exact = name in EXACT_RANDOM_LAYERS or "seed" not in arguments or "dropout" in arguments
    named = (kind for kind, (_, names) in REFUSED_LAYERS.items() if name in names.split())
    return next(named, None if is_exact else "random")


def refusal(message: str) -> PydanticCustomError:
    """Return a validation error with our own message (pydantic treats braces as placeholders)."""
    return PydanticCustomError("refused", "{message}", {"message": message})


def keras_name_check(kind: str) -> Callable[[Any], str]:
    """Return a validator: the name is one that Keras builds, of this kind (a key of keras_table())."""

    def check(name: Any) -> str:
        if not isinstance(name, str):
            raise refusal(f"expected the name of one of Keras's {kind}; received {name!r}")
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
    if value is None and default != "required" and not isinstance(default, bool):
        return
    if isinstance(default, bool):
        expected, fits = "true or false", isinstance(value, bool)
    elif name in NAME_ARGUMENTS or (isinstance(default, str) and default != "required"):
        expected, fits = "a name", isinstance(value, str)
    elif name == "exclude_layers":
        expected, fits = "a list of names", isinstance(value, list) and all(isinstance(item, str) for item in value)
    elif name in LIST_ARGUMENTS:
        expected, fits = "a number or a list of numbers", _is_number_or_list(value)
    else:
        expected, fits = "a number", type(value) in (int, float)
    if not fits:
        raise refusal(f"{where} takes {expected}; received {value!r}")


def _is_number_or_list(value: Any) -> bool:
    if isinstance(value, list):  # in which null may stand for any size
        return all(item is None or _is_number_or_list(item) for item in value)
    return type(value) in (int, float)


def is_plain_value(value: Any) -> bool:
    """Accept only numbers, names and lists of them: nothing that Keras would turn into an object."""
    if isinstance(value, list):
        return all(is_plain_value(item) for item in value)
    return not isinstance(value, dict) and not (isinstance(value, float) and not math.isfinite(value))


def residual_layers(value: Any) -> list[Any] | None:
    """Return the layers of `{Residual: [layers]}`, whose input is added to their output; None for another layer."""
    if value == RESIDUAL or (isinstance(value, dict) and list(value) == [RESIDUAL]):
        layers = value[RESIDUAL] if isinstance(value, dict) else None
        if isinstance(layers, list) and layers:
            return layers
        raise refusal(f"{RESIDUAL} takes a list of layers, at least one: {{{RESIDUAL}: [layers]}}; received {value!r}")
    return None


def check_layer(value: Any) -> Any:
    if block := residual_layers(value):
        for layer in block:
            check_layer(layer)
        return value
    name, arguments = split_named(value, "layer")
    layers = keras_table()["layers"]
    if name not in layers:
        suggestion = did_you_mean(name, [*layers, RESIDUAL])
        raise refusal(f"Keras has no layer {name!r}{suggestion}; see https://keras.io/api/layers")
    if kind := layers[name]["refused"]:
        raise refusal(f"layer {name!r} is refused: {REFUSED_LAYERS[kind][0]}")
    check_arguments(f"layer {name}", arguments, layers[name]["arguments"])
    rate: Any = arguments.get("rate")
    if name in EXACT_RANDOM_LAYERS and not (type(rate) in (int, float) and 0 <= rate < 1):
        raise refusal(f"layer {name}: rate={rate!r} is not allowed: {DROPOUT_RATE_RANGE}")
    if SCALED_TANH in arguments.values() and "recurrent_initializer" in layers[name]["arguments"]:
        raise refusal(f"layer {name!r} is refused with {SCALED_TANH}, which is made of layers behind it; use tanh")
    if name == "Normalization" and None in (arguments.get("mean"), arguments.get("variance")):
        why = "it is not adapted to the data; or use BatchNormalization"
        raise refusal(f"layer {name!r} needs mean and variance: {why}")
    for argument, choices in XLA_CHOICES.items():
        if argument in arguments and arguments[argument] not in choices:
            why = f"XLA cannot compile it; choices: {join_sorted(choices)}"
            raise refusal(f"layer {name}: {argument}={arguments[argument]!r} is refused: {why}")
    if any(map(arguments.get, ("dropout", "recurrent_dropout"))):
        why = "its masks could not be repeated; add a Dropout layer"
        raise refusal(f"layer {name!r} is refused with a dropout rate: {why}")
    return value


if __name__ == "__main__":
    KERAS_TABLE_FILE.write_text(json.dumps(describe_keras(), indent=1, sort_keys=True) + "\n")
    print(f"wrote {KERAS_TABLE_FILE}")
