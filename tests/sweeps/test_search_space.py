"""What a search may vary: distributions read from overrides and YAML, conditions, corners and grids."""

from typing import Any

import pytest

from experiments.config.composition import composing
from experiments.config.overrides import parse_overrides
from experiments.errors import ConfigError
from experiments.sweeps.search import (
    Parameter,
    SearchSpace,
    parse_search_space,
    point_overrides,
    space_combinations,
    space_corners,
)

SGD_ONLY = {"distribution": "choice(0,0.9)", "when": {"optimizer": "sgd"}}


def space(*overrides: str, yaml: dict[str, Any] | None = None) -> SearchSpace:
    with composing():
        return parse_search_space(parse_overrides(overrides), yaml or {})[0]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.dropout=interval(0,0.5)", Parameter("model.dropout", low=0.0, high=0.5)),
        ("seed=int(interval(1,8))", Parameter("seed", low=1, high=8)),
        ("a.b=tag(log,interval(1e-4,1e-2))", Parameter("a.b", low=1e-4, high=1e-2, log=True)),
        ("a.b=tag(log,int(interval(8,512)))", Parameter("a.b", low=8, high=512, log=True)),
        ("seed=range(1,10,4)", Parameter("seed", low=1, high=9, step=4)),
        ("seed=range(5,0,-2)", Parameter("seed", low=1, high=5, step=2)),
        ("seed=range(1,1000000000000)", Parameter("seed", low=1, high=10**12 - 1, step=1)),
        ("a.b=range(0,0.3,0.1)", Parameter("a.b", low=0.0, high=0.2, step=0.1)),
        ("model.units=choice([64],[128,64])", Parameter("model.units", ("[64]", "[128,64]"))),
        ("model.units=[64],[128,64]", Parameter("model.units", ("[64]", "[128,64]"))),
        ("optimizer=sgd,adam", Parameter("optimizer", ("sgd", "adam"))),
        ("schedule=glob(c*)", Parameter("schedule", ("constant", "cosine"))),
        ("model.activation=shuffle(relu,tanh)", Parameter("model.activation", ("relu", "tanh"))),
    ],
)
def test_every_sweep_syntax_of_hydra_is_a_distribution(override: str, expected: Parameter) -> None:
    assert space(override) == (expected,)


def test_the_command_line_wins_over_yaml() -> None:
    in_yaml = {"optimizer": "choice(adam,sgd)", "optimizer.momentum": SGD_ONLY, "seed": "choice(0,1)"}
    with composing():
        given = parse_overrides(["optimizer=sgd", "seed=range(5,9)", "model.dropout=0.1", "search=mlp"])
        found, fixed = parse_search_space(given, in_yaml)
    assert [parameter.key for parameter in found] == ["optimizer", "optimizer.momentum", "seed"]
    assert found[0].choices == ("sgd",)
    assert found[2] == Parameter("seed", low=5, high=8, step=1)
    assert fixed == ["model.dropout=0.1"]


def test_a_parameter_exists_only_where_its_condition_holds() -> None:
    found = space(yaml={"optimizer": "choice(adam,sgd)", "optimizer.momentum": SGD_ONLY})
    assert list(space_combinations(found)) == [
        {"optimizer": "adam"},
        {"optimizer": "sgd", "optimizer.momentum": "0"},
        {"optimizer": "sgd", "optimizer.momentum": "0.9"},
    ]


def test_the_corners_reach_every_choice_and_bound_under_conditions_too() -> None:
    found = space("model.dropout=interval(0,0.5)", yaml={"optimizer": "adam,sgd", "optimizer.momentum": SGD_ONLY})
    points = space_corners(found)
    assert len(points) == 4
    for parameter in found:
        assert {point.get(parameter.key) for point in points} >= set(parameter.extremes())
    assert all(("optimizer.momentum" in point) == (point["optimizer"] == "sgd") for point in points)


def test_overrides_have_six_digits_and_distinguish_whole_numbers_from_fractions() -> None:
    values = {"a": 1 / 3, "b": 16.0, "c": 16, "d": 1.23456789e-05, "e": "[64]"}
    assert point_overrides(values) == ["a=0.333333", "b=16.0", "c=16", "d=1.23457e-05", "e=[64]"]


MISTAKES = {
    "a.b=interval(0.5,0.1)": "'a.b=interval(0.5,0.1)': the bounds must be finite and ascending; received 0.5 and 0.1.",
    "a.b=tag(log,interval(0,1))": "a logarithmic interval must begin above 0; received 0.",
    "a.b=tag(lgo,interval(1,2))": "has the tag lgo. The only tag in a search is log, of an interval.",
    "a.b=tag(log,range(1,9))": "has the tag log. The only tag in a search is log, of an interval.",
    "a.b=range(3,3)": "is an empty range. Write range(START,STOP,STEP).",
    "a.b=range(0,1,1e-9)": "has more than 1,000,000 values. Write a.b=interval(0,1).",
    "a.b=range(0,inf,1)": "'a.b=range(0,inf,1)': start, stop and step must be finite.",
    "a.b=range(0,1,nan)": "start, stop and step must be finite.",
    "experiment=glob(x*)": "'experiment=glob(x*)' matches no value.",
    "hydra.launcher.workers=1,2": "a search cannot vary hydra.launcher.workers. Give one value.",
    "search=mlp,other": "a search cannot vary search. Give one value.",
    "seed=1": "This search has nothing to vary. Give a key choice(a,b), range(1,5), interval(0,0.5)",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_reports_a_mistake_in_a_distribution(override: str) -> None:
    with pytest.raises(ConfigError) as raised:
        space(override)
    assert MISTAKES[override] in str(raised.value)
    assert "\n" not in str(raised.value)


YAML_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"seed": 3}, "search: seed: 3 is one value. Write choice(a,b), range(1,5)"),
    ({"seed": {"choice": [1, 2]}}, 'search: seed is {"choice": [1, 2]}. Write a distribution, such as interval(0,0.5)'),
    ({"optimizer.momentum": SGD_ONLY}, "has a condition on 'optimizer', which is not a choice before it"),
    (
        {"optimizer": "choice(adam,sdg)", "optimizer.momentum": SGD_ONLY},
        "search: the condition optimizer=sgd of optimizer.momentum never holds (did you mean 'sdg'?)."
        " Choices of optimizer: adam, sdg",
    ),
    ({"seed": "interval(0"}, "'seed=interval(0' is not an override"),
]


@pytest.mark.parametrize(("yaml", "said"), YAML_MISTAKES)
def test_reports_a_mistake_in_yaml(yaml: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        space(yaml=yaml)
    assert said in str(raised.value)
