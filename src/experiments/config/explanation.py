"""What is wrong with a config, in words: one line for each finding."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from experiments.config.data_schema import AugmentationConfig
from experiments.config.expected_schema import QuickExpectation
from experiments.config.schema import Config, EarlyStoppingConfig
from experiments.errors import did_you_mean, join_sorted

EXPECTED_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a mapping",
}

NESTED_GROUPS = {
    ("training", "early_stopping"): EarlyStoppingConfig,
    ("data", "augmentation"): AugmentationConfig,
    ("expected", "quick"): QuickExpectation,
}


def first_finding_per_field(raw: Mapping[str, Any], error: ValidationError) -> list[Any]:
    """Of a union (a number or a name) pydantic reports every branch; one line per field is enough."""
    first: dict[tuple[str, ...], Any] = {}
    for finding in error.errors(include_url=False):
        first.setdefault(_field_path(raw, finding), finding)
    return list(first.values())


def _field_path(raw: Mapping[str, Any], finding: Any) -> tuple[str, ...]:
    """The key's path without the names of the union's branches that pydantic puts between."""
    path: list[str] = []
    node: Any = raw
    for index, part in enumerate(finding["loc"]):
        if index == 1 and path[0] in ("data", "model", "schedule"):
            continue
        if isinstance(node, Mapping) and (part in node or finding["type"].startswith("missing")):
            path.append(part)
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int):
            path.append(str(part))
            node = node[part]
    return tuple(path)


def explain_finding(raw: Mapping[str, Any], finding: Any) -> str:
    path = _field_path(raw, finding)
    key, received = ".".join(path), finding["input"]
    match finding["type"]:
        case "refused":
            return finding["ctx"]["message"] if len(path) == 1 else f"{key}: {finding['ctx']['message']}"
        case "unexpected_keyword_argument":
            group = _known_fields(path[0], raw) if len(path) > 1 else field_descriptions(Config)
            return f"unknown key {key!r}{did_you_mean(path[-1], group)}. It may hold: {join_sorted(group)}"
        case "missing" | "missing_argument":
            return (
                f"{key} is missing: {_field_meaning(path, raw)}. Every group is needed; leave out overrides that remove"
                " it."
            )
        case "union_tag_invalid":
            tag, choices = finding["ctx"]["tag"], finding["ctx"]["expected_tags"]
            return f"{key}.name={tag!r} is not a choice: {choices}. Choose with {key}=NAME"
        case "union_tag_not_found":
            return f"{key}.name is missing. Choose with {key}=NAME; choices: {finding['ctx']['discriminator']}"
        case kind:
            expected = f"expected {EXPECTED_TYPES[kind]}: " if kind in EXPECTED_TYPES else ""
            return f"{key}={show_value(received)} is not allowed: {expected}{_field_meaning(path, raw)}"


def show_value(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


def _field_meaning(path: tuple[str, ...], raw: Mapping[str, Any]) -> str:
    """The description in the schema of the field at this path; of a list's entry, that of the list."""
    names = [part for part in path if not part.isdigit()]  # of a list's entry: the list
    if len(names) == 1:
        return field_descriptions(Config).get(names[0]) or f"the group {names[0]!r}"
    nested = NESTED_GROUPS.get(tuple(names[:2]))  # type: ignore[arg-type]
    if nested and len(names) > 2:
        return field_descriptions(nested).get(names[2], "no such key")
    return _known_fields(names[0], raw).get(names[1]) or f"a value of {'.'.join(names)}"


def _known_fields(group: str, raw: Mapping[str, Any]) -> dict[str, str]:
    hint = next(field.type for field in dataclasses.fields(Config) if field.name == group)
    choices = [choice for choice in getattr(hint, "__args__", (hint,)) if choice is not type(None)]
    given = raw[group].get("name") if isinstance(raw[group], Mapping) else None
    for choice in choices:
        names = getattr(choice.__annotations__.get("name"), "__args__", ())
        if len(choices) == 1 or given in names:
            return field_descriptions(choice)
    return {}


def field_descriptions(cls: Any) -> dict[str, str]:
    return {name: field.description or "" for name, field in cls.__pydantic_fields__.items()}
