"""The identity of a run: digests of its config, code, package versions and data; and configs of earlier versions.

A version that adds a key to the schema adds its neutral value here, with which a run does what it did before the key
existed. Configs recorded earlier then stay valid, and their fingerprints stay the same.
"""

import copy
import functools
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from experiments.config.code_digest import CODE_DIGEST_RULE, code_digest
from experiments.config.facts import initial_weights_file
from experiments.config.own_code import loaded_own_code
from experiments.config.schema import Config
from experiments.runtime import recorded_variables

WITHOUT_EFFECT = (  # groups and keys that cannot change a result
    *("tracking", "report", "resume", "resume_anyway", "expected", "objective", "sweep"),
    *("data.path", "training.checkpoint_minutes", "training.keep_state", "distribution.timeout_seconds"),
)
# By dotted key, such as "training.label_smoothing": 0.0; of one choice of a group only: "model[cnn].bias": True.
NEUTRAL_VALUES: dict[str, Any] = {
    "data.augmentation.flip": False,
    "data.augmentation.crop": 0,
    "data.augmentation.color": 0.0,
    "data.augmentation.own": [],
    "model.continue": None,
    "model.weights_of": "all",
    "training.freeze": [],
    "training.keep_state": False,
    "training.tensor_float_32": False,
    "tracking.system_metrics": False,
    "sweep.zip": None,
    "sweep.minutes": None,
    "sweep.begin_from": None,
    "data.folds": None,
    "data.fold": None,
    "data.split_seed": 0,
    "metrics": [],
    "training.label_smoothing": 0.0,
    "training.class_weight": None,
}


def config_to_dict(config: Config) -> dict[str, Any]:
    """Return the config as plain dictionaries, in the order of the schema."""
    plain: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json", by_alias=True)
    plain["optimizer"] |= config.optimizer.arguments  # pydantic leaves out what the schema does not name
    return plain


def flatten_config(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config with dotted keys, and lists and mappings below a group as JSON.

    >>> flatten_config({"seed": 0, "model": {"units": [128, 64]}})
    {'seed': 0, 'model.units': '[128, 64]'}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        # Below a group, other mappings are values, such as a Keras object with its arguments.
        if isinstance(value, Mapping) and (not prefix or key in ("early_stopping", "augmentation")):
            flat |= flatten_config(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list | Mapping) else value
    return flat


def identity_tags(config: Config, data_digest: str) -> dict[str, str]:
    """Return what a result depends on, as tags: digests of code and data, versions, and the fingerprint of all.

    Environment variables that can change a result are part of it where they have another value than by default.
    """
    versions = " ".join(f"{package}=={version(package)}" for package in ("tensorflow", "keras", "numpy"))
    parts = {"code_digest": code_digest(), "versions": versions, "data_digest": data_digest}
    if own := loaded_own_code():
        parts["own_code_digest"] = own.digest
    if variables := recorded_variables():
        parts["environment_variables"] = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    if file := initial_weights_file(config):
        parts["weights_digest"] = _file_digest(file, file.stat().st_mtime_ns)
    found = {"code_digest_rule": CODE_DIGEST_RULE, "fingerprint": fingerprint_of(config, parts)}
    return {**parts, **found, **({"own_code": own.folder.name} if own else {})}


@functools.cache
def _file_digest(file: Path, changed: int) -> str:
    """Return the SHA-256 (hex) of a file, which is read again if the time of its last change is another."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def affects_result(key: str) -> bool:
    """Return whether a dotted key, or a group, can affect the result.

    >>> [affects_result(key) for key in ("seed", "data.path", "report.style", "report", "data.pathological")]
    [True, False, False, False, True]
    """
    return not any(key == same or key.startswith(f"{same}.") for same in WITHOUT_EFFECT)


def fingerprint_of(config: Config, parts: Mapping[str, str]) -> str:
    """Return the SHA-256 (hex) of the config without what cannot change a result, and of the identity in `parts`."""
    tree = without_neutral(config_to_dict(config))
    for key in WITHOUT_EFFECT:
        group, _, name = key.partition(".")
        (tree[group] if name else tree).pop(name or group, None)
    if "weights_digest" in parts:  # what is in the file counts, not its name
        del tree["model"]["weights"]
    whole = json.dumps([tree, dict(parts)], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


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
