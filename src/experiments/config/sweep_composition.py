"""From a command line with -m to the validated configs of a sweep's jobs, and the launcher's and sweeper's settings."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any, Literal

from hydra import compose
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from experiments.config.composition import (
    NOT_COMPOSABLE,
    ComposedJob,
    compose_jobs,
    composing,
    explain_composition,
    refuse_space,
)
from experiments.config.fields import LARGEST_SEED, STRICT_FIELDS, Count, Positive, PositiveFloat, described
from experiments.config.hydra_internals import expand_product
from experiments.config.identity import fingerprint_of
from experiments.config.overrides import is_hydra_key, override_key, parse_overrides
from experiments.config.validation import field_descriptions, show_value
from experiments.errors import ConfigError, did_you_mean, join_sorted, show_given, unknown_key

MOST_JOBS = 10_000  # of a sweep

Params = Annotated[dict[str, Any], described("what to sweep over, as {KEY:'A,B'}")]


@pydantic_dataclass(config=STRICT_FIELDS, kw_only=True)
class BasicSettings:
    """hydra.launcher of hydra/launcher=basic, which has no settings."""


@pydantic_dataclass(config=STRICT_FIELDS, kw_only=True)
class PoolSettings:
    """hydra.launcher of conf/hydra/launcher/pool.yaml."""

    workers: Annotated[Positive | None, described("processes, from 1 on, or null")]
    timeout_minutes: Annotated[PositiveFloat | None, described("minutes, greater than 0, or null")]


@pydantic_dataclass(config=STRICT_FIELDS, kw_only=True)
class ProductSettings:
    """hydra.sweeper of conf/hydra/sweeper/product.yaml."""

    params: Params


@pydantic_dataclass(config=STRICT_FIELDS, kw_only=True)
class SearchSettings:
    """hydra.sweeper of conf/hydra/sweeper/optuna.yaml."""

    n_trials: Annotated[Positive, described("trials in all, from 1 on")]
    sampler: Annotated[Literal["tpe", "random", "grid", "cmaes"], described("tpe, random, grid or cmaes")]
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED, description="seed of the sampler, from 0 to 4294967295")]
    startup_trials: Annotated[Count, described("trials before the sampler learns and median prunes, 0 or more")]
    pruner: Annotated[Literal["none", "median", "hyperband"], described("none, median or hyperband")]
    warmup_epochs: Annotated[Positive, described("epochs that every trial is given before it may be pruned, from 1 on")]
    params: Params = field(default_factory=dict)


LAUNCHERS = {"basic": BasicSettings, "pool": PoolSettings}
SWEEPERS = {"optuna": SearchSettings, "product": ProductSettings}
TAKEN = re.compile(r"hydra[./](launcher|sweeper)(\..+)?|hydra\.mode")
HYDRA_CHOICES = {"hydra/launcher": LAUNCHERS, "hydra/sweeper": SWEEPERS, "hydra.mode": ("MULTIRUN", "RUN")}


@dataclass(frozen=True)
class ComposedSweep:
    """The sweep that a command with -m describes: its jobs, and the settings of the launcher and the sweeper."""

    jobs: list[ComposedJob]  # in Hydra's order; for a search, see search.py
    launcher: BasicSettings | PoolSettings
    sweeper: ProductSettings | SearchSettings
    overrides: list[str]  # of the command, without `hydra.*`
    config_dir: str | None  # a further folder of config files

    @property
    def is_search(self) -> bool:
        return isinstance(self.sweeper, SearchSettings)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the jobs' configs in any order, by which the sweep is found again."""
        parts = sorted(fingerprint_of(job.config, {}) for job in self.jobs)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def compose_sweep(overrides: Sequence[str], config_dir: str | None = None) -> ComposedSweep:
    """Compose and validate what a command with -m stands for; for a search, only its settings.

    Raises ConfigError for the first setting or job that is not allowed.
    """
    with composing(config_dir):
        given = parse_overrides(overrides)
        launcher, sweeper = _read_settings([o for o in given if is_hydra_key(o.key_or_group)])
        parsed = parse_overrides([f"{key}={value}" for key, value in sweeper.params.items()])
        parsed += [override for override in given if not is_hydra_key(override.key_or_group)]
        for override in parsed:
            if override.key_or_group.startswith("sweep.") and override.is_sweep_override():
                raise ConfigError(_several_values(override))
        jobs: list[ComposedJob] = []
        if not isinstance(sweeper, SearchSettings):
            refuse_space(parsed)
            _check_sweep_values(parsed)
            jobs = compose_jobs(_expand_jobs(parsed))
            if jobs[0].config.sweep.zip:
                raise ConfigError("sweep.zip is about the values on a command line. Give it there, not in a file.")
        elif any(override.key_or_group == "sweep.zip" for override in parsed):
            raise ConfigError("sweep.zip pairs values that are named, and a search draws its own. Leave it out.")
        return ComposedSweep(jobs, launcher, sweeper, [str(override.input_line) for override in parsed], config_dir)


