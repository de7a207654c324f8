"""How a run differs from the defaults: its name, and the list in its note."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache

from experiments.config.choices import choice_values, group_names
from experiments.config.composition import compose_job
from experiments.config.found_facts import open_facts
from experiments.config.identity import affects_result, config_to_dict, flatten_config
from experiments.config.overrides import last_values
from experiments.config.schema import Config
from experiments.config.validation import validate_config
from experiments.formatting import shorten

LONGEST_VALUE = 60  # characters of a config value


def run_name(config: Config, overrides: Sequence[str]) -> str:
    """Return a run's name: the overrides that affect the result or, without any, the model and the data."""
    parts = []
    for key, value in last_values(overrides).items():
        if key.startswith("hydra") or not affects_result(key):
            continue
        last = re.search(r"[^.]+(\.\d+)*$", key)  # units.0 of model.units.0
        parts.append(value if key in group_names() else f"{last[0] if last else key}={value}")
    return " ".join(parts) or f"{config.model.name} {config.data.name}"


def differences_from_defaults(config: Config) -> list[str]:
    """List what affects the result and differs from the defaults, as `key: default -> value`.

    If another choice of a group was made, such as data=digits, that choice is the one difference, and the group's
    other keys are compared with the values of the choice.
    """
    default, tree = config_to_dict(_default_config()), config_to_dict(config)
    automatic = dataclasses.replace(config, training=dataclasses.replace(config.training, threads="auto"))
    default["training"]["threads"] = validate_config(config_to_dict(automatic)).training.threads
    found = []
    for group in tree:
        named = isinstance(tree[group], Mapping) and "name" in tree[group]
        if named and tree[group]["name"] != default[group]["name"]:
            found.append(f"{group}: {default[group]['name']} -> {tree[group]['name']}")
            choice = choice_values(group, tree[group]["name"])
            found_keys = open_facts(choice) if group == "data" else []  # what the data is, rather than a difference
            default[group] = {**choice, **{key: tree[group][key] for key in found_keys}}
    before, after = flatten_config(default), flatten_config(tree)
    for key, value in after.items():
        if affects_result(key) and (key not in before or before[key] != value):
            found.append(f"{key}: {_short_value(before.get(key))} -> {_short_value(value)}")
    return found


@cache  # the files may be edited while the run trains
def _default_config() -> Config:
    return compose_job([])


def _short_value(value: object) -> str:
    return shorten(value if isinstance(value, str) else json.dumps(value), LONGEST_VALUE)
