"""The learning rate of every step, and the optimizer files compared with Keras's defaults."""

import inspect
from math import cos, pi, sqrt
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import PROJECT
from pydantic import ValidationError
from train_once import train

from experiments.config.extra_optimizers import EXTRA_OPTIMIZERS
from experiments.config.keras_table import keras_table
from experiments.config.optimizer_schema import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    OneCycleSchedule,
    OptimizerConfig,
    PiecewiseSchedule,
)
from experiments.training.optimizers import build_optimizer, learning_rates

CONF = PROJECT / "conf" / "optimizer"
FILES = sorted(file.stem for file in CONF.glob("*.yaml"))


def shipped(name: str) -> dict[str, Any]:
    contents: dict[str, Any] = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    return contents


def all_rates(schedule: Any, peak: float, steps_per_epoch: int, epochs: int) -> np.ndarray:
    """The rates of every epoch, [epochs, steps_per_epoch]."""
    every = range(1, epochs + 1)
    return np.stack([learning_rates(schedule, peak, steps_per_epoch, epochs, epoch) for epoch in every])


def assert_rates(rates: np.ndarray, expected: list[list[float]]) -> None:
    assert rates.dtype == np.float32
    assert rates.shape == np.shape(expected)
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-9)


# --- schedules ----------------------------------------------------------------------------------------------------


def test_constant_schedule_keeps_the_learning_rate() -> None:
    assert_rates(all_rates(ConstantSchedule(name="constant"), 0.1, 2, 3), [[0.1, 0.1], [0.1, 0.1], [0.1, 0.1]])


def test_exponential_schedule_decays_at_every_step() -> None:
    schedule = ExponentialSchedule(name="exponential", decay_rate=0.25, decay_epochs=1.0, staircase=False)
    assert_rates(all_rates(schedule, 8.0, 2, 2), [[8.0, 4.0], [2.0, 1.0]])


def test_exponential_staircase_decays_once_per_decay_epochs() -> None:
    schedule = ExponentialSchedule(name="exponential", decay_rate=0.5, decay_epochs=1.5, staircase=True)
    assert_rates(all_rates(schedule, 8.0, 2, 4), [[8.0, 8.0], [8.0, 4.0], [4.0, 4.0], [2.0, 2.0]])


def test_staircase_with_fractional_decay_epochs_misses_no_decay() -> None:
    schedule = ExponentialSchedule(name="exponential", decay_rate=0.5, decay_epochs=0.1, staircase=True)
    assert_rates(all_rates(schedule, 1.0, 10, 1), [[0.5**step for step in range(10)]])


def test_piecewise_schedule_changes_at_the_boundaries() -> None:
    schedule = PiecewiseSchedule(name="piecewise", boundaries=[1.0, 2.5], factors=[0.5, 2.0])
    assert_rates(all_rates(schedule, 0.1, 2, 4), [[0.1, 0.1], [0.05, 0.05], [0.05, 0.2], [0.2, 0.2]])


def test_cosine_without_warmup_falls_from_the_peak_to_its_final_fraction() -> None:
    schedule = CosineSchedule(name="cosine", warmup_epochs=0.0, final_fraction=0.5)
    expected = [2.0, 1 + (1 + cos(pi / 3)) / 2, 1 + (1 + cos(2 * pi / 3)) / 2, 1.0]
    assert_rates(all_rates(schedule, 2.0, 2, 2), [expected[:2], expected[2:]])


def test_cosine_rises_linearly_to_the_peak_and_ends_at_its_final_fraction() -> None:
    schedule = CosineSchedule(name="cosine", warmup_epochs=1.0, final_fraction=0.0)
    assert_rates(all_rates(schedule, 4.0, 4, 2), [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 1.0, 0.0]])


@pytest.mark.parametrize("warmup_epochs", [0.0, 0.3, 0.5, 1.3, 2.2])
def test_fractional_warmup_reaches_the_peak_exactly(warmup_epochs: float) -> None:
    schedule = CosineSchedule(name="cosine", warmup_epochs=warmup_epochs, final_fraction=0.25)
    rates = all_rates(schedule, 4.0, 5, 3)
    assert rates.max() == 4.0
    assert rates[-1, -1] == 1.0


def test_one_cycle_starts_peaks_and_ends_as_configured() -> None:
    schedule = OneCycleSchedule(name="one_cycle", warmup_fraction=0.5, initial_fraction=0.5, final_fraction=0.0)
    assert_rates(
        all_rates(schedule, 4.0, 3, 2), [[2.0, 3.0, 4.0], [2 * (1 + cos(pi / 3)), 2 * (1 + cos(2 * pi / 3)), 0.0]]
    )


def test_one_cycle_follows_half_cosines() -> None:
    schedule = OneCycleSchedule(name="one_cycle", warmup_fraction=0.625, initial_fraction=0.0, final_fraction=0.5)
    rise = [0.0, (1 - sqrt(0.5)) / 2, 0.5, (1 + sqrt(0.5)) / 2]
    fall = [1.0, 0.5 + (1 + cos(pi / 3)) / 4, 0.5 + (1 + cos(2 * pi / 3)) / 4, 0.5]
    assert_rates(all_rates(schedule, 1.0, 4, 2), [rise, fall])


