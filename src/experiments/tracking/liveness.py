"""Which process a run belongs to, and whether that process is still alive."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.tracking.spool import waiting_runs
from experiments.tracking.store import all_experiment_ids, metric_points, search_pages

if TYPE_CHECKING:
    from mlflow import MlflowClient


def process_tags() -> dict[str, str]:
    """Return tags that identify this process, also across restarts of the machine."""
    found = {"process.host": socket.gethostname(), "process.pid": str(os.getpid())}
    if start := _process_start_time(found["process.pid"]):
        found |= {"process.boot_id": _boot_id(), "process.start_time": start}
    return found


def is_process_dead(tags: Mapping[str, str]) -> bool:
    """Return whether the process with these tags, on this host, has ended."""
    if tags.get("process.boot_id", "") != _boot_id():
        return "process.boot_id" in tags
    return _process_start_time(tags["process.pid"]) != tags["process.start_time"]


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _process_start_time(pid: str) -> str | None:
    """Return when a process started, in clock ticks since boot; None if there is no such process, or no /proc."""
    try:
        state, *fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]


def mark_dead_runs(client: "MlflowClient", experiment_ids: list[str] | None = None) -> list[str]:
    """Mark as KILLED the runs, in these experiments or in all, that are RUNNING although their process has ended.

    Runs on other hosts, and all runs on systems without /proc, stay as they are. Return the ids of the marked runs.
    """
    here = process_tags()
    if "process.boot_id" not in here:
        return []
    of_this_host = f"attributes.status = 'RUNNING' and tags.`process.host` = '{here['process.host']}'"
    ids = experiment_ids or all_experiment_ids(client)
    running = search_pages(client.search_runs, experiment_ids=ids, filter_string=of_this_host)
    waiting = waiting_runs()  # what they could not send says how they ended
    dead = [run for run in running if run.info.run_id not in waiting and is_process_dead(run.data.tags)]
    reason = "the process disappeared: it was killed, or the machine went down"
    for run in dead:
        last = max((point.timestamp for point in metric_points(client, run)), default=run.info.start_time)
        end_abandoned_run(client, run.info.run_id, "KILLED", reason, last)
    return [run.info.run_id for run in dead]


def end_abandoned_run(client: "MlflowClient", run_id: str, status: str, reason: str, time: int | None = None) -> None:
    """Give the run of a process that has ended its status and the reason; the end time defaults to now."""
    client.set_tag(run_id, "end_reason", reason)
    client.set_terminated(run_id, status, end_time=time)
