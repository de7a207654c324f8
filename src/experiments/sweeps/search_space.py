"""The space of a search, read from overrides and YAML: what varies, between which bounds, under which condition.

It is checked here, before Optuna or TensorFlow are loaded: the bounds, and whether the corners of the space compose.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from hydra.core.override_parser.types import Override

from experiments.config.choices import choice_files
from experiments.config.composition import ComposedJob, compose_jobs
from experiments.config.explanation import show_value
from experiments.config.hydra_internals import override_value_text
from experiments.config.overrides import parse_overrides
from experiments.errors import ConfigError, did_you_mean, join_sorted

ParameterValue = str | int | float
Point = Mapping[str, ParameterValue]  # of the space, by the keys of the parameters that exist there
ALLOWED_DISTRIBUTIONS = (
    "choice(a,b), range(1,5), interval(0,0.5), int(interval(1,8)), tag(log,interval(1e-4,1e-2)) or"
    " tag(log,int(interval(8,512)))"
)


@dataclass(frozen=True)
class Parameter:
    """One dimension of the space.

    Attributes:
        key: as in an override: a key of the config, or a group.
        choices: the values to choose from, as an override takes them; empty for numbers between bounds.
        low, high: the bounds of a number, inclusive; whole numbers make it a whole number.
        step: the distance between neighbouring values, or None for any.
        log: whether the scale is logarithmic.
        when: choices of other parameters, one of each of which must hold for the parameter to exist.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: int | float = 0
    high: int | float = 0
    step: int | float | None = None
    log: bool = False
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.choices:
            values = ", ".join(self.choices)
        else:
            step = f" in steps of {self.step:g}" if self.step else ""
            values = f"{self.low:g} to {self.high:g}{step}{', logarithmic' if self.log else ''}"
        condition = " and ".join(f"{key}={' or '.join(allowed)}" for key, allowed in self.when.items())
        return f"{self.key}: {values}{f' (with {condition})' if condition else ''}"

    def exists(self, values: Point) -> bool:
        """Return whether the parameter exists beside these values of the parameters before it."""
        return all(values.get(key) in allowed for key, allowed in self.when.items())

    def grid(self) -> list[ParameterValue]:
        """Return every value, or the bounds of a continuous interval."""
        if self.choices:
            return list(self.choices)
        step = self.step or (self.high - self.low)
        count = round((self.high - self.low) / step) if step else 0
        return list(dict.fromkeys(self.low + number * step for number in range(count + 1)))

    def extremes(self) -> list[ParameterValue]:
        """Return every choice, or the bounds of the numbers."""
        return list(self.choices) or list(dict.fromkeys([self.low, self.high]))


SearchSpace = tuple[Parameter, ...]


def parse_search_space(given: Sequence[Override], in_yaml: Mapping[str, Any]) -> tuple[SearchSpace, list[str]]:
    """Return the space of a search, and the overrides that all its trials share; needs `composing`.

    The command line wins over the same key in YAML; a single value there is a choice of one.

    Args:
        given: on the command line, parsed.
        in_yaml: key -> distribution as in an override, or `{distribution: ..., when: {other key: value or values}}`.

    Raises:
        ConfigError: something is not a distribution, has bounds in the wrong order, or a condition that cannot hold.
    """
    entries: dict[str, tuple[Override, Mapping[str, Any]]] = {}
    for key, entry in in_yaml.items():
        distribution, when = _space_entry(key, entry)
        (override,) = parse_overrides([f"{key}={distribution}"])
        if not override.is_sweep_override():
            raise ConfigError(f"search: {key}: {distribution} is one value. Write {ALLOWED_DISTRIBUTIONS}.")
        entries[key] = override, when
    fixed: dict[str, str] = {}
    for override in given:
        key = override.get_key_element()
        if override.is_sweep_override() or key in entries:
            _, when = entries.get(key, (None, {}))
            entries[key] = override, when
            fixed.pop(key, None)
        elif key != "search":
            fixed[key] = str(override.input_line)
    space: dict[str, Parameter] = {}
    for key, (override, when) in entries.items():
        space[key] = _parse_parameter(override, _parse_conditions(key, when, space))
    if not space:
        raise ConfigError(
            f"This search has nothing to vary. Give a key {ALLOWED_DISTRIBUTIONS}, for example"
            f" model.dropout=interval(0,0.5), or a space from conf/search: search=NAME"
            f" ({', '.join(file.stem for file in choice_files('search'))})."
        )
    return tuple(space.values()), list(fixed.values())


def point_overrides(values: Point) -> list[str]:
    """Return a point of the space as overrides, fractions with six digits: more mean nothing and make names long."""
    return [f"{k}={float(f'{v:.6g}') if isinstance(v, float) else v}" for k, v in values.items()]


def space_combinations(space: SearchSpace) -> Iterator[dict[str, ParameterValue]]:
    """Yield every point of a space of choices and ranges once, the last parameter varying fastest."""
    seen = set()
    for values in product(*(parameter.grid() for parameter in space)):
        point: dict[str, ParameterValue] = {}
        for parameter, value in zip(space, values, strict=True):
            if parameter.exists(point):
                point[parameter.key] = value
        if (identity := tuple(point.items())) not in seen:
            seen.add(identity)
            yield point