def is_sweep_command(overrides: Iterable[str]) -> bool:
    """Return whether `hydra.mode` makes a sweep of a command without -m; refuse settings that then have no effect."""
    own = [override for override in overrides if is_hydra_key(override_key(override))]
    if not own:
        return False
    with composing():
        parsed = parse_overrides(own)
        _read_settings(parsed)
    modes = [override.value() for override in parsed if override.key_or_group == "hydra.mode"]
    if modes and modes[-1] == "MULTIRUN":
        return True
    if unused := next((o.input_line for o in parsed if o.key_or_group != "hydra.mode"), None):
        raise ConfigError(f"{unused!r} has no effect on a single run. For a sweep add -m, or leave it out.")
    return False


def _check_hydra_overrides(parsed: Iterable[Override]) -> None:
    """Raise ConfigError for Hydra settings that have no effect here, as Hydra runs no jobs, and for other plug-ins."""
    for override in parsed:
        line, key = str(override.input_line), override.key_or_group
        if not TAKEN.fullmatch(key):
            raise ConfigError(
                f"{key} is not supported: it would have no effect. Choices: hydra/launcher,"
                " hydra/sweeper, hydra.launcher.*, hydra.sweeper.* and hydra.mode."
            )
        if override.is_sweep_override():
            raise ConfigError(_several_values(override))
        if override.is_delete():
            raise ConfigError(f"{line!r} is not supported: a setting of Hydra cannot be removed. Leave it out.")
        value, choices = show_value(override.value()), HYDRA_CHOICES.get(key, [])
        if choices and value not in choices:
            near = did_you_mean(value, choices)
            raise ConfigError(f"{key}={value} is not a choice{near}. Choices of {key}: {join_sorted(choices)}")
        if key in ("hydra.launcher", "hydra.sweeper") and not isinstance(override.value(), dict):
            raise ConfigError(f"{key}={value} is not a mapping. Give its keys, such as {key}.KEY=VALUE.")


def _several_values(override: Override) -> str:
    return f"{show_given(str(override.input_line))} names several values. Give {override.key_or_group} one value."


def _check_sweep_values(parsed: list[Override]) -> None:
    """Raise ConfigError for values that cannot be listed, and for too many jobs, before there is a list of them."""
    zipped, jobs = any(override.key_or_group == "sweep.zip" for override in parsed), 1
    for override in filter(Override.is_sweep_override, parsed):
        problem, count = "", 0
        try:
            if override.is_discrete_sweep():
                count = sum(1 for _ in islice(override.sweep_string_iterator(), MOST_JOBS + 1))
                problem = "" if count else "matches no value, so there is nothing to run. Name"
            else:
                problem = "is a range to search in. Add hydra/sweeper=optuna, or name"
        except (ValueError, ArithmeticError):  # of range(0,1,0)
            problem = "has no values that can be listed. Name"
        if problem:
            raise ConfigError(f"{override.input_line!r} {problem} the values: {override.key_or_group}=A,B,C.")
        jobs = max(jobs, count) if zipped else jobs * count
        if jobs > MOST_JOBS:
            more = f"makes more than {MOST_JOBS:,} jobs. Name fewer values, or let a search draw them"
            raise ConfigError(f"{override.input_line!r} {more}: hydra/sweeper=optuna")


