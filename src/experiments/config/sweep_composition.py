"""From a command line with -m to the validated configs of a sweep's jobs."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra import compose
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from experiments.config.composition import (
    NOT_COMPOSABLE,
    ComposedJob,
    compose_jobs,
    composing,
    explain_composition,
    refuse_space,
)
from experiments.config.explanation import show_value
from experiments.config.hydra_internals import expand_product
from experiments.config.identity import fingerprint_of
from experiments.config.overrides import (
    is_hydra_key,
    parse_overrides,
)
from experiments.errors import ConfigError, unknown_key


@dataclass(frozen=True)
class ComposedSweep:
    """What a command with -m stands for.

    Attributes:
        jobs: every job, in Hydra's order; of a search see search.py.
        launcher: Hydra's settings of what runs the jobs, with its class as `_target_`.
        sweeper: Hydra's settings of what makes the jobs, with its class as `_target_`.
        overrides: of the command, less those of `hydra.*`.
        config_dir: a further folder of config files.
    """

    jobs: list[ComposedJob]
    launcher: Mapping[str, Any]
    sweeper: Mapping[str, Any]
    overrides: list[str]
    config_dir: str | None

    @property
    def is_search(self) -> bool:
        return not self.sweeper["_target_"].endswith(".BasicSweeper")

    @property
    def digest(self) -> str:
        """What the sweep is known by, SHA-256 (hex): the configs of its jobs, in whatever order."""
        parts = sorted(fingerprint_of(job.config, {}) for job in self.jobs)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def more(self, jobs: Sequence[Sequence[str]]) -> list[ComposedJob]:
        """Compose further jobs of a search, each from all its overrides.

        Raises:
            ConfigError: on the first job that cannot run.
        """
        with composing(self.config_dir):
            return compose_jobs([list(job) for job in jobs])


def compose_sweep(overrides: Sequence[str], config_dir: str | None = None) -> ComposedSweep:
    """Compose and validate what a command with -m stands for; of a search, only how it is run.

    Raises:
        ConfigError: on the first setting or job that cannot be, with what is wrong and what is allowed.
    """
    with composing(config_dir):
        parsed = parse_overrides(overrides)
        settings = [o.input_line for o in parsed if is_hydra_key(o.key_or_group) and o.input_line]
        hydra = _hydra_settings(settings)
        named = hydra["sweeper"].get("params") or {}
        if not isinstance(named, dict):
            raise ConfigError(
                f"hydra.sweeper.params={show_value(named)} is not allowed: what to sweep over, as {{KEY:'A,B'}}"
            )
        params = [f"{key}={value}" for key, value in named.items()]
        parsed = [
            *parse_overrides(params),
            *(override for override in parsed if not is_hydra_key(override.key_or_group)),
        ]
        given = [str(override.input_line) for override in parsed]
        sweep = ComposedSweep([], hydra["launcher"], hydra["sweeper"], given, config_dir)
        if sweep.is_search:
            return sweep
        _check_product(hydra["sweeper"])
        refuse_space(parsed)
        return replace(sweep, jobs=compose_jobs(_expand_sweep(parsed)))


def _expand_sweep(parsed: list[Override]) -> list[list[str]]:
    for override in filter(Override.is_sweep_override, parsed):
        if not override.is_discrete_sweep():
            raise ConfigError(
                f"{override.input_line!r} is a range to search in. Add hydra/sweeper=optuna, or name the values:"
                f" {override.key_or_group}=A,B,C."
            )
        if next(override.sweep_string_iterator(), None) is None:
            raise ConfigError(
                f"{override.input_line!r} stands for no value, so there is nothing to run. Name the values:"
                f" {override.key_or_group}=A,B,C."
            )
    return expand_product(parsed)


def _check_product(sweeper: Mapping[str, Any]) -> None:
    """Refuse what conf/hydra/sweeper/product.yaml does not allow: Hydra does so after the parent run is made."""
    known = ["max_batch_size", "params"]
    for key in sweeper:
        if key not in ("_target_", *known):
            raise ConfigError(unknown_key(f"hydra.sweeper.{key}", [f"hydra.sweeper.{name}" for name in known]))
    size = sweeper["max_batch_size"]
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ConfigError(
            f"hydra.sweeper.max_batch_size={size} is not allowed: jobs that are handed to the launcher at once, from 1"
            " on, or null: all"
        )


def _hydra_settings(overrides: list[str]) -> dict[str, Any]:
    """Hydra's own part of the config, not resolved: some of it refers to a job, which there is not yet."""
    try:
        hydra = compose("config", overrides=overrides, return_hydra_config=True).hydra
        return OmegaConf.to_container(hydra)  # type: ignore[return-value]
    except NOT_COMPOSABLE as error:
        raise explain_composition(overrides, error) from None