def space_corners(space: SearchSpace) -> list[dict[str, ParameterValue]]:
    """Return points of the space in which every choice and every bound of each parameter occurs."""
    found = []
    for parameter in space:
        for value in parameter.extremes():
            wanted: dict[str, ParameterValue] = {parameter.key: value}
            for other in reversed(space):  # a condition names parameters before its own
                if other.key in wanted:
                    wanted = {**{key: allowed[0] for key, allowed in other.when.items()}, **wanted}
            point: dict[str, ParameterValue] = {}
            for other in space:
                if other.exists(point):
                    point[other.key] = wanted.get(other.key, other.extremes()[0])
            if point not in found:
                found.append(point)
    return found


def compose_corners(space: SearchSpace, fixed: Sequence[str]) -> list[ComposedJob]:
    """Compose the jobs at the space's corners; needs `composing`.

    Raises:
        ConfigError: for the first that cannot run.
    """
    points = space_corners(space)
    try:
        return compose_jobs([[*fixed, *point_overrides(point)] for point in points])
    except ConfigError:
        for point in points:
            _compose_corner(space, fixed, point)
        raise


def _compose_corner(space: SearchSpace, fixed: Sequence[str], point: Mapping[str, ParameterValue]) -> None:
    try:
        compose_jobs([[*fixed, *point_overrides(point)]])
    except ConfigError as error:
        reached = " ".join(point_overrides(point))
        raise ConfigError(f"The search reaches {reached}: {error}{_suggest_space(space, error)}") from None


def _suggest_space(space: SearchSpace, error: ConfigError) -> str:
    for parameter in space:
        problem = next((kind for key, kind in error.problems.items() if f"{key}.".startswith(f"{parameter.key}.")), "")
        if problem in ("int_type", "int_from_float") and isinstance(parameter.low, float) and not parameter.choices:
            return f" Whole numbers: {parameter.key}=int(interval({parameter.low:g},{parameter.high:g}))"
        if problem == "unknown_key":
            return " A key that not every choice has needs a condition: `when` in a file of conf/search."
    return ""


def _space_entry(key: str, entry: Any) -> tuple[Any, Mapping[str, Any]]:
    if not isinstance(entry, dict):
        return entry, {}
    when = entry.get("when", {})
    if "distribution" not in entry or set(entry) - {"distribution", "when"} or not isinstance(when, dict):
        raise ConfigError(
            f"search: {key} is {show_value(entry)}. Write a distribution, such as interval(0,0.5), or a mapping with"
            " distribution and when, such as {distribution: 'interval(0,0.9)', when: {optimizer: sgd}}."
        )
    return entry["distribution"], when


def _parse_conditions(key: str, when: Mapping[str, Any], before: Mapping[str, Parameter]) -> dict[str, tuple[str, ...]]:
    conditions = {}
    for other, values in when.items():
        if other not in before or not before[other].choices:
            choices = [name for name, parameter in before.items() if parameter.choices]
            raise ConfigError(
                f"search: {key} has a condition on {other!r}, which is not a choice before it"
                f"{did_you_mean(other, choices)}. Choices before it: {join_sorted(choices)}"
            )
        known = before[other].choices
        texts = [override_value_text(value) for value in (values if isinstance(values, list) else [values])]
        if unknown := [text for text in texts if text not in known]:
            raise ConfigError(
                f"search: the condition {other}={unknown[0]} of {key} never holds{did_you_mean(unknown[0], known)}."
                f" Choices of {other}: {join_sorted(known)}"
            )
        conditions[other] = tuple(texts)
    return conditions


def _parse_parameter(override: Override, when: Mapping[str, tuple[str, ...]]) -> Parameter:
    key, given = override.get_key_element(), override.input_line
    value: Any = override.value()
    if override.is_hydra_override() or override.key_or_group == "search":
        raise ConfigError(f"{given!r}: a search cannot vary {override.key_or_group}. Give one value.")
    tags: set[str] = getattr(value, "tags", set())
    if tags - {"log"} or (tags and not override.is_interval_sweep()):
        raise ConfigError(
            f"{given!r} has the tag {join_sorted(tags)}. The only tag in a search is log, of an interval."
            f" Write {ALLOWED_DISTRIBUTIONS}."
        )
    if override.is_interval_sweep():
        low, high = value.start, value.end
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ConfigError(f"{given!r}: the bounds must be finite and ascending; received {low:g} and {high:g}.")
        if tags and low <= 0:
            raise ConfigError(f"{given!r}: a logarithmic interval must begin above 0; received {low:g}.")
        return Parameter(key, low=low, high=high, log=bool(tags), when=when)
    if override.is_range_sweep():
        values = list(value.range()) if value.step else []
        if not values:
            raise ConfigError(f"{given!r} is an empty range. Write range(START,STOP,STEP).")
        step = abs(value.step) if len(values) > 1 else None
        return Parameter(key, low=min(values), high=max(values), step=step, when=when)
    if override.is_choice_sweep():
        if hasattr(value, "shuffle"):
            value.shuffle = False  # the sampler chooses the order
        choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
        if not choices:
            raise ConfigError(f"{given!r} matches no value.")
        return Parameter(key, choices, when=when)
    return Parameter(key, (override.get_value_element_as_str(),), when=when)
