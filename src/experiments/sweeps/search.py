"""What a search is: its space, sampler, pruner and objective, checked before anything heavy is loaded."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from experiments.config.composition import composing, read_search_space
from experiments.config.explanation import field_descriptions, show_value
from experiments.config.facts import epoch_metric_names, objective_of
from experiments.config.fields import LARGEST_SEED, STRICT_FIELDS, Count, Positive, described
from experiments.config.identity import fingerprint_of
from experiments.config.overrides import parse_overrides
from experiments.config.sweep_composition import ComposedSweep
from experiments.errors import ConfigError, did_you_mean, join_sorted, unknown_key
from experiments.sweeps.search_space import SearchSpace, compose_corners, parse_search_space


@pydantic_dataclass(config=STRICT_FIELDS, kw_only=True)
class SearchSettings:
    """hydra.sweeper of conf/hydra/sweeper/optuna.yaml."""

    n_trials: Annotated[Positive, described("trials in all, from 1 on")]
    sampler: Annotated[Literal["tpe", "random", "grid", "cmaes"], described("tpe, random, grid or cmaes")]
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED, description="seed of the sampler, from 0 to 4294967295")]
    startup_trials: Annotated[Count, described("trials before the sampler learns and median prunes, 0 or more")]
    pruner: Annotated[Literal["none", "median", "hyperband"], described("none, median or hyperband")]
    warmup_epochs: Annotated[Positive, described("epochs that every trial is given before it may be pruned, from 1 on")]


@dataclass(frozen=True)
class Search(ComposedSweep):
    """A search, checked. Its `jobs` are corners of the space, in which every choice and bound occurs.

    Attributes:
        space: what varies.
        fixed: the overrides that all trials share.
        metric, mode: the objective.
        reported: the metric after each epoch that pruning goes by.
    """

    space: SearchSpace
    fixed: list[str]
    settings: SearchSettings
    metric: str
    mode: Literal["max", "min"]
    reported: str

    def __str__(self) -> str:
        trials = f"{self.settings.n_trials} trials by {self.settings.sampler} for the {self.mode} of {self.metric}"
        return "\n".join([*(f"  {parameter}" for parameter in self.space), trials])

    @property
    def digest(self) -> str:
        """What the search is known by, SHA-256 (hex); with more trials it is still the same search."""
        known = {**asdict(self.settings), "n_trials": None}
        space = [asdict(parameter) for parameter in self.space]
        parts = [fingerprint_of(self.jobs[0].config, {}), space, known, self.metric, self.mode]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def check_search_settings(given: Mapping[str, Any]) -> SearchSettings:
    """The sweeper's settings as composed by Hydra.

    Raises:
        ConfigError: one line for each that is not allowed.
    """
    ours = {key: value for key, value in given.items() if key not in ("_target_", "params")}  # those are Hydra's
    try:
        return TypeAdapter(SearchSettings).validate_json(json.dumps(ours))
    except ValidationError as error:
        known = field_descriptions(SearchSettings)
        lines = []
        for finding in error.errors(include_url=False):
            key = str(finding["loc"][0])
            if key in known:
                value, choices = show_value(finding["input"]), finding.get("ctx", {}).get("expected", "")
                near = did_you_mean(value, choices.replace("'", "").replace(" or ", ", ").split(", "))
                lines.append(f"hydra.sweeper.{key}={value} is not allowed{near}: {known[key]}")
            else:
                lines.append(unknown_key(f"hydra.sweeper.{key}", [f"hydra.sweeper.{name}" for name in known]))
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def check_search(composed: ComposedSweep) -> Search:
    """Check a whole search, before anything heavy is loaded.

    Raises:
        ConfigError: what cannot be searched, why, and what to do.
    """
    settings = check_search_settings(composed.sweeper)
    with composing(composed.config_dir):
        given = parse_overrides(composed.overrides)
        chosen = [str(override.input_line) for override in given if not override.is_sweep_override()]
        space, fixed = parse_search_space(given, read_search_space(chosen))
        _check_sampler(space, settings.sampler)
        jobs = compose_corners(space, fixed)
    corners = [job.config for job in jobs]
    if not all(config.data.validation for config in corners) and corners[0].objective.metric == "auto":
        raise ConfigError(
            "data.validation=0 leaves nothing to rank the trials by but the test set, which a search must not be"
            " fitted to. Set data.validation, or name another metric, such as objective.metric=loss."
        )
    objectives = {objective_of(config) for config in corners}
    if len(objectives) > 1:
        names = join_sorted(metric for metric, _ in objectives)
        raise ConfigError(f"The trials of this search have different objectives: {names}. Set objective.metric.")
    ((metric, mode),) = objectives
    reported = metric.removeprefix("best_")
    if metric.startswith("test_"):
        reported = metric.replace("test_", "val_", 1) if all(config.data.validation for config in corners) else ""
    known = set.intersection(*(set(epoch_metric_names(config)) for config in corners))
    if settings.pruner != "none" and reported not in known:
        raise ConfigError(
            f"hydra.sweeper.pruner={settings.pruner} needs a metric after each epoch, and objective.metric={metric} has"
            f" none. Use pruner=none, or an objective from: {join_sorted(known)}"
        )
    return Search(
        jobs,
        composed.launcher,
        composed.sweeper,
        composed.overrides,
        composed.config_dir,
        space,
        fixed,
        settings,
        metric,
        mode,
        reported,
    )


def _check_sampler(space: SearchSpace, sampler: str) -> None:
    intervals = [p for p in space if not p.choices and p.step is None and p.low != p.high]
    if sampler == "grid" and intervals:
        key = intervals[0].key
        raise ConfigError(
            f"hydra.sweeper.sampler=grid tries every value, and {key} is an interval. Give its values, such as"
            f" {key}=choice(A,B), or choose another sampler."
        )
    numbers = [p.key for p in space if p.low != p.high and not p.when]
    if sampler == "cmaes" and len(numbers) < 2:
        raise ConfigError(
            "hydra.sweeper.sampler=cmaes needs two or more parameters that are numbers (interval or range) and have no"
            f" condition; this search has: {join_sorted(numbers)}. Use sampler=tpe."
        )
