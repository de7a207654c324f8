"""What a search is: its space, sampler, pruner and objective, checked before Optuna or TensorFlow are loaded."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, Literal

from hydra.core.override_parser.types import Override

from experiments.config.choices import choice_files
from experiments.config.composition import ComposedJob, compose_jobs, composing, read_search_space
from experiments.config.facts import epoch_metric_names, objective_of
from experiments.config.identity import fingerprint_of
from experiments.config.overrides import override_value_text, parse_overrides
from experiments.config.sweep_composition import MOST_JOBS, ComposedSweep, SearchSettings
from experiments.config.validation import show_value
from experiments.errors import ConfigError, did_you_mean, join_sorted

ParameterValue = str | int | float
Point = Mapping[str, ParameterValue]  # of the space, by the keys of the parameters that exist there
LONGEST_RANGE = 1_000_000  # of a range of fractions
LEARNING_SAMPLERS = ("tpe", "cmaes")  # those that learn from the results of trials
ALLOWED_DISTRIBUTIONS = (
    "choice(a,b), range(1,5), interval(0,0.5), int(interval(1,8)), tag(log,interval(1e-4,1e-2)) or"
    " tag(log,int(interval(8,512)))"
)


@dataclass(frozen=True)
class Parameter:
    """One dimension of the space."""

    key: str  # as in an override: a key of the config, or a group
    choices: tuple[str, ...] = ()  # as an override takes them; empty for numbers between bounds
    low: int | float = 0  # inclusive, as `high`; whole numbers make the parameter a whole number
    high: int | float = 0
    step: int | float | None = None  # between neighbouring values, or None for any
    log: bool = False  # the scale is logarithmic
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # the choices of others beside which it exists

    def __str__(self) -> str:
        step = f" in steps of {self.step:g}" if self.step else ""
        numbers = f"{self.low:g} to {self.high:g}{step}{', logarithmic' if self.log else ''}"
        values = ", ".join(self.choices) or numbers
        condition = " and ".join(f"{key}={' or '.join(allowed)}" for key, allowed in self.when.items())
        return f"{self.key}: {values}{f' (with {condition})' if condition else ''}"

    def exists(self, values: Point) -> bool:
        """Return whether the parameter exists beside these values of the parameters before it."""
        return all(values.get(key) in allowed for key, allowed in self.when.items())

    @property
    def steps(self) -> int:
        """The number of steps from the lowest to the highest number; 0 for an interval and for choices."""
        return round((self.high - self.low) / self.step) if self.step else 0

    def grid(self) -> list[ParameterValue]:
        """Return every value, or the bounds of a continuous interval."""
        return [self.low + n * self.step for n in range(self.steps + 1)] if self.step else self.extremes()

    def extremes(self) -> list[ParameterValue]:
        """Return every choice, or the bounds of the numbers."""
        return list(self.choices) or list(dict.fromkeys([self.low, self.high]))


SearchSpace = tuple[Parameter, ...]


def parse_search_space(given: Sequence[Override], in_yaml: Mapping[str, Any]) -> tuple[SearchSpace, list[str]]:
    """Return the space of a search, and the overrides that all its trials share; needs `composing`.

    Values `in_yaml` are as in an override, or `{distribution: ..., when: {other key: value or values}}`. The command
    line wins over the same key in YAML; a single value there is a choice of one.

    Raises:
        ConfigError: something is not a distribution, has bounds in the wrong order, or a condition that cannot hold.
    """
    entries: dict[str, tuple[Override, Mapping[str, Any]]] = {}
    for key, entry in in_yaml.items():
        whole = entry if isinstance(entry, dict) else {"distribution": entry}
        distribution, when = whole.get("distribution"), whole.get("when", {})
        if "distribution" not in whole or set(whole) - {"distribution", "when"} or not isinstance(when, dict):
            raise ConfigError(
                f"search: {key} is {show_value(entry)}. Write a distribution, such as interval(0,0.5), or a mapping"
                " with distribution and when, such as {distribution: 'interval(0,0.9)', when: {optimizer: sgd}}."
            )
        (override,) = parse_overrides([f"{key}={distribution}"])
        if not override.is_sweep_override():
            raise ConfigError(f"search: {key}: {distribution} is one value. Write {ALLOWED_DISTRIBUTIONS}.")
        entries[key] = override, when
    fixed: dict[str, str] = {}
    for override in given:
        key = override.get_key_element()
        if override.is_sweep_override() or key in entries:
            entries[key] = override, entries[key][1] if key in entries else {}
            fixed.pop(key, None)
        elif key != "search":
            fixed[key] = str(override.input_line)
    space: dict[str, Parameter] = {}
    for key, (override, when) in entries.items():
        space[key] = _parse_parameter(override, _parse_conditions(key, when, space))
    if not space:
        names = ", ".join(file.stem for file in choice_files("search"))
        raise ConfigError(
            f"This search has nothing to vary. Give a key {ALLOWED_DISTRIBUTIONS}, for example"
            f" model.dropout=interval(0,0.5), or a space from conf/search: search=NAME ({names})."
        )
    return tuple(space.values()), list(fixed.values())


def point_overrides(values: Point) -> list[str]:
    """Return a point of the space as overrides, fractions with six digits: more mean nothing and make names long."""
    return [f"{k}={float(f'{v:.6g}') if isinstance(v, float) else v}" for k, v in values.items()]


def space_combinations(space: SearchSpace) -> Iterator[dict[str, ParameterValue]]:
    """Yield every point of a space of choices and ranges once, the last parameter varying fastest."""
    keys = [parameter.key for parameter in space]
    points = (_existing_values(space, dict(zip(keys, v, strict=True))) for v in product(*(p.grid() for p in space)))
    yield from {tuple(point.items()): point for point in points}.values()


def space_corners(space: SearchSpace) -> list[dict[str, ParameterValue]]:
    """Return points of the space in which every choice and every bound of each parameter occurs."""
    found = []
    for key, value in [(parameter.key, value) for parameter in space for value in parameter.extremes()]:
        wanted: dict[str, ParameterValue] = {key: value}
        for other in reversed(space):  # a condition names parameters before its own
            if other.key in wanted:
                wanted = {**{needed: allowed[0] for needed, allowed in other.when.items()}, **wanted}
        point = _existing_values(space, {other.key: other.extremes()[0] for other in space} | wanted)
        if point not in found:
            found.append(point)
    return found


def _existing_values(space: SearchSpace, values: Point) -> dict[str, ParameterValue]:
    """Return the values of those parameters that exist beside the values of the parameters before them."""
    point: dict[str, ParameterValue] = {}
    for parameter in space:
        if parameter.exists(point):
            point[parameter.key] = values[parameter.key]
    return point


def compose_corners(space: SearchSpace, fixed: Sequence[str]) -> list[ComposedJob]:
    """Compose the jobs at the space's corners; raise ConfigError for the first that cannot run; needs `composing`."""
    corners = [point_overrides(point) for point in space_corners(space)]
    try:
        return compose_jobs([[*fixed, *corner] for corner in corners])
    except ConfigError:
        for corner in corners:
            try:
                compose_jobs([[*fixed, *corner]])
            except ConfigError as error:
                suggestion = _suggest_space(space, error)
                raise ConfigError(f"The search reaches {' '.join(corner)}: {error}{suggestion}") from None
        raise


