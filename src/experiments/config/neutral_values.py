"""Neutral values of keys added since earlier versions: with them a run does what it did before the key existed.

A version that adds a key to the schema adds a line here. Configs recorded earlier then stay valid, and their
fingerprints stay the same.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

# By dotted key, such as "training.label_smoothing": 0.0; of one choice of a group only: "model[cnn].bias": True.
NEUTRAL_VALUES: dict[str, Any] = {}


def complete(tree: Mapping[str, Any], neutral: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a recorded config with the keys that were added since; `neutral` replaces NEUTRAL_VALUES.

    A group that is not a mapping is left for validation to refuse.

    >>> complete({"training": {"epochs": 2}}, {"training.label_smoothing": 0.0})
    {'training': {'epochs': 2, 'label_smoothing': 0.0}}
    """
    completed = copy.deepcopy(dict(tree))
    for parent, name, value in _places(completed, neutral):
        parent.setdefault(name, copy.deepcopy(value))
    return completed


def without_neutral(tree: Mapping[str, Any], neutral: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a config without the keys that have their neutral value: what an earlier version would have recorded.

    >>> without_neutral({"training": {"epochs": 2, "label_smoothing": 0.0}}, {"training.label_smoothing": 0.0})
    {'training': {'epochs': 2}}
    """
    reduced = copy.deepcopy(dict(tree))
    for parent, name, value in _places(reduced, neutral):
        if name in parent and parent[name] == value:
            del parent[name]
    return reduced


def _places(tree: dict[str, Any], neutral: Mapping[str, Any] | None) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Yield for each key the mapping in which it belongs, if there is one, its last part and its neutral value."""
    for key, value in (NEUTRAL_VALUES if neutral is None else neutral).items():
        *groups, name = key.split(".")
        parent: Any = tree
        for part in groups:
            group, _, choice = part.removesuffix("]").partition("[")
            parent = parent.get(group) if isinstance(parent, dict) else None
            if isinstance(parent, dict) and choice and parent.get("name") != choice:
                parent = None
        if isinstance(parent, dict):
            yield parent, name, value
