"""Published results: configs that say what they are expected to give, run over their seeds and compared with that."""

import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from math import sqrt
from statistics import fmean, stdev
from typing import Any

import yaml

from experiments.config.choices import choice_files
from experiments.config.composition import compose_job
from experiments.config.expected_schema import Expectation
from experiments.config.identity import affects_result, fingerprint_of, identity_tags
from experiments.config.metrics import find_metric, higher_is_better
from experiments.config.overrides import override_key
from experiments.config.schema import Config
from experiments.data.datasets import load_dataset
from experiments.errors import ConfigError, join_sorted
from experiments.experiment import run_experiment
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.records import RunRecord, runs_with_tags
from experiments.tracking.store import connect_store

CUT_OFF = ("KILLED", "RUNNING")  # one that another process still runs is refused when it is entered
AS_PUBLISHED = ".4g"  # no digits that the source does not give


@dataclass(frozen=True)
class PublishedConfig:
    """A published config, to be run once for each seed.

    Attributes:
        name: its file in conf/experiment/.
        quick: it is the shrunk version, which nobody published.
        configs: one for each seed.
        overrides: what makes each of them.
        mean, tolerance: ours then; None: not measured.
        seeds_then: how many gave the mean.
        another: why what the file expects is nothing to compare with; None if it is.
    """

    name: str
    quick: bool
    expected: Expectation
    configs: list[Config]
    overrides: list[list[str]]
    mean: float | None
    tolerance: float | None
    seeds_then: int
    another: str | None = None

    @property
    def uri(self) -> str:
        return resolve_tracking_uri(self.configs[0].tracking.uri)

    def recorded(self) -> list[list[RunRecord]]:
        """For each seed its runs in the store, the newest first: same config, code, packages and data.

        Raises:
            DataError: the data cannot be had.
            StoreError: the store cannot be used.
        """
        digest = load_dataset(self.configs[0].data, self.configs[0].seed).digest
        client = connect_store(self.uri)
        return [
            runs_with_tags(client, {"fingerprint": identity_tags(config, digest)["fingerprint"]})
            for config in self.configs
        ]

    def finished(self) -> list[RunRecord]:
        """One finished run for each seed that has one."""
        return [run for found in self.recorded() if (run := _first_finished(found))]

    def run(self) -> list[RunRecord]:
        """Run every seed that has no finished run, going on with those that were cut off; all that is said to stderr.

        Raises:
            UserError: data, devices or store cannot be used.
            TrainingError: a run failed.
        """
        with redirect_stdout(sys.stderr):
            for found, config, overrides in zip(self.recorded(), self.configs, self.overrides, strict=True):
                if done := _first_finished(found):
                    print(f"{self.name}, seed {config.seed}: done before, in run {done.run_id}.")
                    continue
                cut_off = next((run.run_id for run in found if run.status in CUT_OFF), None)
                print(f"{self.name}, seed {config.seed}: {f'going on with run {cut_off}' if cut_off else 'a new run'}.")
                # What a run was started with is recorded, and need not have been this command.
                anew = [o for o in overrides if not affects_result(override_key(o))]
                run_experiment(replace(config, resume=cut_off), anew if cut_off else overrides)
        return self.finished()


@dataclass(frozen=True)
class PublishedOutcome:
    """What finished runs of a published config came to.

    Attributes:
        values: the metric of each run.
        mean, standard_deviation: of them; the latter, n - 1 in the denominator, is None for one run.
        reproduced: whether the mean is within the tolerance of ours then; None if it was not measured then.
        reached: whether the mean is as good as the published number, or better; None if there is none.
    """

    values: list[float]
    mean: float
    standard_deviation: float | None
    reproduced: bool | None
    reached: bool | None


def published_expectations() -> dict[str, dict[str, Any]]:
    """The published configs: name -> what it says that is expected, as it stands in the file, right or wrong.

    A file that cannot be read states {}: it may be one of them, and is refused in words when it is run.
    """
    found = {}
    for file in choice_files("experiment"):
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            content = {"expected": {}}
        if isinstance(content, dict) and isinstance(content.get("expected"), dict):
            found[file.stem] = content["expected"]
    return found


