"""The name of a run and its differences from the defaults."""

import pytest
import yaml

from experiments.config.choices import CONFIG_FOLDER, group_names
from experiments.config.composition import compose_job
from experiments.reports.differences import differences_from_defaults, run_name


def config(*overrides):
    return compose_job(list(overrides))


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "mlp mnist"),
        (["model.dropout=0.3"], "dropout=0.3"),
        (["model=cnn", "training.epochs=3", "seed=7"], "cnn epochs=3 seed=7"),
        (["experiment=single_neuron"], "single_neuron"),
        (["data=digits", "+data.path=x", "tracking.experiment=a", "report.figures=none"], "digits"),
        (["model.units=[64,32]"], "units=[64,32]"),
        (["model.dropout=0.1", "seed=1", "model.dropout=0.2"], "dropout=0.2 seed=1"),
        (["model.units.0=64"], "units.0=64"),
        (["tracking.uri=sqlite:///x.db"], "mlp mnist"),
    ],
)
def test_run_is_named_by_its_overrides(overrides, name):
    assert run_name(config(), overrides) == name


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], []),
        (["model.dropout=0.3", "seed=1"], ["seed: 0 -> 1", "model.dropout: 0.2 -> 0.3"]),
        (["model.dropout=0.2"], []),
        (["data=digits"], ["data: mnist -> digits"]),
        (["data=digits", "data.validation=100"], ["data: mnist -> digits", "data.validation: 150 -> 100"]),
        (["model.units=[64, 32]"], ["model.units: [128] -> [64, 32]"]),
        (["model=cnn"], ["model: mlp -> cnn"]),
        (["optimizer=sgd", "optimizer.momentum=0.9"], ["optimizer: adam -> sgd", "optimizer.momentum: 0.0 -> 0.9"]),
        (["training.threads=7"], ["training.threads: 1 -> 7"]),
        (["experiment=walkthrough"], ["data.validation: 5000 -> 0"]),
        (["tracking.experiment=x", "tracking.log_model=false", "report.style=dark", "data.path=/x"], []),
        (
            ["experiment=single_neuron"],
            [
                "data: mnist -> linear",
                "model: mlp -> neuron",
                "training.epochs: 10 -> 50",
                "training.loss: sparse_categorical_crossentropy -> mean_squared_error",
            ],
        ),
    ],
)
def test_differences_are_from_the_defaults_of_each_choice(overrides, expected):
    assert differences_from_defaults(config(*overrides)) == expected


def test_long_value_is_shortened():
    (difference,) = differences_from_defaults(config("data.checksums=null"))
    assert len(difference) < 100
    assert difference.endswith("… -> null")


def test_every_choice_is_named_after_its_file():
    for group in set(group_names()) & {"data", "model", "optimizer", "schedule"}:
        for file in (CONFIG_FOLDER / group).glob("*.yaml"):
            assert yaml.safe_load(file.read_text())["name"] == file.stem
