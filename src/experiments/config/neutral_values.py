"""The values of keys that earlier versions did not have, with which a run does what it did before the key existed.

A version that adds a key to the schema adds a line here. Configs recorded earlier then stay valid, and their
fingerprints stay the same.
"""

import copy
from collections.abc import Mapping
from typing import Any

NEUTRAL_VALUES: dict[str, Any] = {}  # by dotted key, such as "training.label_smoothing": 0.0


def complete(tree: Mapping[str, Any], neutral: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a recorded config with the keys that were added since it was recorded.

    Args:
        tree: the config as plain dictionaries; a group that is not a mapping is left for validation to refuse.
        neutral: values by dotted key; NEUTRAL_VALUES if not given.

    >>> complete({"training": {"epochs": 2}}, {"training.label_smoothing": 0.0})
    {'training': {'epochs': 2, 'label_smoothing': 0.0}}
    """
    completed = copy.deepcopy(dict(tree))
    for key, value in (NEUTRAL_VALUES if neutral is None else neutral).items():
        parent, name = _locate(completed, key)
        if parent is not None:
            parent.setdefault(name, copy.deepcopy(value))
    return completed


def without_neutral(tree: Mapping[str, Any], neutral: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a config without the keys that have their neutral value: what an earlier version would have recorded.

    >>> without_neutral({"training": {"epochs": 2, "label_smoothing": 0.0}}, {"training.label_smoothing": 0.0})
    {'training': {'epochs': 2}}
    """
    reduced = copy.deepcopy(dict(tree))
    for key, value in (NEUTRAL_VALUES if neutral is None else neutral).items():
        parent, name = _locate(reduced, key)
        if parent is not None and name in parent and parent[name] == value:
            del parent[name]
    return reduced


def _locate(tree: dict[str, Any], key: str) -> tuple[dict[str, Any] | None, str]:
    """Return the mapping in which a dotted key belongs, or None if there is none, and the last part of the key."""
    *groups, name = key.split(".")
    parent: Any = tree
    for group in groups:
        parent = parent.get(group) if isinstance(parent, dict) else None
    return (parent if isinstance(parent, dict) else None), name
