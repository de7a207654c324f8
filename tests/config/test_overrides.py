"""How overrides are read, and the one message for a key that does not exist."""

import pytest

from experiments.config.composition import compose_job, composing, read_search_space
from experiments.config.overrides import SplitOverride, is_hydra_key, override_key, override_value_text, split_override
from experiments.config.sweep_composition import compose_sweep
from experiments.errors import ConfigError, unknown_key


@pytest.mark.parametrize(
    ("override", "sign", "key", "value"),
    [
        ("seed=1", "", "seed", "1"),
        ("+model.units=[8,4]", "+", "model.units", "[8,4]"),
        ("++data.path=a=b", "++", "data.path", "a=b"),
        ("~schedule", "~", "schedule", ""),
        ("~model.name=mlp", "~", "model.name", "mlp"),
        ("model@nested=cnn", "", "model", "cnn"),
        ("tracking.run_name=", "", "tracking.run_name", ""),
        ("tracking.run_name=me@home", "", "tracking.run_name", "me@home"),
    ],
)
def test_an_override_is_split_into_sign_key_and_value(override: str, sign: str, key: str, value: str) -> None:
    assert split_override(override) == SplitOverride(sign, key, value)
    assert override_key(override) == key


@pytest.mark.parametrize("override", ["model=cnn", "+experiment=walkthrough", "++search=mlp", "model@nested=cnn"])
def test_a_group_choice_is_recognized_with_any_sign(override: str) -> None:
    assert split_override(override).is_group_choice


@pytest.mark.parametrize("override", ["~model", "model.units=8", "seed=1", "hydra/launcher=pool"])
def test_other_overrides_do_not_choose_from_a_group(override: str) -> None:
    assert not split_override(override).is_group_choice


def test_hydras_own_keys_are_recognized() -> None:
    assert all(map(is_hydra_key, ("hydra", "hydra/launcher", "/hydra/job", "hydra.sweeper.seed")))
    assert not is_hydra_key("hydrant.x")


def test_a_value_is_written_as_in_an_override() -> None:
    assert override_value_text([1, {"a": None}]) == "[1,{a:null}]"


@pytest.mark.parametrize(
    ("override", "run_id"),
    [
        ("resume=123456", "123456"),
        ("+resume=1e10", "1e10"),
        ("model.continue=00012345", "00012345"),
        (f"model.weights={'1' * 32}", "1" * 32),
    ],
)
def test_the_id_of_a_run_is_a_text_although_it_looks_like_a_number(override: str, run_id: str) -> None:
    config = compose_job([override])
    assert run_id in (config.resume, config.model.continue_, config.model.weights)
    with pytest.raises(ConfigError, match=r"tracking.run_name=123456 is not allowed: expected a string"):
        compose_job(["tracking.run_name=123456"])


def test_a_search_space_chosen_with_a_plus_is_not_ignored() -> None:
    with composing(), pytest.raises(ConfigError, match="To override a value use 'override search: mlp'"):
        read_search_space(["+search=mlp"])


SWEEPER = ["hydra.sweeper.n_trials", "hydra.sweeper.params"]


@pytest.mark.parametrize(
    ("key", "known", "message"),
    [
        ("model.dropuot", ["model.dropout"], "(did you mean 'model.dropout'?). Keys of model: dropout"),
        ("dropout", ["seed", "model", "model.dropout"], "(did you mean 'model.dropout'?). Keys: model, seed"),
        ("sed", ["seed", "model"], "(did you mean 'seed'?). Keys: model, seed"),
        ("modle.units", ["model", "model.units"], "(did you mean 'model.units'?). Keys: model"),
        ("model.units.x", ["model", "model.units"], ". Keys of model: units"),
        (
            "hydra.sweeper.parms",
            SWEEPER,
            "(did you mean 'hydra.sweeper.params'?). Keys of hydra.sweeper: n_trials, params",
        ),
    ],
)
def test_an_unknown_key_is_reported_with_the_nearest_key_and_those_beside_it(
    key: str, known: list[str], message: str
) -> None:
    found = unknown_key(key, known)
    assert found.startswith(f"unknown key '{key}'")
    assert message in found


@pytest.mark.parametrize(
    ("override", "keys"),
    [
        ("optimizer.momentm=0.9", "optimizer"),  # found by Hydra
        ("+optimizer.momentm=0.9", "optimizer"),  # by the optimizer
        ("+model.unit=8", "model"),  # by the schema
        ("+training.early_stopping.patienc=8", "training.early_stopping"),
    ],
)
def test_an_unknown_key_gets_the_same_message_wherever_it_is_found(override: str, keys: str) -> None:
    key = override_key(override)
    with pytest.raises(ConfigError) as caught:
        compose_job([override])
    message = str(caught.value)
    assert message.startswith(f"unknown key '{key}' (did you mean '{keys}.")
    assert f"?). Keys of {keys}: " in message
    assert caught.value.problems == {key: "unknown_key"}


def test_an_unknown_setting_of_the_sweeper_gets_that_message_too() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'hydra\.sweeper\.trials'.*Keys of hydra.sweeper: params"):
        compose_sweep(["seed=0,1", "+hydra.sweeper.trials=5"])


def test_a_refused_value_is_named_in_the_error() -> None:
    with pytest.raises(ConfigError) as caught:
        compose_job(["model.units=[8.5]", "training.epochs=0"])
    assert caught.value.problems == {"model.units.0": "int_type", "training.epochs": "greater_than_equal"}
