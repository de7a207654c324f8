"""Delete runs for good, with their models, artifacts and checkpoints, after showing them and asking.

python scripts/delete.py RUN_ID RUN_ID            these runs, by id or its first characters; a sweep with all its runs
python scripts/delete.py --experiment NAME        all runs of an experiment
python scripts/delete.py --status FAILED          all failed runs
python scripts/delete.py --older-than 30d --status KILLED    all that were killed more than 30 days ago
python scripts/delete.py RUN_ID --yes             without asking

--status and --older-than leave out all other runs, and a sweep of which a run is left out. Nothing is deleted if one of
the runs is still running. A tracking server only marks the runs as deleted: its owner removes them with `mlflow gc`.

Exit code: 0 if they were deleted or there were none, 1 if one could not be deleted, 2 if nothing was deleted.
"""

import argparse
import re
import sys
import time

from experiments.errors import CommandParser, ConfigError, run_command
from experiments.formatting import plural, printable
from experiments.runtime import collect_garbage_rarely
from experiments.tracking.addresses import SQLITE, hide_credentials, resolve_tracking_uri
from experiments.tracking.deletion import StoredRun, delete_runs, find_deletable_runs
from experiments.tracking.model_registry import versions_of_runs
from experiments.tracking.records import runs_that_start_from
from experiments.tracking.store import open_existing_store

LONGEST_LIST = 20
SECONDS = {"d": 86_400, "h": 3_600, "m": 60}


def main() -> int:
    collect_garbage_rarely()
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("run_ids", metavar="RUN_ID", nargs="*", help="runs to delete, by id or its first characters")
    add("--experiment", metavar="NAME", help="all runs of this experiment")
    add("--older-than", metavar="AGE", help="only runs that ended longer ago: 30d, 12h, 90m")
    add("--status", choices=["FINISHED", "FAILED", "KILLED"], help="only runs with this status")
    add("--yes", action="store_true", help="delete without asking")
    add("--uri", help="tracking URI; default: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db")
    return run_command(lambda: delete(parser.parse_args()))


def delete(options: argparse.Namespace) -> int:
    """Show what would be deleted, ask, and delete it; return the exit code."""
    if not (options.run_ids or options.experiment or options.status or options.older_than):
        raise ConfigError("Nothing is named to be deleted: give RUN_ID, --experiment, --status or --older-than.")
    ended_before = None if options.older_than is None else 1000 * (time.time() - seconds_of(options.older_than))
    uri = resolve_tracking_uri(options.uri)
    client = open_existing_store(uri)
    runs = find_deletable_runs(client, options.run_ids, options.experiment, options.status, ended_before)
    if not runs:
        print("There are no such runs.")
        return 0
    amount = f"{plural(len(runs), 'run')} and {sum(run.size for run in runs) / 1e6:.1f} MB of files"
    print(f"{amount} in {hide_credentials(uri)}:", *listed(runs), sep="\n")
    ids = {run.record.run_id for run in runs}
    for run, start in runs_that_start_from(client, ids):
        if run.run_id not in ids:
            print(f"Run {run.run_id} ({printable(run.name)}) starts from {start}, and cannot be reproduced without it.")
    for version in versions_of_runs(client, ids):
        title = printable(version.title)
        print(f"Run {version.run_id} is the registered model {title}, which cannot be loaded without it.")
    if not options.yes and not agreed():
        return 2
    delete_runs(client, runs)
    print(f"Deleted {amount}.")
    if not uri.startswith(SQLITE):
        models = [model for run in runs for model in run.models]
        gc = f"mlflow gc --run-ids {','.join(run.record.run_id for run in runs)}"
        gc += f" --logged-model-ids {','.join(models)}" if models else ""
        print(f"The server's database keeps their rows, marked as deleted, until its owner runs there: {gc}")
    return 0


def seconds_of(age: str) -> float:
    """Return an age such as `30d` in seconds, or raise a ConfigError."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([dhm])", age)
    if match is None:
        raise ConfigError(
            f"--older-than={age} is not allowed: a number of days, hours or minutes, such as 30d, 12h, 90m"
        )
    return float(match[1]) * SECONDS[match[2]]


def listed(runs: list[StoredRun]) -> list[str]:
    """Return a line for each run, of many only for the first."""
    lines = [f"  {r.record.run_id}  {r.record.status:8}  {printable(r.record.name)}" for r in runs[:LONGEST_LIST]]
    return [*lines, f"  and {len(runs) - LONGEST_LIST:,} more"] if len(runs) > LONGEST_LIST else lines


def agreed() -> bool:
    """Ask whether to delete, and return the answer; without a terminal to ask on it is no."""
    if not sys.stdin.isatty():
        print("Nothing was deleted. To delete them, add --yes.", file=sys.stderr)
        return False
    print("Delete them for good? [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    print("Nothing was deleted.", file=sys.stderr)
    return False
