"""The committed table of what Keras can build, beside the Keras that is installed."""

import json
from typing import Any

import pytest

from experiments.config.keras_table import NOT_CONFIGURABLE, REFUSED_LAYERS, describe_keras, keras_table


def test_the_committed_table_is_that_of_the_installed_keras() -> None:
    assert json.loads(json.dumps(describe_keras())) == keras_table(), "python -m experiments.config.keras_table"


def test_every_default_is_plain_data() -> None:
    def plain(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return all(plain(item) for item in value)
        return value is None or isinstance(value, bool | int | float | str)

    objects = {f"{kind}.{name}": entry for kind, entries in describe_keras().items() for name, entry in entries.items()}
    strange = {
        f"{name}.{argument}": default
        for name, entry in objects.items()
        for argument, default in entry.get("arguments", {}).items()
        if not plain(default)
    }
    assert strange == {}


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("Lambda", "code"),
        ("TorchModuleWrapper", "code"),
        ("GaussianNoise", "random"),
        ("RandomFlip", "random"),
        ("AlphaDropout", "random"),
        ("Bidirectional", "wrapper"),
        ("Concatenate", "inputs"),
        ("TextVectorization", "text"),
        ("InputLayer", "layer"),
    ],
)
def test_layers_that_are_not_plain_and_exact_are_refused_with_the_kind_of_reason(layer: str, reason: str) -> None:
    assert keras_table()["layers"][layer]["refused"] == reason


def test_every_kind_of_reason_has_words() -> None:
    assert {layer["refused"] for layer in keras_table()["layers"].values()} == {None, *REFUSED_LAYERS}


@pytest.mark.parametrize("layer", ["Dense", "Conv2D", "Flatten", "LSTM", "Dropout", "SpatialDropout2D"])
def test_layers_that_can_be_repeated_exactly_are_allowed(layer: str) -> None:
    assert keras_table()["layers"][layer]["refused"] is None


def test_every_layer_that_is_refused_by_name_is_one_of_keras() -> None:
    named = {name for _, names in REFUSED_LAYERS.values() for name in names.split()}
    assert named - set(keras_table()["layers"]) == set()


def test_an_entry_lists_class_arguments_and_defaults() -> None:
    optimizer = keras_table()["optimizers"]["sgd"]
    assert optimizer["class"] == "SGD"
    assert optimizer["arguments"]["momentum"] == 0.0
    assert keras_table()["layers"]["Dropout"]["arguments"] == {"rate": "required"}
    assert keras_table()["regularizers"]["l2"]["arguments"] == {"l2": 0.01}


def test_the_pipelines_own_arguments_are_not_configurable() -> None:
    arguments = {
        argument
        for entries in keras_table().values()
        for entry in entries.values()
        for argument in entry.get("arguments", {})
    }
    assert arguments & NOT_CONFIGURABLE == set()