@pytest.mark.parametrize("warmup_fraction", [0.05, 0.3, 0.33, 0.9])
def test_one_cycle_reaches_its_peak_exactly_at_a_step(warmup_fraction: float) -> None:
    schedule = OneCycleSchedule(
        name="one_cycle", warmup_fraction=warmup_fraction, initial_fraction=0.25, final_fraction=0.125
    )
    rates = all_rates(schedule, 4.0, 7, 3)
    assert rates.max() == 4.0
    assert (rates[0, 0], rates[-1, -1]) == (1.0, 0.5)


@pytest.mark.parametrize(
    "schedule",
    [
        ConstantSchedule(name="constant"),
        ExponentialSchedule(name="exponential", decay_rate=0.5, decay_epochs=1.0, staircase=False),
        PiecewiseSchedule(name="piecewise", boundaries=[1.0], factors=[0.5]),
        CosineSchedule(name="cosine", warmup_epochs=0.0, final_fraction=0.0),
    ],
    ids=lambda schedule: schedule.name,
)
def test_run_of_one_step_uses_the_peak(schedule: Any) -> None:
    assert_rates(all_rates(schedule, 0.1, 1, 1), [[0.1]])


# --- optimizers ---------------------------------------------------------------------------------------------------


def test_every_optimizer_has_a_config_file() -> None:
    assert sorted([*keras_table()["optimizers"], *EXTRA_OPTIMIZERS]) == FILES


@pytest.mark.usefixtures("tensorflow")
def test_signsgd_moves_each_weight_by_the_learning_rate_against_its_gradient() -> None:
    import keras

    optimizer = build_optimizer(OptimizerConfig(**shipped("signsgd") | {"learning_rate": 0.25}), 2.0)
    weights = keras.Variable([1.0, 1.0, 1.0])
    optimizer.build([weights])
    optimizer.apply([keras.ops.array([3.0, -1e-9, 0.0])])
    np.testing.assert_array_equal(weights.numpy(), [0.75, 1.25, 1.0])
    assert optimizer.global_clipnorm == 2.0


@pytest.mark.parametrize("name", sorted(set(FILES) - set(EXTRA_OPTIMIZERS)))
def test_config_file_lists_every_argument_of_keras_with_its_default(name: str) -> None:
    import keras

    parameters = inspect.signature(getattr(keras.optimizers, keras_table()["optimizers"][name]["class"])).parameters
    defaults = {
        key: parameter.default for key, parameter in parameters.items() if key not in ("self", "name", "kwargs")
    }
    assert shipped(name) == {"name": name} | defaults


@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize("name", sorted(set(FILES) - set(EXTRA_OPTIMIZERS)))
def test_optimizer_is_built_by_keras_with_the_arguments_of_the_file(name: str) -> None:
    import keras

    values = shipped(name)
    optimizer = build_optimizer(OptimizerConfig(**values), None)
    assert type(optimizer) is getattr(keras.optimizers, keras_table()["optimizers"][values.pop("name")]["class"])
    built = optimizer.get_config()
    assert built["learning_rate"] == pytest.approx(values.pop("learning_rate"), rel=1e-6)  # float32 in Keras
    if name == "muon":
        assert values.pop("exclude_layers") is None
        assert built["exclude_layers"] == []
    assert {key: built[key] for key in values} == values


@pytest.mark.usefixtures("tensorflow")
def test_changed_arguments_reach_keras() -> None:
    config = OptimizerConfig(
        **shipped("adam") | {"learning_rate": 0.5, "beta_1": 0.75, "clipnorm": 2.0, "amsgrad": True}
    )
    optimizer = build_optimizer(config, None)
    assert float(optimizer.learning_rate) == 0.5
    assert (optimizer.beta_1, optimizer.clipnorm, optimizer.amsgrad) == (0.75, 2.0, True)


@pytest.mark.usefixtures("tensorflow")
def test_integer_is_accepted_where_keras_needs_a_float() -> None:
    assert build_optimizer(OptimizerConfig(**shipped("sgd") | {"momentum": 0}), None).momentum == 0.0


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("adam", {"beta_1": None}, "optimizer.beta_1 must be from 0 up to but not including 1; received None"),
        ("muon", {"ns_steps": 1.0}, "optimizer.ns_steps must be a whole number, 1 or more; received 1.0"),
        ("muon", {"muon_a": [1.0]}, "muon_a takes a number; received [1.0]"),
        ("ftrl", {"learning_rate_power": 0.5}, "optimizer.learning_rate_power must be 0 or less; received 0.5"),
        ("adagrad", {"initial_accumulator_value": -1.0}, "optimizer.initial_accumulator_value must be 0 or more"),
        (
            "adam",
            {"clipnorm": 1.0, "clipvalue": 0.5},
            "optimizer: only one of clipnorm, clipvalue, global_clipnorm may be set; received clipnorm, clipvalue",
        ),
    ],
)
def test_arguments_that_keras_would_reject_later_are_refused_in_the_config(
    name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        OptimizerConfig(**shipped(name) | changes)
    assert message in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_shipped_optimizer_trains(name: str) -> None:
    small = ["data=digits", "data.limit=300", "data.validation=0", "model.units=[]", "training.epochs=2"]
    first, second = train([*small, f"optimizer={name}", "training.threads=1"])["losses"]
    assert second < first
