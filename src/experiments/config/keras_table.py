"""What Keras can build by name, as a table that is read without Keras.

`python -m experiments.config.keras_table` makes `keras_table.json` from the installed Keras; a test compares the two.
The table is also the limit of what a config may name: nothing in it runs code supplied by a config.
"""

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

KERAS_TABLE_FILE = Path(__file__).with_name("keras_table.json")

# Arguments that only the pipeline may set (seeds, names, types), or that would load or wrap something.
NOT_CONFIGURABLE = {
    *("self", "name", "seed", "dtype", "kwargs", "learning_rate", "noise_shape", "weights", "vocabulary"),
    *("quantization_config", "lora_rank", "lora_alpha", "gptq_unpacked_column_size", "reverse_dtype"),
}
NOT_AN_ACTIVATION = frozenset({"get", "serialize", "deserialize", "glu"})  # glu halves the units that Dense announces
NOT_AN_OPTIMIZER = frozenset({"Optimizer", "OptimizerMap", "LossScaleOptimizer", "MultiOptimizer"})
EXACT_RANDOM_LAYERS = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")
REFUSED_LAYERS = {  # by the kind of the reason, which keras_checks.py words
    "code": "Lambda JaxLayer FlaxLayer TFSMLayer TorchModuleWrapper",
    "wrapper": "Bidirectional TimeDistributed RNN StackedRNNCells Wrapper SpectralNormalization Pipeline GRUCell"
    " LSTMCell SimpleRNNCell",
    "inputs": "Add Average Concatenate Dot Maximum Minimum Multiply Subtract Attention AdditiveAttention"
    " MultiHeadAttention GroupQueryAttention",
    "text": "StringLookup IntegerLookup TextVectorization Hashing HashedCrossing Discretization CategoryEncoding"
    " MaxNumBoundingBoxes",
    "build": "Equalization",
    "layer": "Layer InputLayer InputSpec",
}


@functools.cache
def keras_table() -> dict[str, dict[str, Any]]:
    """Return the committed table: kind of object ("optimizers", "layers", ...) -> name -> its class and arguments."""
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
        "layers": {
            name: {"arguments": configurable_arguments(cls), "refused": _why_refused(name, cls)}
            for name, cls in _public_classes(keras.layers)
        },
    }


def _public_classes(module: Any) -> list[tuple[str, type]]:
    return [(name, cls) for name, cls in inspect.getmembers(module, inspect.isclass) if not name.startswith("_")]


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
    named = (kind for kind, names in REFUSED_LAYERS.items() if name in names.split())
    return next(named, None if is_exact else "random")


def main() -> None:
    KERAS_TABLE_FILE.write_text(json.dumps(describe_keras(), indent=1, sort_keys=True) + "\n")
    print(f"wrote {KERAS_TABLE_FILE}")


if __name__ == "__main__":
    main()
