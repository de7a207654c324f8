"""Facts of a dataset that a config may leave open (null): found in the user's files before the config is validated.

`data` stands above `config`, so what finds them is registered here by name, and imported when it is first needed.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from experiments.config.registry import own_functions
from experiments.errors import ConfigError

FOUND_FACTS = (
    *("shape", "classes", "class_names", "train_examples", "test_examples"),
    *("pixel_max", "mean", "standard_deviation"),
)
EXACT_FACTS = ("shape", "classes", "train_examples", "test_examples")  # of which a config can only state what is there
# From a group `data` to its FOUND_FACTS, and the number of `validation` examples if the files say which they are.
FactFinder = Callable[[Mapping[str, Any]], Mapping[str, Any]]
# By data.name; a text is "module:function".
FACT_FINDERS: dict[str, str | FactFinder] = {
    "arrays": "experiments.data.arrays:find_array_facts",
    "emnist": "experiments.data.archives:find_emnist_facts",
    "images": "experiments.data.picture_folder:find_picture_facts",
}
OWN_FACT_FINDER = "experiments.data.arrays:find_own_facts"  # of data that a function of the user's own makes
# Keys that finders do not read.
WITHOUT_INFLUENCE = (*FOUND_FACTS, "validation", "folds", "fold", "limit", "padding", "augmentation")

known_facts: dict[str, Mapping[str, Any]] = {}  # by what influences it: the jobs of a sweep mostly share it


def open_facts(data: Any) -> list[str]:
    """Return the keys of a group `data` whose values are to be found; `validation` if it follows from other keys."""
    if not isinstance(data, Mapping):
        return []
    findable = FOUND_FACTS if data.get("name") in {**FACT_FINDERS, **own_functions("dataset")} else ()
    names = [key for key in findable if key in data and data[key] is None]
    return [*names, *(["validation"] if _is_fraction(data.get("validation")) or data.get("folds") else [])]


def complete_facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group `data`, which is otherwise valid, with the facts that it leaves open.

    Raise a UserError, by the finder, if the data cannot be used.
    """
    names = open_facts(data)
    facts = _find_facts(data) if set(names) & set(FOUND_FACTS) else {}
    for key in EXACT_FACTS:
        if key in facts and key not in names and data[key] != facts[key]:
            raise ConfigError(
                f"data.{key}={data[key]}, but the data has {facts[key]}. Leave it out, or correct the data."
            )
    completed = {**data, **{key: facts[key] for key in names if key in facts}}
    examples = completed["train_examples"]
    available = min(completed["limit"] or examples, examples)
    if completed["folds"]:  # the first folds may have one example more
        completed["validation"] = available // completed["folds"]
    elif _is_fraction(completed["validation"]):
        completed["validation"] = max(1, round(completed["validation"] * available))
    return completed


def _find_facts(data: Mapping[str, Any]) -> Mapping[str, Any]:
    key = json.dumps({name: value for name, value in data.items() if name not in WITHOUT_INFLUENCE}, sort_keys=True)
    if key not in known_facts:
        finder = FACT_FINDERS.get(data["name"], OWN_FACT_FINDER)
        if isinstance(finder, str):
            module, _, function = finder.partition(":")
            finder = getattr(importlib.import_module(module), function)
        assert callable(finder)
        known_facts[key] = finder(data)
    return known_facts[key]


def _is_fraction(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < 1
