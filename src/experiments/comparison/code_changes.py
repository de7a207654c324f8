"""The code and data of runs, and what changed in the code between them."""

import re
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from experiments import PROJECT
from experiments.tracking.records import RunRecord


def recorded_code(run: RunRecord) -> tuple[str, bool]:
    """Return the commit of a run, empty if not recorded, and whether there were uncommitted changes."""
    commit = run.tags.get("git_commit") or run.tags.get("mlflow.source.git.commit", "")
    return commit, run.tags.get("git_dirty", "").lower() == "true"


def recorded_data(run: RunRecord) -> str:
    """Return the digest of a run's data; empty if not recorded."""
    return run.tags.get("data_digest", "")


def find_code_changes(runs: Sequence[RunRecord], project: Path = PROJECT) -> dict[str, str]:
    """Find the changes between the commits of the runs, in the order in which the commits were first used.

    Returns:
        The command that shows a change -> git's summary, empty if the repository does not have both commits.
    """
    in_order = (recorded_code(run)[0] for run in sorted(runs, key=lambda run: run.start_time))
    # Tags are untrusted, and these become part of a command.
    commits = list(dict.fromkeys(commit for commit in in_order if re.fullmatch("[0-9a-f]{7,64}", commit)))
    return {f"git diff {a[:12]} {b[:12]}": _changed_files_summary(a, b, project) for a, b in pairwise(commits)}


def _changed_files_summary(older: str, newer: str, project: Path) -> str:
    command = ["git", "diff", "--no-color", "--stat=100", "--stat-count=10", older, newer, "--"]
    try:
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, errors="replace")
    except FileNotFoundError:  # git is not installed
        return ""
    return "" if done.returncode else done.stdout.rstrip() or "no file differs"
