"""What the terminal shows when a run ends: its metrics, where it was recorded, and the next commands."""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from experiments.config.metrics import finished_run_metrics
from experiments.config.schema import Config
from experiments.errors import NotFiniteError, TrialPruned
from experiments.formatting import plain_console, printable
from experiments.profiling import SPAN_SEPARATOR, profile_table
from experiments.reports.next_commands import next_commands
from experiments.reports.notes import describe_goal
from experiments.tracking.addresses import hide_credentials
from experiments.tracking.run import TrackedRun
from experiments.training.checkpoints import drop_checkpoint, has_checkpoint

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.reports.report import Results


def print_summary(results: "Results", metrics: Mapping[str, float], run: TrackedRun) -> None:
    """Print the metrics, where the run is recorded, and the next commands."""
    console = plain_console()
    known = finished_run_metrics()
    shown = {name: metric.shown.format(metrics[name]) for name, metric in known.items() if name in metrics}
    console.print()
    console.print(metrics_table(shown))
    for text in describe_goal(results):
        console.print(f"\n{text}")
    if results.config.report.profile:
        files = "as a picture: profile/trace.html among the run's artifacts; profile/trace.json is"
        console.print(f"\nWhere the time went ({files} for https://ui.perfetto.dev)", _profile_rows(), sep="\n")
    console.print(f"\nRun {printable(run.name)} ({run.run_id}) in {hide_credentials(run.uri)}")
    console.print("\nNext:")
    commands = next_commands(results.config, [], run.run_id)
    actions = [action for action in ("reproduce", "compare", "browse", "train further") if action in commands]
    width = max(len(commands[action]) for action in actions)
    for action in actions:
        console.print(f"  {commands[action]:{width}}  # {action}")


def metrics_table(metrics: Mapping[str, str]) -> "Table":
    """Return a table of metrics, given as text, with their decimal points in line."""
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    before_point = {name: len(re.sub(r"(?<=\d)\D.*", "", text)) for name, text in metrics.items()}
    for name, text in metrics.items():
        table.add_row(name, " " * (max(before_point.values()) - before_point[name]) + text)
    return table


def _profile_rows() -> "Table":
    """Return the table of time spans; those within others are indented."""
    from rich.table import Column, Table

    columns, numbers = profile_table(), ("times", "seconds", "percent")
    rows = Table("phase", *(Column(name, justify="right") for name in numbers), box=None, pad_edge=False)
    for path, times, seconds, percent in zip(*(columns[name] for name in ("phase", *numbers)), strict=True):
        *around, phase = path.split(SPAN_SEPARATOR)
        rows.add_row(f"{'  ' * len(around)}{phase}", str(times), f"{seconds:.2f}", f"{percent:.1f}")
    return rows


@contextmanager
def print_resume_hint(config: Config, run_id: str, tags: Mapping[str, str]) -> Iterator[None]:
    """Print how to resume a run that is cut off, except where it would fail again, and in jobs of a sweep."""
    try:
        yield
    except (NotFiniteError, TrialPruned):
        drop_checkpoint(run_id)
        raise
    except BaseException:
        if "mlflow.parentRunId" not in tags:  # the command of a sweep resumes all its jobs
            known = has_checkpoint(run_id)
            since = "from its last checkpoint" if known else "from the start, as it has no checkpoint yet"
            print(f"\nResume it {since}: {next_commands(config, [], run_id)['resume']}", file=sys.stderr)
        raise
