"""What the terminal shows when a run ends: its metrics, where it was recorded, and the next commands."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from experiments.config.metrics import FINAL_METRICS
from experiments.config.schema import Config
from experiments.errors import NotFiniteError, TrialPruned
from experiments.profiling import SPAN_SEPARATOR, profile_table
from experiments.reports.next_commands import next_commands
from experiments.reports.notes import describe_goal
from experiments.tracking.addresses import hide_credentials
from experiments.tracking.run import TrackedRun
from experiments.training.checkpoints import checkpoint_path

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.reports.report import Results


SWEEP_VARIABLE = "EXPERIMENTS_SWEEP"  # in the environment of a sweep's jobs: the folder of its frozen plan


def print_summary(results: "Results", metrics: Mapping[str, float], run: TrackedRun) -> None:
    """Print the metrics, where the run is, and the next commands."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    shown = {name: metric.shown.format(metrics[name]) for name, metric in FINAL_METRICS.items() if name in metrics}
    console.print()
    console.print(metrics_table(shown))
    for text in describe_goal(results):
        console.print(f"\n{text}")
    if results.config.report.profile:
        console.print(
            "\nWhere the time went (as a picture: profile/trace.html among the run's artifacts; profile/trace.json is"
            " for https://ui.perfetto.dev)"
        )
        console.print(_profile_rows())
    console.print(f"\nRun {run.name} ({run.run_id}) in {hide_credentials(run.uri)}")
    console.print("\nNext:")
    commands = next_commands(results.config, [], run.run_id)
    shown_commands = {commands[action]: action for action in ("reproduce", "compare", "browse")}
    width = max(map(len, shown_commands))
    for line, action in shown_commands.items():
        console.print(f"  {line:{width}}  # {action}")


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
    from rich.table import Table

    columns = profile_table()
    rows = Table("phase", box=None, pad_edge=False)
    for name in ("times", "seconds", "percent"):
        rows.add_column(name, justify="right")
    spans = zip(*(columns[key] for key in ("phase", "times", "seconds", "percent")), strict=True)
    for path, times, seconds, percent in spans:
        *around, phase = path.split(SPAN_SEPARATOR)
        rows.add_row(f"{'  ' * len(around)}{phase}", str(times), f"{seconds:.2f}", f"{percent:.1f}")
    return rows


@contextmanager
def print_resume_hint(config: Config, run_id: str) -> Iterator[None]:
    """Print, when a run is cut off, the command that goes on with it; not where that would only fail again, or where a
    sweep does."""
    try:
        yield
    except NotFiniteError:
        raise
    except TrialPruned:
        checkpoint_path(run_id).unlink(missing_ok=True)
        raise
    except BaseException:
        if SWEEP_VARIABLE in os.environ:  # the sweep's own command goes on with all its jobs
            raise
        known = checkpoint_path(run_id).exists()
        since = "from its last checkpoint" if known else "from the start, as there is no checkpoint yet"
        print(f"\nGo on with it, {since}: {next_commands(config, [], run_id)['resume']}", file=sys.stderr)
        raise
