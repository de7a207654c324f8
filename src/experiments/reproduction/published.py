"""Run published configs over their seeds, and compare the results, also in a table, with those the configs state."""

import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import distributions
from math import sqrt
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import yaml

from experiments.config.choices import choice_files
from experiments.config.composition import compose_job
from experiments.config.identity import affects_result, fingerprint_of, identity_tags
from experiments.config.metrics import find_metric, higher_is_better
from experiments.config.overrides import override_key
from experiments.config.schema import Config, Expectation
from experiments.config.yaml_files import read_yaml
from experiments.data.datasets import load_dataset
from experiments.errors import ConfigError, join_sorted
from experiments.experiment import run_experiment
from experiments.formatting import format_duration
from experiments.reproduction.original_run import recorded_hardware
from experiments.reproduction.resume import find_resumed_run
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.records import RunRecord, runs_with_tags
from experiments.tracking.store import connect_store

CUT_OFF = ("KILLED", "RUNNING")  # entering a run that another process is still running is refused
AS_PUBLISHED = ".4g"  # no more digits than the source gives
TABLE_BEGIN = "<!-- reproduce.py --table: begin -->\n"
TABLE_END = "<!-- reproduce.py --table: end -->\n"
TABLE_HEADINGS = ("Config", "Metric", "Published", "Reached", "Recorded", "Seeds", "Rerun", "Seeds", "Time", "Date")


@dataclass(frozen=True)
class PublishedConfig:
    """A published config, to be run once for each seed."""

    name: str
    quick: bool  # whether it is the shrunk version, which has no published result
    expected: Expectation  # with overrides
    configs: list[Config]  # one for each seed
    overrides: list[list[str]]  # that make each config
    mean: float | None  # recorded; None if it was not measured
    tolerance: float | None  # the allowed difference from the mean
    recorded_seeds: int  # behind the mean
    not_comparable: str | None = None  # why the results cannot be compared with those in the file

    @property
    def uri(self) -> str:
        return resolve_tracking_uri(self.configs[0].tracking.uri)

    def runs_by_seed(self) -> list[list[RunRecord]]:
        """Find for each seed its runs with the same config, code, packages and data, newest first."""
        digest = load_dataset(self.configs[0].data, self.configs[0].seed).digest
        client = connect_store(self.uri)
        fingerprints = [identity_tags(config, digest)["fingerprint"] for config in self.configs]
        return [runs_with_tags(client, {"fingerprint": fingerprint}) for fingerprint in fingerprints]

    def finished_runs(self) -> list[RunRecord]:
        """Find one finished run for each seed that has one."""
        return [run for found in self.runs_by_seed() if (run := _first_finished(found))]

    def run_all(self) -> list[RunRecord]:
        """Run every seed that has no finished run, and resume those that were cut off; report on stderr."""
        with redirect_stdout(sys.stderr):
            for found, config, overrides in zip(self.runs_by_seed(), self.configs, self.overrides, strict=True):
                if done := _first_finished(found):
                    print(f"{self.name}, seed {config.seed}: already done in run {done.run_id}.")
                    continue
                cut_off = next((run.run_id for run in found if run.status in CUT_OFF), None)
                action = f"resuming run {cut_off}" if cut_off else "starting a new run"
                print(f"{self.name}, seed {config.seed}: {action}.")
                if cut_off:
                    # The recorded overrides may differ from these, as another command can make the same config.
                    anew = [o for o in overrides if not affects_result(override_key(o))]
                    config, overrides = find_resumed_run(replace(config, resume=cut_off), anew)
                run_experiment(config, overrides, run_id=cut_off)
        return self.finished_runs()


@dataclass(frozen=True)
class PublishedOutcome:
    """The results of finished runs of a published config."""

    values: list[float]  # the metric of each run
    mean: float
    standard_deviation: float | None  # with n - 1 in the denominator; None for one run
    reproduced: bool | None  # whether the mean is within the tolerance of the recorded one; None if there is none
    reached: bool | None  # whether the mean is at least as good as the published number; None if there is none


def published_expectations() -> dict[str, dict[str, Any]]:
    """Return what each published config states under `expected`, unchecked, by name; {} if it cannot be read."""
    found = {}
    for file in choice_files("experiment"):
        try:
            content = read_yaml(file.read_text(encoding="utf-8"), str(file))
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            content = {"expected": {}}
        if isinstance(content, dict) and isinstance(content.get("expected"), dict):
            found[file.stem] = content["expected"]
    return found