def _suggest_space(space: SearchSpace, error: ConfigError) -> str:
    for parameter in space:
        problem = next((kind for key, kind in error.problems.items() if f"{key}.".startswith(f"{parameter.key}.")), "")
        if problem in ("int_type", "int_from_float") and isinstance(parameter.low, float) and not parameter.choices:
            return f" Whole numbers: {parameter.key}=int(interval({parameter.low:g},{parameter.high:g}))"
        if problem == "unknown_key":
            return " A key that not every choice has needs a condition: `when` in a file of conf/search."
    return ""


def _parse_conditions(key: str, when: Mapping[str, Any], before: Mapping[str, Parameter]) -> dict[str, tuple[str, ...]]:
    choices = {name: parameter.choices for name, parameter in before.items() if parameter.choices}
    conditions = {}
    for other, values in when.items():
        if other not in choices:
            raise ConfigError(
                f"search: {key} has a condition on {other!r}, which is not a choice before it"
                f"{did_you_mean(other, choices)}. Choices before it: {join_sorted(choices)}"
            )
        conditions[other] = tuple(map(override_value_text, values if isinstance(values, list) else [values]))
        if unknown := [text for text in conditions[other] if text not in choices[other]]:
            raise ConfigError(
                f"search: the condition {other}={unknown[0]} of {key} never holds"
                f"{did_you_mean(unknown[0], choices[other])}. Choices of {other}: {join_sorted(choices[other])}"
            )
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
        if not all(map(math.isfinite, (value.start, value.stop, value.step))):
            raise ConfigError(f"{given!r}: start, stop and step must be finite.")
        values = value.range() if value.step else range(0)
        if not isinstance(values, range):  # of fractions, which have to be listed
            if (value.stop - value.start) // value.step > LONGEST_RANGE:
                interval = f"{key}=interval({value.start:g},{value.stop:g})"
                raise ConfigError(f"{given!r} has more than {LONGEST_RANGE:,} values. Write {interval}.")
            values = list(values)
        if not values:
            raise ConfigError(f"{given!r} is an empty range. Write range(START,STOP,STEP).")
        low, high = sorted((values[0], values[-1]))
        return Parameter(key, low=low, high=high, step=abs(value.step) if low < high else None, when=when)
    if override.is_choice_sweep():
        if hasattr(value, "shuffle"):
            value.shuffle = False  # the sampler chooses the order
        if choices := tuple(dict.fromkeys(override.sweep_string_iterator())):
            return Parameter(key, choices, when=when)
        raise ConfigError(f"{given!r} matches no value.")
    return Parameter(key, (override.get_value_element_as_str(),), when=when)


