"""Published results: configs that say what they are expected to give, run over their seeds and compared with that."""

import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import sqrt
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import yaml

from experiments import choices, data, experiment, runs, tracking
from experiments.compose import compose_job
from experiments.config import can_change_the_result, fingerprint, identity
from experiments.errors import ConfigError, listed
from experiments.formatting import duration
from experiments.schema import Config, Expected, higher_is_better

CUT_OFF = ("KILLED", "RUNNING")  # one that another process still runs is refused when it is entered
PERCENT = {"accuracy": 100, "error_percent": 1}  # by the end of a metric's name: times this it is a percentage
AS_PUBLISHED = ".4g"  # no digits that the source does not give


@dataclass(frozen=True)
class Published:
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
    expected: Expected
    configs: list[Config]
    overrides: list[list[str]]
    mean: float | None
    tolerance: float | None
    seeds_then: int
    another: str | None = None

    @property
    def uri(self) -> str:
        return tracking.resolve_uri(self.configs[0].tracking.uri)

    def recorded(self) -> list[list[runs.RunRecord]]:
        """For each seed its runs in the store, the newest first: same config, code, packages and data.

        Raises:
            DataError: the data cannot be had.
            StoreError: the store cannot be used.
        """
        digest = data.load(self.configs[0].data, self.configs[0].seed).digest
        client = tracking.connect(self.uri)
        return [
            runs.with_tags(client, {"fingerprint": identity(config, digest)["fingerprint"]}) for config in self.configs
        ]

    def finished(self) -> list[runs.RunRecord]:
        """One finished run for each seed that has one."""
        return [run for found in self.recorded() if (run := _finished(found))]

    def run(self) -> list[runs.RunRecord]:
        """Run every seed that has no finished run, going on with those that were cut off; all that is said to stderr.

        Raises:
            UserError: data, devices or store cannot be used.
            TrainingError: a run failed.
        """
        with redirect_stdout(sys.stderr):
            for found, config, overrides in zip(self.recorded(), self.configs, self.overrides, strict=True):
                if done := _finished(found):
                    print(f"{self.name}, seed {config.seed}: done before, in run {done.run_id}.")
                    continue
                cut_off = next((run.run_id for run in found if run.status in CUT_OFF), None)
                print(f"{self.name}, seed {config.seed}: {f'going on with run {cut_off}' if cut_off else 'a new run'}.")
                # What a run was started with is recorded, and need not have been this command.
                anew = [o for o in overrides if not can_change_the_result(o.lstrip("+").partition("=")[0])]
                experiment.run(replace(config, resume=cut_off), anew if cut_off else overrides)
        return self.finished()


@dataclass(frozen=True)
class Outcome:
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


def stated() -> dict[str, dict[str, Any]]:
    """The published configs: name -> what it says that is expected, as it stands in the file, right or wrong.

    A file that cannot be read states {}: it may be one of them, and is refused in words when it is run.
    """
    found = {}
    for file in choices.files("experiment"):
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            content = {"expected": {}}
        if isinstance(content, dict) and isinstance(content.get("expected"), dict):
            found[file.stem] = content["expected"]
    return found


def find(name: str, overrides: Sequence[str] = (), uri: str | None = None, quick: bool = False) -> Published:
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
        raise ConfigError(f"{name} is no published config: expected is null. Choices: {listed(stated())}")
    if any(re.match(r"[+~]*(seed|experiment|resume)(=|$)", override) for override in overrides):
        raise ConfigError(f"{name} runs as it is for each of its seeds. Choose them with expected.seeds=[0,1]")
    if config.distribution.strategy == "multi_worker":
        raise ConfigError("distribution=multi_worker starts processes for one run each. Use distribution=mirrored.")
    whole, seeds, seeds_then = [f"experiment={name}", *overrides], expected.seeds, len(stands.seeds)
    mean, tolerance = expected.mean, _tolerance(expected, stands)
    if quick:
        if expected.quick is None or stands.quick is None:
            raise ConfigError(f"{name} has no shrunk version: expected.quick is null. Run it without --quick.")
        whole, seeds, seeds_then = [f"experiment={name}", *expected.quick.overrides, *overrides], seeds[:1], 1
        mean, tolerance = expected.quick.mean, expected.quick.tolerance
        config = compose_job(whole)
        file = compose_job([f"experiment={name}", *stands.quick.overrides])
    another = None
    if fingerprint(config, {}) != fingerprint(file, {}):
        another = "The overrides make it another experiment"
    elif expected.metric != stands.metric:
        another = f"What is expected is {stands.metric}, not {expected.metric}"
    if another:
        nothing: dict[str, Any] = dict.fromkeys(("published", "mean", "standard_deviation", "tolerance", "versions"))
        expected, mean, tolerance = replace(expected, **nothing), None, None
    config = replace(config, tracking=replace(config.tracking, uri=uri or config.tracking.uri))
    configs = [replace(config, seed=seed) for seed in seeds]
    each = [[*whole, f"seed={seed}"] for seed in seeds]
    return Published(name, quick, expected, configs, each, mean, tolerance, seeds_then, another)


def _tolerance(expected: Expected, file: Expected) -> float | None:
    """The largest difference of the mean over `expected.seeds` to that over the seeds of the file.

    It is the file's, unless one is given, or there are more or fewer seeds: three standard errors of the difference.
    """
    then, now, allowed = len(file.seeds), len(expected.seeds), expected.tolerance
    if allowed is None or allowed != file.tolerance or now == then:
        return allowed
    # The file may go by a spread that was measured over more seeds than its own.
    deviation = max(expected.standard_deviation or 0, allowed / (3 * sqrt(2 / then)))
    return 3 * deviation * sqrt(1 / then + 1 / now)