def find_published(
    name: str, overrides: Sequence[str] = (), uri: str | None = None, quick: bool = False
) -> PublishedConfig:
    """Find the published config in conf/experiment/ of this name, or its shrunk version, with its seeds.

    Overrides such as `expected.seeds=[0]` choose other seeds; those that can affect the result make it another
    experiment, which has no expected results. `uri` is that of the store, by default the one that the config names.
    Raise a ConfigError if it states no expected results, has no shrunk version, or an override is not allowed.
    """
    config = compose_job([f"experiment={name}", *overrides])
    file = compose_job([f"experiment={name}"]) if overrides else config
    expected, stated = config.expected, file.expected
    if expected is None or stated is None:
        raise ConfigError(
            f"{name} is not a published config: expected is null. Choices: {join_sorted(published_expectations())}"
        )
    if any(re.match(r"[+~]*(seed|experiment|resume)(=|$)", override) for override in overrides):
        raise ConfigError(f"{name} runs unchanged with each of its seeds. Choose seeds with expected.seeds=[0,1]")
    if config.distribution.strategy == "multi_worker":
        raise ConfigError("distribution=multi_worker cannot run several seeds. Use distribution=mirrored.")
    all_overrides, seeds, recorded_seeds = [f"experiment={name}", *overrides], expected.seeds, len(stated.seeds)
    mean, tolerance = expected.mean, _stated_tolerance(expected, stated)
    if quick:
        if expected.quick is None or stated.quick is None:
            raise ConfigError(f"{name} has no shrunk version: expected.quick is null. Run it without --quick.")
        all_overrides = [f"experiment={name}", *expected.quick.overrides, *overrides]
        seeds, recorded_seeds = seeds[:1], 1
        mean, tolerance = expected.quick.mean, expected.quick.tolerance
        config = compose_job(all_overrides)
        file = compose_job([f"experiment={name}", *stated.quick.overrides])
    not_comparable = None
    if fingerprint_of(config, {}) != fingerprint_of(file, {}):
        not_comparable = "The overrides make it another experiment"
    elif expected.metric != stated.metric:
        not_comparable = f"The expected results are for {stated.metric}, not {expected.metric}"
    if not_comparable:
        nothing: dict[str, Any] = dict.fromkeys(("published", "mean", "standard_deviation", "tolerance", "versions"))
        expected, mean, tolerance = replace(expected, **nothing), None, None
    config = replace(config, tracking=replace(config.tracking, uri=uri or config.tracking.uri))
    configs = [replace(config, seed=seed) for seed in seeds]
    each = [[*all_overrides, f"seed={seed}"] for seed in seeds]
    return PublishedConfig(name, quick, expected, configs, each, mean, tolerance, recorded_seeds, not_comparable)


def _stated_tolerance(expected: Expectation, file: Expectation) -> float | None:
    """Return the largest allowed difference between the mean over `expected.seeds` and the mean in the file.

    It is the tolerance that is given or, for another number of seeds, three standard errors of the difference.
    """
    recorded, given, allowed = len(file.seeds), len(expected.seeds), expected.tolerance
    if allowed is None or allowed != file.tolerance or given == recorded:
        return allowed
    # The tolerance in the file may come from a spread over more seeds than its own.
    deviation = max(expected.standard_deviation or 0, allowed / (3 * sqrt(2 / recorded)))
    return 3 * deviation * sqrt(1 / recorded + 1 / given)


def judge_published(published: PublishedConfig, finished: Sequence[RunRecord]) -> PublishedOutcome | None:
    """Compare the mean of the runs with the recorded mean and the published number; return None without runs."""
    values = [run.metrics[published.expected.metric] for run in finished]
    if not values:
        return None
    mean, reproduced = fmean(values), None
    if published.mean is not None and published.tolerance is not None:
        # A mean that is better by more than the tolerance does not reproduce it.
        reproduced = abs(mean - published.mean) <= published.tolerance
    reached = None if published.quick else is_reached(published.expected, mean)
    return PublishedOutcome(values, mean, stdev(values) if len(values) > 1 else None, reproduced, reached)


def is_reached(expected: Expectation, mean: float | None) -> bool | None:
    """Return whether the mean is at least as good as the published number; None if either is missing."""
    if mean is None or expected.published is None:
        return None
    return mean >= expected.published if higher_is_better(expected.metric) else mean <= expected.published