@dataclass(frozen=True)
class Search(ComposedSweep):
    """A search, checked. Its `jobs` are corners of the space, in which every choice and bound occurs."""

    sweeper: SearchSettings
    space: SearchSpace
    fixed: list[str]  # the overrides that all trials share
    metric: str  # the objective
    mode: Literal["max", "min"]
    reported: str  # the metric after each epoch by which trials are pruned

    def __str__(self) -> str:
        trials = f"{self.sweeper.n_trials} trials by {self.sweeper.sampler} for the {self.mode} of {self.metric}"
        return "\n".join([*(f"  {parameter}" for parameter in self.space), trials])

    @property
    def digest(self) -> str:
        """SHA-256 (hex) by which the search is found again; with more trials it is still the same search."""
        settings = {**asdict(self.sweeper), "n_trials": None}
        del settings["params"]  # they are part of the space
        space = [asdict(parameter) for parameter in self.space]
        parts = [fingerprint_of(self.jobs[0].config, {}), space, settings, self.metric, self.mode]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def check_search(composed: ComposedSweep) -> Search:
    """Check a search as a whole, or raise ConfigError: what cannot be searched, why, and what to do."""
    settings = composed.sweeper
    assert isinstance(settings, SearchSettings)
    with composing(composed.config_dir):
        given = parse_overrides(composed.overrides)
        chosen = [str(override.input_line) for override in given if not override.is_sweep_override()]
        space, fixed = parse_search_space(given, read_search_space(chosen))
        _check_sampler(space, settings.sampler)
        jobs = compose_corners(space, fixed)
    corners = [job.config for job in jobs]
    held_out = all(config.data.validation for config in corners)
    if not held_out and corners[0].objective.metric == "auto":
        raise ConfigError(
            "data.validation=0 leaves nothing to rank the trials by but the test set, which a search must not be"
            " fitted to. Set data.validation, or name another metric, such as objective.metric=loss."
        )
    (metric, mode), *others = sorted({objective_of(config) for config in corners})
    if others:
        names = join_sorted([metric, *(other for other, _ in others)])
        raise ConfigError(f"The trials of this search have different objectives: {names}. Set objective.metric.")
    reported = metric.removeprefix("best_")
    if metric.startswith("test_"):
        reported = metric.replace("test_", "val_", 1) if held_out else ""
    known = set.intersection(*(set(epoch_metric_names(config)) for config in corners))
    if settings.pruner != "none" and reported not in known:
        raise ConfigError(
            f"hydra.sweeper.pruner={settings.pruner} needs a metric after each epoch, and objective.metric={metric} has"
            f" none. Use pruner=none, or an objective from: {join_sorted(known)}"
        )
    given_by_command = (composed.launcher, settings, composed.overrides, composed.config_dir)
    return Search(jobs, *given_by_command, space, fixed, metric, mode, reported)


def _check_sampler(space: SearchSpace, sampler: str) -> None:
    intervals = [p for p in space if not p.choices and p.step is None and p.low != p.high]
    if sampler == "grid" and intervals:
        key = intervals[0].key
        raise ConfigError(
            f"hydra.sweeper.sampler=grid tries every value, and {key} is an interval. Give its values, such as"
            f" {key}=choice(A,B), or choose another sampler."
        )
    if sampler == "grid" and math.prod(len(p.choices) or p.steps + 1 for p in space) > MOST_JOBS:
        why = f"tries every combination, and this space has more than {MOST_JOBS:,}"
        raise ConfigError(f"hydra.sweeper.sampler=grid {why}. Name fewer values, or choose another sampler.")
    numbers = [p.key for p in space if p.low != p.high and not p.when]
    if sampler == "cmaes" and len(numbers) < 2:
        raise ConfigError(
            "hydra.sweeper.sampler=cmaes needs two or more parameters that are numbers (interval or range) and have no"
            f" condition; this search has: {join_sorted(numbers)}. Use sampler=tpe."
        )
