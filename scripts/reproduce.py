"""Runs a recorded run again, from its own config, and compares every metric that is not a time at every epoch.

python scripts/reproduce.py RUN_ID     the beginning of an id will do

The exit code is 0 if it was reproduced, 1 if not, or if its record was changed, 2 if it could not be tried.
"""

import argparse
import signal
import sys
from typing import NoReturn

from experiments import reproduce, runtime
from experiments.errors import Terminated, TrainingError, UserError


def main() -> int:
    runtime.collect_garbage_rarely()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_id", metavar="RUN_ID", help="the run, by the beginning of its id")
    parser.add_argument("--uri", help="tracking URI; default: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return again(options.run_id, options.uri)
    except (UserError, TrainingError) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Terminated:
        return Terminated.exit_code


def again(run_id: str, uri: str | None) -> int:
    """Runs it again; prints on stderr what is no longer as recorded, and on stdout the comparison."""
    recorded = reproduce.find(run_id, uri)
    print(f"Run {recorded.run.run_id} ({recorded.run.name}) again, from its own config.")
    for kind, found in (("Differs from then", recorded.changes()), ("Changed record", recorded.contradictions())):
        for what in found:
            print(f"{kind}: {what}", file=sys.stderr)
    new_id = reproduce.again(recorded)
    if not new_id:
        return 0
    verdict = reproduce.judge(recorded, new_id)
    show(verdict)
    return 0 if verdict.reproduced else 1


def show(verdict: reproduce.Verdict) -> None:
    """Prints the metrics then and now, the tolerance and the verdict."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table("metric", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("then", "now", "largest difference"):
        table.add_column(heading, justify="right")
    for row in verdict.rows:
        then, now = ("-" if value is None else f"{value:.6g}" for value in (row.then, row.now))
        table.add_row(row.metric, then, now, difference(row), style=None if row.equal else "red")
    console.print(table)
    if verdict.exact:
        print("Asked for: equal to the last bit, as processor, threads, versions and code are those of then.")
    else:
        print(f"Asked for: within {reproduce.TOLERANCE}; processor, threads, versions or code are not those of then.")
    for contradiction in verdict.contradictions:
        print(f"The record was changed after the run: {contradiction}.")
    differing = ", ".join(row.metric for row in verdict.rows if not row.equal)
    if differing:
        print(f"Not the same: {differing}.")
    print("Reproduced." if verdict.reproduced else "Not reproduced.")


def difference(row: reproduce.Row) -> str:
    if row.difference is None:
        return "not the same epochs"
    return f"{row.difference:.3g} in epoch {row.epoch}" if row.difference else "0"


def _terminate(*_: object) -> NoReturn:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