def _expand_jobs(parsed: list[Override]) -> list[list[str]]:
    """Return the jobs of a sweep by their overrides: every combination, where the keys of `sweep.zip` go together."""
    others = [override for override in parsed if override.key_or_group != "sweep.zip"]
    keys: Any = next((o.value() for o in reversed(parsed) if o.key_or_group == "sweep.zip"), None)
    if keys is None:
        return expand_product(others)
    swept = {o.key_or_group: list(o.sweep_string_iterator()) for o in others if o.is_sweep_override()}
    named = {key for key in keys if isinstance(key, str)} if isinstance(keys, list) else set()
    if len(named) < 2 or len(named) < len(keys):
        example = ",".join([*swept, "KEY", "KEY"][:2])
        raise ConfigError(f"sweep.zip={show_value(keys)} is not a list of two or more keys: sweep.zip=[{example}].")
    if unknown := next((key for key in keys if key not in swept), None):
        near = did_you_mean(unknown, set(swept) - named)
        raise ConfigError(
            f"sweep.zip names {unknown!r}, which this command does not give several values{near}. Keys that have"
            f" several: {join_sorted(swept)}"
        )
    if len({len(swept[key]) for key in keys}) > 1:
        counts = ", ".join(f"{key} has {len(swept[key])}" for key in keys)
        raise ConfigError(f"sweep.zip pairs values one to one, so each key needs as many: {counts}.")
    jobs: list[list[str]] = []
    for number in range(len(swept[keys[0]])):
        lines = [
            f"{o.get_key_element()}={swept[o.key_or_group][number]}" if o.key_or_group in keys else str(o.input_line)
            for o in others
        ]
        jobs += expand_product(parse_overrides(lines))
    return jobs


def _read_settings(parsed: list[Override]) -> tuple[Any, Any]:
    """Return the settings of the launcher and of the sweeper that these overrides of `hydra.*` choose."""
    _check_hydra_overrides(parsed)
    lines = []
    for override in parsed:
        line, key = str(override.input_line), override.key_or_group
        explained_here = "/" not in key and key != "hydra.mode" and not line.startswith(("+", "~"))
        lines.append(f"++{line}" if explained_here else line)  # else Hydra words the error for an unknown key
    try:
        hydra: Any = compose("config", overrides=lines, return_hydra_config=True).hydra
        settings: Any = OmegaConf.to_container(hydra)  # not resolved, as some of it refers to a job
    except ConfigError:
        raise
    except NOT_COMPOSABLE as error:
        raise explain_composition(lines, error) from None
    chosen = hydra.runtime.choices
    launcher = _validate_settings("hydra.launcher", LAUNCHERS[chosen["hydra/launcher"]], settings["launcher"])
    return launcher, _validate_settings("hydra.sweeper", SWEEPERS[chosen["hydra/sweeper"]], settings["sweeper"])


def _validate_settings(prefix: str, schema: Any, given: Mapping[str, Any]) -> Any:
    given = {key: value for key, value in given.items() if key != "_target_"}  # of Hydra's own `basic`
    try:
        return TypeAdapter(schema).validate_json(json.dumps(given))
    except ValidationError as error:
        known = field_descriptions(schema)
        lines = []
        for finding in error.errors(include_url=False):
            key = str(finding["loc"][0])
            if key not in known:
                lines.append(unknown_key(f"{prefix}.{key}", [f"{prefix}.{name}" for name in known]))
                continue
            value = show_value(given[key])
            near = did_you_mean(value, re.findall(r"'(.*?)'", finding.get("ctx", {}).get("expected", "")))
            lines.append(f"{prefix}.{key}={value} is not allowed{near}: {known[key]}")
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None
