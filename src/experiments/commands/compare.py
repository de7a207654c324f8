"""Compare runs: the parameters, code and data that differ, and the metrics with their distance from the best.

python scripts/compare.py                            the latest runs of the latest experiment
python scripts/compare.py RUN_ID RUN_ID              these runs, by id or its first characters
python scripts/compare.py --sweep RUN_ID             the runs of a sweep
python scripts/compare.py --experiment NAME          all runs of an experiment
python scripts/compare.py --group-by seed            mean ± standard deviation over seeds
python scripts/compare.py --format csv > runs.csv    all metrics, for other programs; or json
python scripts/compare.py --plot runs.png            also as a figure
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from experiments.comparison.comparison import Comparison, ComparisonError, compare_runs, comparison_notes
from experiments.comparison.views import comparison_csv, comparison_figure, comparison_json, comparison_table
from experiments.errors import CommandParser, run_command
from experiments.formatting import as_called, plural, printable
from experiments.runtime import collect_garbage_rarely
from experiments.tracking.addresses import hide_credentials, resolve_tracking_uri
from experiments.tracking.liveness import unseen_notice
from experiments.tracking.records import RunRecord, experiment_runs, find_runs, sweep_children
from experiments.tracking.store import open_existing_store

LATEST = 20


def main() -> int:
    collect_garbage_rarely()
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("run_ids", metavar="RUN_ID", nargs="*", help="runs to compare, by id or its first characters")
    add("--sweep", metavar="RUN_ID", help="add the runs of this sweep")
    add("--experiment", metavar="NAME", help="add all runs of this experiment")
    add(
        "--group-by",
        metavar="PARAMETER",
        help="mean and spread of finished runs that differ only in this, e.g. seed, or seed,data.fold",
    )
    default = "the sweep's objective, else test_accuracy if all runs have it"
    add("--metric", metavar="NAME", help=f"metric to rank by (default: {default})")
    add("--mode", choices=["min", "max"], help="which value is best (default: depends on the metric)")
    add("--format", choices=["table", "csv", "json"], default="table", help="default: %(default)s")
    add("--plot", metavar="FILE", type=Path, help="also draw the ranking metric as a PNG")
    add("--uri", help="tracking URI; default: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db")
    return run_command(lambda: compare(parser.parse_args()))


def compare(options: argparse.Namespace) -> None:
    """Print the comparison on stdout, and what to do next on stderr."""
    if options.plot is not None and options.plot.suffix.lower() != ".png":
        raise ComparisonError(f"--plot writes a PNG: the name must end in .png, and is {options.plot}.")
    client = open_existing_store(resolve_tracking_uri(options.uri))
    chosen, metric, mode = select(client, options), options.metric, options.mode
    if options.sweep is not None and metric is None:
        (parent,) = find_runs(client, [options.sweep])
        objective, _, best = parent.tags.get("objective", "").partition(" ")
        if any(objective in run.metrics for run in chosen):
            metric, mode = objective, mode or ("min" if best == "min" else "max")
    for run in [run for run in chosen if run.status == "RUNNING"][:5]:
        if unseen := unseen_notice(client, run.run_id):
            print(unseen, file=sys.stderr)
    comparison = compare_runs(chosen, metric, mode, options.group_by)
    if options.plot is not None:
        from experiments.reports.figures.style import save_figure

        try:
            save_figure(comparison_figure(comparison), options.plot)
        except OSError as error:
            raise ComparisonError(f"--plot cannot write {options.plot}: {error.strerror}.") from None
    if options.format == "csv":
        print(comparison_csv(comparison), end="")
        print(*comparison_notes(comparison), sep="\n", file=sys.stderr)
    elif options.format == "json":
        print(comparison_json(comparison))
    else:
        print_comparison(comparison)
    print(*next_steps(comparison, options), sep="\n", file=sys.stderr)


def select(client: Any, options: argparse.Namespace) -> list[RunRecord]:
    """Return the runs that the command names, each once; without any, the latest."""
    chosen = find_runs(client, options.run_ids)
    if options.sweep is not None:
        chosen += sweep_children(client, options.sweep)
    if options.experiment is not None or not chosen:
        newest = LATEST if options.experiment is None else None
        name, found, older = experiment_runs(client, options.experiment, newest)
        if not found:
            raise ComparisonError(f"The experiment {name!r} has no runs. Make one: python run.py")
        parents = {run.tags.get("mlflow.parentRunId") for run in found}  # their metrics are those of their best run
        kept = [run for run in found if "sweep" not in run.tags and (run.metrics or run.run_id not in parents)] or found
        chosen += kept
        said = f"Experiment {name!r}: {plural(len(kept), 'run')}"
        said += f", the latest; all of them: --experiment {shlex.quote(name)}" if older else ""
        said += f"; {len(found) - len(kept)} left out that only hold sweeps together" if len(kept) < len(found) else ""
        print(f"{said}.", file=sys.stderr)
    return list({run.run_id: run for run in chosen}.values())


def print_comparison(comparison: Comparison) -> None:
    """Print the table and its notes; without a terminal, the table is as wide as it needs to be."""
    from rich.console import Console

    console = Console(highlight=False)
    width = console.width if console.is_terminal else None
    table, hidden = comparison_table(comparison, width)
    if width is None:
        console.width = 100_000
    console.print(table)
    console.print("", *comparison_notes(comparison), sep="\n", markup=False, emoji=False, soft_wrap=True)
    if hidden:
        print(f"No room for {', '.join(hidden)}: --format csv has all.", file=sys.stderr)


def next_steps(comparison: Comparison, options: argparse.Namespace) -> list[str]:
    """Return the lines for stderr: the runs left out, the file written, and what to try next."""
    lines, steps = [], []
    if comparison.left_out:
        ids = ", ".join(f"{run.run_id[:8]} ({run.status})" for run in comparison.left_out[:5])
        lines.append(f"Left out of the means, as not finished: {ids}{', ...' if len(comparison.left_out) > 5 else ''}")
    if options.plot is not None:
        lines.append(f"Wrote {options.plot}")
    best = comparison.groups[0][0]
    if len(comparison.runs) == 1:
        steps.append("  add the ids of other runs to compare it with")
    if "seed" in comparison.params and comparison.group_by is None:
        steps.append("  --group-by seed                           mean and spread over seeds")
    if options.plot is None and comparison.metric is not None:
        steps.append(f"  --plot runs.png                           {printable(comparison.metric)} as a figure")
    if "fingerprint" in best.tags:
        store = hide_credentials(f" --uri {shlex.quote(options.uri)}" if options.uri else "")
        repeat = as_called(f"python scripts/reproduce.py {best.run_id[:12]}{store}")
        steps.append(f"  {repeat}  repeat the best run")
    return [*lines, "Next:", *steps] if steps else lines
