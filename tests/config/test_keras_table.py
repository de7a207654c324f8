"""The committed table of what Keras can build, beside the Keras that is installed."""

import json
from typing import Any

import pytest
from pydantic_core import PydanticCustomError

from experiments.config.keras_table import (
    LIST_ARGUMENTS,
    NAME_ARGUMENTS,
    NOT_CONFIGURABLE,
    REFUSED_LAYERS,
    check_arguments,
    describe_keras,
    keras_table,
)

ALLOWED = {
    f"{kind} {name} {argument}": (argument, default)
    for kind, entries in keras_table().items()
    for name, entry in entries.items()
    for argument, default in entry.get("arguments", {}).items()
    if not entry.get("refused")
}


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


def test_every_default_is_of_the_kind_that_its_argument_takes() -> None:
    for of, (argument, default) in ALLOWED.items():
        if default != "required" and not argument.endswith("initializer"):  # by names of earlier versions
            check_arguments(of, {argument: default}, {argument: default})
    assert {argument for argument, _ in ALLOWED.values()} >= LIST_ARGUMENTS | NAME_ARGUMENTS


@pytest.mark.parametrize("value", [True, [True, True], {"value": 1}])
def test_what_is_not_a_number_or_a_name_is_no_argument(value: Any) -> None:
    for of, (argument, default) in ALLOWED.items():
        if isinstance(default, bool) and value is True:
            continue
        with pytest.raises(PydanticCustomError):
            check_arguments(of, {argument: value}, {argument: default})
