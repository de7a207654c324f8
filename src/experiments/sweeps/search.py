"""What a search is: its space, sampler, pruner and objective, checked before anything heavy is loaded."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

from experiments.config.composition import composing, read_search_space
from experiments.config.facts import epoch_metric_names, objective_of
from experiments.config.identity import fingerprint_of
from experiments.config.overrides import parse_overrides
from experiments.config.sweep_composition import ComposedSweep, SearchSettings
from experiments.errors import ConfigError, join_sorted
from experiments.sweeps.search_space import SearchSpace, compose_corners, parse_search_space


@dataclass(frozen=True)
class Search(ComposedSweep):
    """A search, checked. Its `jobs` are corners of the space, in which every choice and bound occurs.

    Attributes:
        sweeper: sampler, pruner and number of trials.
        space: what varies.
        fixed: the overrides that all trials share.
        metric, mode: the objective.
        reported: the metric after each epoch by which trials are pruned.
    """

    sweeper: SearchSettings
    space: SearchSpace
    fixed: list[str]
    metric: str
    mode: Literal["max", "min"]
    reported: str

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
    """Check a search as a whole.

    Raises:
        ConfigError: what cannot be searched, why, and what to do.
    """
    settings = composed.sweeper
    assert isinstance(settings, SearchSettings)
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
    numbers = [p.key for p in space if p.low != p.high and not p.when]
    if sampler == "cmaes" and len(numbers) < 2:
        raise ConfigError(
            "hydra.sweeper.sampler=cmaes needs two or more parameters that are numbers (interval or range) and have no"
            f" condition; this search has: {join_sorted(numbers)}. Use sampler=tpe."
        )
