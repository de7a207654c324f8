"""The table of published results in a document."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from experiments.errors import ConfigError
from experiments.formatting import format_duration
from experiments.reproduction.original_run import recorded_hardware
from experiments.reproduction.published import (
    AS_PUBLISHED,
    PublishedConfig,
    is_reached,
    judge_published,
    show_mean,
    show_metric,
)
from experiments.tracking.records import RunRecord

TABLE_BEGIN = "<!-- reproduce.py --table: begin -->\n"
TABLE_END = "<!-- reproduce.py --table: end -->\n"
TABLE_HEADINGS = ("Config", "Metric", "Published", "Reached", "Recorded", "Seeds", "Rerun", "Seeds", "Time", "Date")


def check_document(document: Path) -> None:
    """Check early that the table has a place in this file.

    Raises:
        ConfigError: it has none, or the file cannot be read or written.
    """
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

    The recorded results are those in the configs; the reruns are the finished runs in the store that were made with
    this code, these packages and this data. Reruns, or without them the recorded results, decide whether the published
    number is reached.
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
    cells = [
        f"`{published.name}`",
        f"`{expected.metric}`",
        show_metric(expected.metric, expected.published, AS_PUBLISHED),
        {True: "yes", False: "no", None: "-"}[reached],
        show_mean(expected.metric, expected.mean, expected.standard_deviation),
        "-" if expected.mean is None else str(published.recorded_seeds),
    ]
    if outcome is None:
        return [*cells, "-", "-", "-", "-"]
    seeds, all_seeds = len(finished), len(published.configs)
    return [
        *cells,
        show_mean(expected.metric, outcome.mean, outcome.standard_deviation),
        str(seeds) if seeds == all_seeds else f"{seeds} of {all_seeds}",
        format_duration(median(run.metrics["train_seconds"] for run in finished)),
        str(datetime.fromtimestamp(max(run.end_time or 0 for run in finished) / 1000, UTC).date()),
    ]


def _describe_machine(uri: str, run: RunRecord) -> str:
    hardware: dict[str, Any] = recorded_hardware(uri, run.run_id)
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    software = f"Python {hardware['python']}, {run.tags['versions'].replace(' ', ', ').replace('==', ' ')}"
    return f"{hardware['processor']}, {hardware['cores']} cores, {gpus}, {software}"
