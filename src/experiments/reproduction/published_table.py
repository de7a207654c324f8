"""The table of published results in a document."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from experiments.errors import ConfigError
from experiments.formatting import format_duration
from experiments.reproduction.published import AS_PUBLISHED, PublishedConfig, _is_reached, judge_published, show_metric
from experiments.tracking.artifacts import read_artifact_text
from experiments.tracking.records import RunRecord

TABLE_BEGIN = "<!-- reproduce.py --table: begin -->\n"
TABLE_END = "<!-- reproduce.py --table: end -->\n"
TABLE_HEADINGS = ("Config", "Metric", "Published", "Reached", "Ours then", "Seeds", "Ours now", "Seeds", "Time", "Date")


def check_document(document: Path) -> None:
    """Find out early whether the table has a place in this file.

    Raises:
        ConfigError: it has not, or the file cannot be read.
    """
    try:
        text = document.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{document} cannot be read: {error}") from None
    if not 0 <= text.find(TABLE_BEGIN) < text.find(TABLE_END):
        raise ConfigError(
            f"{document} has no place for the table: the lines {TABLE_BEGIN.strip()} and {TABLE_END.strip()}"
        )
    if not os.access(document, os.W_OK) or not os.access(document.parent, os.W_OK):
        raise ConfigError(f"{document} cannot be written: no permission. Make a copy, and give that to --table.")


def write_table(document: Path, configs: Sequence[PublishedConfig]) -> None:
    """Put the table of published configs between the two lines that mark its place.

    Ours then is what the config says; ours now are the finished runs in the store that were made with this code, these
    packages and this data. The published number is reached, or not, by ours now, or then where there is none.
    """
    before, _, rest = document.read_text(encoding="utf-8").partition(TABLE_BEGIN)
    after = rest.partition(TABLE_END)[2]
    rows = [(published, published.finished()) for published in configs]
    lines = [
        " | ".join(cells)
        for cells in (TABLE_HEADINGS, ["---"] * len(TABLE_HEADINGS), *(_table_cells(*row) for row in rows))
    ]
    machines = sorted({_describe_machine(published.uri, run) for published, finished in rows for run in finished})
    text = "\n".join([*(f"| {line} |" for line in lines), "", *(f"Ours now: {machine}." for machine in machines)])
    temporary = document.with_name(f".{document.name}.tmp")
    temporary.write_text(f"{before}{TABLE_BEGIN}{text}\n{TABLE_END}{after}", encoding="utf-8")
    temporary.rename(document)


def _table_cells(published: PublishedConfig, finished: Sequence[RunRecord]) -> list[str]:
    expected, now = published.expected, judge_published(published, finished)
    reached = now.reached if now else _is_reached(expected, expected.mean)
    cells = [
        f"`{published.name}`",
        f"`{expected.metric}`",
        show_metric(expected.metric, expected.published, AS_PUBLISHED),
    ]
    cells += [{True: "yes", False: "no", None: "-"}[reached]]
    then = _mean_and_spread(expected.metric, expected.mean, expected.standard_deviation)
    cells += [then, str(published.seeds_then) if expected.mean is not None else "-"]
    if now is None:
        return [*cells, "-", "-", "-", "-"]
    seconds = median(run.metrics["train_seconds"] for run in finished)
    day = datetime.fromtimestamp(max(run.end_time or 0 for run in finished) / 1000, UTC).date()
    mean, seeds = _mean_and_spread(expected.metric, now.mean, now.standard_deviation), len(finished)
    count = str(seeds) if seeds == len(published.configs) else f"{seeds} of {len(published.configs)}"
    return [*cells, mean, count, format_duration(seconds), str(day)]


def _mean_and_spread(metric: str, mean: float | None, standard_deviation: float | None) -> str:
    return show_metric(metric, mean) + (
        "" if standard_deviation is None else f" ± {show_metric(metric, standard_deviation)}"
    )


def _describe_machine(uri: str, run: RunRecord) -> str:
    hardware = json.loads(read_artifact_text(uri, run.run_id, "environment/hardware.json"))
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    software = f"Python {hardware['python']}, {run.tags['versions'].replace(' ', ', ').replace('==', ' ')}"
    return f"{hardware['processor']}, {hardware['cores']} cores, {gpus}, {software}"