def version_changes(expected: Expectation) -> list[str]:
    """List the packages with other versions than when the results were recorded."""
    installed = {found.name: found.version for found in distributions()}
    return [
        f"{package} was {recorded}, is {version}"
        for package, recorded in (expected.versions or {}).items()
        if (version := installed.get(package, "not installed")) != recorded
    ]


def show_metric(metric: str, value: float | None, form: str = ".3f") -> str:
    """Show a value or a standard deviation of the metric, in its unit.

    >>> show_metric("test_accuracy", 0.99028), show_metric("test_accuracy", 0.9904, AS_PUBLISHED)
    ('99.028 %', '99.04 %')
    """
    if value is None:
        return "-"
    known = find_metric(metric)
    return f"{100 / known.whole * value:{form}} %" if known and known.whole else f"{value:.4g}"


def show_mean(metric: str, mean: float | None, standard_deviation: float | None) -> str:
    """Show a mean with its standard deviation, if it has one: `1.920 % ± 0.075 %`."""
    spread = "" if standard_deviation is None else f" ± {show_metric(metric, standard_deviation)}"
    return show_metric(metric, mean) + spread


def _first_finished(found: Sequence[RunRecord]) -> RunRecord | None:
    return next((run for run in found if run.status == "FINISHED"), None)


def check_document(document: Path) -> None:
    """Raise a ConfigError early unless the file can be read and written and has a place for the table."""
    try:
        text = document.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{document} cannot be read: {error}") from None
    if not 0 <= text.find(TABLE_BEGIN) < text.find(TABLE_END):
        raise ConfigError(
            f"{document} has no place for the table. Add the lines {TABLE_BEGIN.strip()} and {TABLE_END.strip()}"
        )
    if not os.access(document, os.W_OK) or not os.access(document.parent, os.W_OK):
        raise ConfigError(f"{document} cannot be written: no permission. Give a copy of it to --table.")


def write_table(document: Path, configs: Sequence[PublishedConfig]) -> None:
    """Write the table of published configs between the two lines that mark its place.

    Reruns are the finished runs in the store that were made with this code, these packages and this data. They, or
    without them the recorded results in the configs, decide whether the published number is reached.
    """
    before, _, rest = document.read_text(encoding="utf-8").partition(TABLE_BEGIN)
    after = rest.partition(TABLE_END)[2]
    rows = [(published, published.finished_runs()) for published in configs]
    lines = [TABLE_HEADINGS, ["---"] * len(TABLE_HEADINGS), *(_table_cells(*row) for row in rows)]
    machines = sorted({_describe_machine(published.uri, run) for published, finished in rows for run in finished})
    text = "\n".join([*(f"| {' | '.join(cells)} |" for cells in lines), "", *(f"Rerun on {m}." for m in machines)])
    temporary = document.with_name(f".{document.name}.tmp")
    temporary.write_text(f"{before}{TABLE_BEGIN}{text}\n{TABLE_END}{after}", encoding="utf-8")
    temporary.rename(document)


def _table_cells(published: PublishedConfig, finished: Sequence[RunRecord]) -> list[str]:
    expected, outcome = published.expected, judge_published(published, finished)
    reached = outcome.reached if outcome else is_reached(expected, expected.mean)
    stated = show_metric(expected.metric, expected.published, AS_PUBLISHED)
    recorded = show_mean(expected.metric, expected.mean, expected.standard_deviation)
    recorded_seeds = "-" if expected.mean is None else str(published.recorded_seeds)
    answer = {True: "yes", False: "no", None: "-"}[reached]
    cells = [f"`{published.name}`", f"`{expected.metric}`", stated, answer, recorded, recorded_seeds]
    if outcome is None:
        return [*cells, "-", "-", "-", "-"]
    mean = show_mean(expected.metric, outcome.mean, outcome.standard_deviation)
    seeds, all_seeds = len(finished), len(published.configs)
    seconds = median(run.metrics["train_seconds"] for run in finished)
    date = datetime.fromtimestamp(max(run.end_time or 0 for run in finished) / 1000, UTC).date()
    share = str(seeds) if seeds == all_seeds else f"{seeds} of {all_seeds}"
    return [*cells, mean, share, format_duration(seconds), str(date)]


def _describe_machine(uri: str, run: RunRecord) -> str:
    hardware: dict[str, Any] = recorded_hardware(uri, run.run_id)
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    software = f"Python {hardware['python']}, {run.tags['versions'].replace(' ', ', ').replace('==', ' ')}"
    return f"{hardware['processor']}, {hardware['cores']} cores, {gpus}, {software}"