def find_published(
    name: str, overrides: Sequence[str] = (), uri: str | None = None, quick: bool = False
) -> PublishedConfig:
    """The published config of this name, with its seeds.

    Args:
        overrides: further changes; `expected.seeds=[0]` for other seeds. With those that can change a result it is
            another experiment, of which nothing is expected.
        uri: of the tracking store; None for the one that the config names.
        quick: its shrunk version instead.

    Raises:
        ConfigError: nothing is expected of it, it has no shrunk version, or an override is not allowed.
    """
    config = compose_job([f"experiment={name}", *overrides])
    file = compose_job([f"experiment={name}"]) if overrides else config
    expected, stands = config.expected, file.expected
    if expected is None or stands is None:
        raise ConfigError(
            f"{name} is no published config: expected is null. Choices: {join_sorted(published_expectations())}"
        )
    if any(re.match(r"[+~]*(seed|experiment|resume)(=|$)", override) for override in overrides):
        raise ConfigError(f"{name} runs as it is for each of its seeds. Choose them with expected.seeds=[0,1]")
    if config.distribution.strategy == "multi_worker":
        raise ConfigError("distribution=multi_worker starts processes for one run each. Use distribution=mirrored.")
    whole, seeds, seeds_then = [f"experiment={name}", *overrides], expected.seeds, len(stands.seeds)
    mean, tolerance = expected.mean, _stated_tolerance(expected, stands)
    if quick:
        if expected.quick is None or stands.quick is None:
            raise ConfigError(f"{name} has no shrunk version: expected.quick is null. Run it without --quick.")
        whole, seeds, seeds_then = [f"experiment={name}", *expected.quick.overrides, *overrides], seeds[:1], 1
        mean, tolerance = expected.quick.mean, expected.quick.tolerance
        config = compose_job(whole)
        file = compose_job([f"experiment={name}", *stands.quick.overrides])
    another = None
    if fingerprint_of(config, {}) != fingerprint_of(file, {}):
        another = "The overrides make it another experiment"
    elif expected.metric != stands.metric:
        another = f"What is expected is {stands.metric}, not {expected.metric}"
    if another:
        nothing: dict[str, Any] = dict.fromkeys(("published", "mean", "standard_deviation", "tolerance", "versions"))
        expected, mean, tolerance = replace(expected, **nothing), None, None
    config = replace(config, tracking=replace(config.tracking, uri=uri or config.tracking.uri))
    configs = [replace(config, seed=seed) for seed in seeds]
    each = [[*whole, f"seed={seed}"] for seed in seeds]
    return PublishedConfig(name, quick, expected, configs, each, mean, tolerance, seeds_then, another)


def _stated_tolerance(expected: Expectation, file: Expectation) -> float | None:
    """The largest difference of the mean over `expected.seeds` to that over the seeds of the file.

    It is the file's, unless one is given, or there are more or fewer seeds: three standard errors of the difference.
    """
    then, now, allowed = len(file.seeds), len(expected.seeds), expected.tolerance
    if allowed is None or allowed != file.tolerance or now == then:
        return allowed
    # The file may go by a spread that was measured over more seeds than its own.
    deviation = max(expected.standard_deviation or 0, allowed / (3 * sqrt(2 / then)))
    return 3 * deviation * sqrt(1 / then + 1 / now)


def judge_published(published: PublishedConfig, finished: Sequence[RunRecord]) -> PublishedOutcome | None:
    """Compare the runs' mean with ours then and with the published number; None without runs.

    The published number is reached by whatever is as good or better; ours by what is within the tolerance either way.
    """
    values = [run.metrics[published.expected.metric] for run in finished]
    if not values:
        return None
    mean, reproduced = fmean(values), None
    if published.mean is not None and published.tolerance is not None:
        reproduced = abs(mean - published.mean) <= published.tolerance
    reached = None if published.quick else _is_reached(published.expected, mean)
    return PublishedOutcome(values, mean, stdev(values) if len(values) > 1 else None, reproduced, reached)


def _is_reached(expected: Expectation, mean: float | None) -> bool | None:
    if mean is None or expected.published is None:
        return None
    return mean >= expected.published if higher_is_better(expected.metric) else mean <= expected.published


def version_changes(expected: Expectation) -> list[str]:
    """The packages that are not installed as they were when ours was measured."""
    installed = {package: _installed_version(package) for package in expected.versions or {}}
    return [
        f"{package} was {then}, is {installed[package]}"
        for package, then in (expected.versions or {}).items()
        if installed[package] != then
    ]


def show_metric(metric: str, value: float | None, form: str = ".3f") -> str:
    """A value, or a standard deviation, of the metric, in its unit.

    >>> shown("test_accuracy", 0.99028), shown("test_accuracy", 0.9904, AS_PUBLISHED), shown("test_error_percent", None)
    ('99.028 %', '99.04 %', '-')
    """
    if value is None:
        return "-"
    known = find_metric(metric)
    return f"{100 / known.whole * value:{form}} %" if known and known.whole else f"{value:.4g}"


def _first_finished(found: Sequence[RunRecord]) -> RunRecord | None:
    return next((run for run in found if run.status == "FINISHED"), None)


def _installed_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
