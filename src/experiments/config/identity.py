"""What identifies a run: its config, code, package versions and data, as digests."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from experiments.config.neutral_values import without_neutral
from experiments.config.schema import Config

PACKAGE = Path(__file__).resolve().parents[1]  # what the digest of the code covers
WITHOUT_EFFECT = (  # groups and keys that cannot change what a run comes to
    *("tracking", "report", "resume", "resume_anyway", "expected", "objective", "sweep"),
    *("data.path", "training.checkpoint_minutes", "distribution.timeout_seconds"),
)


def config_to_dict(config: Config) -> dict[str, Any]:
    """The config as plain dictionaries, in the order of the schema."""
    plain: dict[str, Any] = TypeAdapter(Config).dump_python(config, mode="json")
    plain["optimizer"] |= config.optimizer.arguments  # pydantic leaves out what the schema does not name
    return plain


def flatten_config(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"model": {"units": [128]}}` -> `{"model.units": "[128]"}`; lists and nested objects of a value as JSON.

    >>> flatten({"seed": 0, "model": {"units": [128, 64]}})
    {'seed': 0, 'model.units': '[128, 64]'}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        # Below a group a mapping is a value, such as a Keras object with its arguments, but for these.
        if isinstance(value, Mapping) and (not prefix or key in ("early_stopping", "augmentation")):
            flat |= flatten_config(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list | Mapping) else value
    return flat


def identity_tags(config: Config, data_digest: str) -> dict[str, str]:
    """What a result depends on, as tags: digests of code and data, versions, and a fingerprint of all.

    Returns:
        code_digest (of the package's sources), versions (of the libraries that compute), data_digest, and fingerprint:
        SHA-256 (hex) of these three and the config, less what cannot change a result.
    """
    parts = {**_code_and_versions(), "data_digest": data_digest}
    return {**parts, "fingerprint": fingerprint_of(config, parts)}


@cache  # what this process has loaded stays as it is when a file is edited
def _code_and_versions() -> dict[str, str]:
    code = hashlib.sha256()
    sources = PACKAGE.rglob("*.py")
    for source in sorted(path for path in sources if path.is_file()):  # an editor's lock is a broken link
        code.update(source.relative_to(PACKAGE).as_posix().encode() + source.read_bytes())
    versions = " ".join(f"{package}=={version(package)}" for package in ("tensorflow", "keras", "numpy"))
    return {"code_digest": code.hexdigest()[:36], "versions": versions}


def affects_result(key: str) -> bool:
    """Whether a run can come to something else by a dotted key, or a group.

    >>> [can_change_the_result(key) for key in ("seed", "data.path", "report.style", "report", "data.pathological")]
    [True, False, False, False, True]
    """
    return not any(key == same or key.startswith(f"{same}.") for same in WITHOUT_EFFECT)


def fingerprint_of(config: Config, parts: Mapping[str, str]) -> str:
    """SHA-256 (hex) of the config, less what cannot change a result, and of the digests and versions in `parts`."""
    tree = without_neutral(config_to_dict(config))
    for key in WITHOUT_EFFECT:
        group, _, name = key.partition(".")
        (tree[group] if name else tree).pop(name or group, None)
    whole = json.dumps([tree, dict(parts)], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()
