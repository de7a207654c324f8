"""From the signature of a function of the user's own to the schema of its keys: types, ranges, meaning and defaults."""

import inspect
import json
import re
import typing
from functools import cache
from types import SimpleNamespace, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from experiments.config.fields import STRICT_FIELDS
from experiments.config.found_facts import FOUND_FACTS
from experiments.config.keras_table import refusal
from experiments.config.registry import OwnFunction
from experiments.errors import ConfigError, did_you_mean, join_sorted

TYPE_WORDS: dict[Any, str] = {
    **{int: "a whole number", float: "a number", bool: "true or false", str: "a text"},
    **{list: "a list", dict: "a mapping", type(None): "null"},
}
RESERVED_KEYS = ("name", "weights", "weights_of", "continue", "learning_rate", *FOUND_FACTS)
LIMIT_WORDS = {"ge": "{:g} or more", "gt": "above {:g}", "le": "at most {:g}", "lt": "below {:g}"}


@cache
def own_schema(own: OwnFunction, base: Any = object) -> Any:
    """Return the dataclass of a function's keys; with a base, also of its keys and of `name`.

    Raises ConfigError for a key without a type or a default, or whose default is not allowed.
    """
    described = _described_arguments(own)
    body: dict[str, Any] = {"__annotations__": {}, "__doc__": own.meaning, "__module__": __name__}
    if base is not object:
        body["__annotations__"]["name"] = Literal[own.name]
    for key in own.keys:
        where = f"{own.file}: {own.name}: the argument {key.name!r}"
        if key.annotation is key.empty or key.default is key.empty:
            raise ConfigError(f"{where} needs a type and a default. Write {key.name}: int = 32.")
        if key.name in (*RESERVED_KEYS, *getattr(base, "__pydantic_fields__", ())):
            raise ConfigError(f"{where} has the name of a key that every choice has. Rename it.")
        hint = _read_hint(own, key, where)
        field = FieldInfo.from_annotated_attribute(hint, key.default)
        meaning = field.description or described.get(key.name) or f"{key.name} of {own.name}"
        field.description = f"{meaning}, {_allowed_words(field)}"
        try:
            TypeAdapter(hint).validate_python(key.default, strict=True)
        except ValidationError:
            raise ConfigError(
                f"{where} has the default {key.default!r}, which is not {_allowed_words(field)}."
            ) from None
        body["__annotations__"][key.name], body[key.name] = hint, field
    name = f"{own.kind}_{own.name}"
    _made_schemas[name] = dataclass(type(name, (base,), body), config=STRICT_FIELDS, kw_only=True)
    return _made_schemas[name]


def _read_hint(own: OwnFunction, key: inspect.Parameter, where: str) -> Any:
    """Return the type of an argument, or raise a ConfigError if it is not one of values that a config can hold."""
    holder = SimpleNamespace(__annotations__={key.name: key.annotation})
    try:
        hint = typing.get_type_hints(holder, own.function.__globals__, include_extras=True)[key.name]
        TypeAdapter(hint).json_schema()
    except Exception as error:  # whatever is written there
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{where} has a type that a config cannot hold: {reason}. Write int, float, bool, str, a list or dict of"
            " these, Literal, or one of them | None."
        ) from None
    return hint


_made_schemas: dict[str, Any] = {}


def __getattr__(name: str) -> Any:
    """Return a schema that was made here, which pickle looks up by its name."""
    if name in _made_schemas:
        return _made_schemas[name]
    raise AttributeError(name)


def own_defaults(own: OwnFunction) -> dict[str, Any]:
    return {key.name: key.default for key in own.keys}


def check_own_arguments(own: OwnFunction, given: dict[str, Any]) -> None:
    """Refuse arguments that a function does not have, or whose values it does not allow."""
    known = own_defaults(own)
    for name in given:
        if name not in known:
            has = f"; it has: {join_sorted(known)}" if known else ""
            raise refusal(f"{own.kind} {own.name} has no argument {name!r}{did_you_mean(name, known)}{has}")
    schema = own_schema(own)
    try:
        TypeAdapter(schema).validate_json(json.dumps(given))
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        field = schema.__pydantic_fields__[key]
        raise refusal(f"{own.kind} {own.name}: {key}={given[key]!r} is not allowed: {field.description}") from None


def _described_arguments(own: OwnFunction) -> dict[str, str]:
    """Return what the docstring says of each argument, on lines such as `width: units of the layer`."""
    text = inspect.getdoc(own.function) or ""
    return {name: meaning.rstrip(".") for name, meaning in re.findall(r"(?m)^ *(\w+): (.+)$", text)}


def _allowed_words(field: FieldInfo) -> str:
    """Say in words which values a field allows."""
    hint: Any = field.annotation
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
    words = [TYPE_WORDS.get(get_origin(kind) or kind, str(kind)) for kind in kinds]
    limits = [
        text.format(getattr(limit, name))
        for limit in field.metadata
        for name, text in LIMIT_WORDS.items()
        if hasattr(limit, name)
    ]
    return " or ".join(words) + (f", {' and '.join(limits)}" if limits else "")
