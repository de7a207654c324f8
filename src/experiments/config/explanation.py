"""Explain what is wrong with a config: one line for each problem."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from experiments.config.schema import Config
from experiments.errors import ConfigError, unknown_key

EXPECTED_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "a mapping",
}


def explain_invalid(raw: Mapping[str, Any], error: ValidationError) -> ConfigError:
    """Return the error for a composed config that the schema refuses: one line for each field."""
    lines: dict[str, str] = {}
    problems: dict[str, str] = {}
    for finding in error.errors(include_url=False):
        path = _field_path(raw, finding)
        key = finding.get("ctx", {}).get("key") or ".".join(path)
        if key not in lines:  # for a union, such as a number or a name, pydantic reports every branch
            lines[key] = _explain(raw, path, finding)
            is_unknown = finding["type"] == "unexpected_keyword_argument"
            problems[key] = "unknown_key" if is_unknown else finding["type"]
    return ConfigError("\n".join(lines.values()), problems)


def show_value(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


def field_descriptions(schema: Any) -> dict[str, str]:
    return {name: field.description or "" for name, field in schema.__pydantic_fields__.items()}


def _field_path(raw: Mapping[str, Any], finding: Any) -> tuple[str, ...]:
    """Return the key's path, without the names of union branches that pydantic inserts."""
    path: list[str] = []
    node: Any = raw
    for index, part in enumerate(finding["loc"]):
        if index == 1 and Config.__pydantic_fields__[path[0]].discriminator:  # type: ignore[attr-defined]
            continue
        if isinstance(node, Mapping) and (part in node or finding["type"].startswith("missing")):
            path.append(part)
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int):
            path.append(str(part))
            node = node[part]
    return tuple(path)


def _explain(raw: Mapping[str, Any], path: tuple[str, ...], finding: Any) -> str:
    key = ".".join(path)
    match finding["type"]:
        case "unknown_key":
            return finding["ctx"]["message"]
        case "refused":
            return finding["ctx"]["message"] if len(path) == 1 else f"{key}: {finding['ctx']['message']}"
        case "unexpected_keyword_argument":
            group, prefix = schema_at(path[:-1], raw)[0], "".join(f"{part}." for part in path[:-1])
            return unknown_key(key, [prefix + name for name in field_descriptions(group)])
        case "missing" | "missing_argument":
            return f"{key} is missing: {schema_at(path, raw)[1]}. Leave out the override that removes it."
        case "union_tag_invalid":
            tag, choices = finding["ctx"]["tag"], finding["ctx"]["expected_tags"]
            return f"{key}.name={tag!r} is not a choice: {choices}. Choose with {key}=NAME"
        case "union_tag_not_found":
            return f"{key}.name is missing. Choose with {key}=NAME; choices: {finding['ctx']['discriminator']}"
        case kind:
            expected = f"expected {EXPECTED_TYPES[kind]}: " if kind in EXPECTED_TYPES else ""
            return f"{key}={show_value(finding['input'])} is not allowed: {expected}{schema_at(path, raw)[1]}"


def schema_at(path: tuple[str, ...], raw: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the dataclass at this path of a config, None for a value, and the description of the nearest field."""
    schema: Any = Config
    node: Any = raw
    meaning = ""
    for part in path:
        if schema is None or part not in schema.__pydantic_fields__:
            break  # below a field is its value, such as a list
        field = schema.__pydantic_fields__[part]
        meaning = field.description or f"the group {part!r}"
        node = node.get(part) if isinstance(node, Mapping) else None
        choices = [kind for kind in get_args(field.annotation) or (field.annotation,) if dataclasses.is_dataclass(kind)]
        name = node.get("name") if isinstance(node, Mapping) else None
        named = [kind for kind in choices if name in get_args(kind.__annotations__.get("name"))]
        schema = (choices if len(choices) == 1 else [*named, None])[0] if choices else None
    return schema, meaning