def judge(published: Published, finished: Sequence[runs.RunRecord]) -> Outcome | None:
    """Compare the runs' mean with ours then and with the published number; None without runs.

    The published number is reached by whatever is as good or better; ours by what is within the tolerance either way.
    """
    values = [run.metrics[published.expected.metric] for run in finished]
    if not values:
        return None
    mean, reproduced = fmean(values), None
    if published.mean is not None and published.tolerance is not None:
        reproduced = abs(mean - published.mean) <= published.tolerance
    reached = None if published.quick else _reached(published.expected, mean)
    return Outcome(values, mean, stdev(values) if len(values) > 1 else None, reproduced, reached)


def _reached(expected: Expected, mean: float | None) -> bool | None:
    if mean is None or expected.published is None:
        return None
    return mean >= expected.published if higher_is_better(expected.metric) else mean <= expected.published


def version_changes(expected: Expected) -> list[str]:
    """The packages that are not installed as they were when ours was measured."""
    installed = {package: _version(package) for package in expected.versions or {}}
    return [
        f"{package} was {then}, is {installed[package]}"
        for package, then in (expected.versions or {}).items()
        if installed[package] != then
    ]


def shown(metric: str, value: float | None, form: str = ".3f") -> str:
    """A value, or a standard deviation, of the metric, in its unit.

    >>> shown("test_accuracy", 0.99028), shown("test_accuracy", 0.9904, AS_PUBLISHED), shown("test_error_percent", None)
    ('99.028 %', '99.04 %', '-')
    """
    if value is None:
        return "-"
    scale = next((scale for end, scale in PERCENT.items() if metric.endswith(end)), None)
    return f"{value:.4g}" if scale is None else f"{scale * value:{form}} %"


def _finished(found: Sequence[runs.RunRecord]) -> runs.RunRecord | None:
    return next((run for run in found if run.status == "FINISHED"), None)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


# --- the table of them all -------------------------------------------------------------------------------------------

BEGIN, END = "<!-- reproduce.py --table: begin -->\n", "<!-- reproduce.py --table: end -->\n"
HEADINGS = ("Config", "Metric", "Published", "Reached", "Ours then", "Seeds", "Ours now", "Seeds", "Time", "Date")


def check_document(document: Path) -> None:
    """Find out early whether the table has a place in this file.

    Raises:
        ConfigError: it has not, or the file cannot be read.
    """
    try:
        text = document.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{document} cannot be read: {error}") from None
    if not 0 <= text.find(BEGIN) < text.find(END):
        raise ConfigError(f"{document} has no place for the table: the lines {BEGIN.strip()} and {END.strip()}")
    if not os.access(document, os.W_OK) or not os.access(document.parent, os.W_OK):
        raise ConfigError(f"{document} cannot be written: no permission. Make a copy, and give that to --table.")


def write_table(document: Path, configs: Sequence[Published]) -> None:
    """Put the table of published configs between the two lines that mark its place.

    Ours then is what the config says; ours now are the finished runs in the store that were made with this code, these
    packages and this data. The published number is reached, or not, by ours now, or then where there is none.
    """
    before, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    rows = [(published, published.finished()) for published in configs]
    lines = [" | ".join(cells) for cells in (HEADINGS, ["---"] * len(HEADINGS), *(_cells(*row) for row in rows))]
    machines = sorted({_machine(published.uri, run) for published, finished in rows for run in finished})
    text = "\n".join([*(f"| {line} |" for line in lines), "", *(f"Ours now: {machine}." for machine in machines)])
    temporary = document.with_name(f".{document.name}.tmp")
    temporary.write_text(f"{before}{BEGIN}{text}\n{END}{after}", encoding="utf-8")
    temporary.rename(document)


def _cells(published: Published, finished: Sequence[runs.RunRecord]) -> list[str]:
    expected, now = published.expected, judge(published, finished)
    reached = now.reached if now else _reached(expected, expected.mean)
    cells = [f"`{published.name}`", f"`{expected.metric}`", shown(expected.metric, expected.published, AS_PUBLISHED)]
    cells += [{True: "yes", False: "no", None: "-"}[reached]]
    then = _spread(expected.metric, expected.mean, expected.standard_deviation)
    cells += [then, str(published.seeds_then) if expected.mean is not None else "-"]
    if now is None:
        return [*cells, "-", "-", "-", "-"]
    seconds = median(run.metrics["train_seconds"] for run in finished)
    day = datetime.fromtimestamp(max(run.end_time or 0 for run in finished) / 1000, UTC).date()
    mean, seeds = _spread(expected.metric, now.mean, now.standard_deviation), len(finished)
    count = str(seeds) if seeds == len(published.configs) else f"{seeds} of {len(published.configs)}"
    return [*cells, mean, count, duration(seconds), str(day)]


def _spread(metric: str, mean: float | None, standard_deviation: float | None) -> str:
    return shown(metric, mean) + ("" if standard_deviation is None else f" ± {shown(metric, standard_deviation)}")


def _machine(uri: str, run: runs.RunRecord) -> str:
    hardware = json.loads(tracking.read(uri, run.run_id, "environment/hardware.json"))
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    software = f"Python {hardware['python']}, {run.tags['versions'].replace(' ', ', ').replace('==', ' ')}"
    return f"{hardware['processor']}, {hardware['cores']} cores, {gpus}, {software}"
