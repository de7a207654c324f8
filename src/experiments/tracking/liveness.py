"""Which process a run belongs to, and whether it still lives."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.tracking.store import metric_points, search_pages

if TYPE_CHECKING:
    from mlflow import MlflowClient


def process_tags() -> dict[str, str]:
    """What tells this process from all others, also after a restart of the machine."""
    found = {"process.host": socket.gethostname(), "process.pid": str(os.getpid())}
    start = _process_start_time(found["process.pid"])
    if start is not None:
        found |= {"process.boot_id": _boot_id(), "process.start_time": start}
    return found


def is_process_dead(tags: Mapping[str, str]) -> bool:
    """Whether the process of this host that has these tags is gone."""
    if tags.get("process.boot_id", "") != _boot_id():
        return "process.boot_id" in tags
    return _process_start_time(tags["process.pid"]) != tags["process.start_time"]


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _process_start_time(pid: str) -> str | None:
    """Clock ticks from the start of the machine to that of the process; None if there is none, or no /proc."""
    try:
        state, *fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]


def mark_dead_runs(client: "MlflowClient", experiment_ids: list[str] | None = None) -> list[str]:
    """Marks as KILLED the runs that are RUNNING in the store but whose process on this host is gone.

    Runs of other hosts, and all runs on systems without /proc, are left alone.

    Args:
        client: of the store.
        experiment_ids: where to look; None for everywhere.

    Returns:
        The ids of the runs marked.
    """
    here = process_tags()
    if "process.boot_id" not in here:
        return []
    if experiment_ids is None:
        experiment_ids = [experiment.experiment_id for experiment in search_pages(client.search_experiments)]
    of_this_host = f"attributes.status = 'RUNNING' and tags.`process.host` = '{here['process.host']}'"
    running = search_pages(client.search_runs, experiment_ids=experiment_ids, filter_string=of_this_host)
    dead = [run for run in running if is_process_dead(run.data.tags)]
    for run in dead:
        last = max((point.timestamp for point in metric_points(client, run)), default=run.info.start_time)
        end_abandoned_run(
            client, run.info.run_id, "KILLED", "the process vanished: killed, or the machine went down", last
        )
    return [run.info.run_id for run in dead]


def end_abandoned_run(client: "MlflowClient", run_id: str, status: str, reason: str, time: int | None = None) -> None:
    """Gives the run of a process that is gone its status and the reason; `time` is the present one if None."""
    client.set_tag(run_id, "end_reason", reason)
    client.set_terminated(run_id, status, end_time=time)
