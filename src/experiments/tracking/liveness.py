"""Which process a run belongs to, and whether that process is still alive."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.errors import StoreError
from experiments.tracking.spool import SPOOL_FOLDER, waiting_notice
from experiments.tracking.store import (
    all_experiment_ids,
    get_mlflow_run,
    metric_points,
    open_existing_store,
    search_pages,
    store_errors,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

SPOOL_TAG = "process.spool"  # the folder in which waits what it cannot send
DISAPPEARED = "the process disappeared: it was killed, or the machine went down"


def process_tags() -> dict[str, str]:
    """Return tags that identify this process, also across restarts of the machine, and say where it can be judged.

    Without a /proc that shows this process's own PID namespace, there are only its host and its id.
    """
    pid = str(os.getpid())
    found = {"process.host": socket.gethostname(), "process.pid": pid, SPOOL_TAG: str(SPOOL_FOLDER)}
    with suppress(OSError):
        namespace, shown_as = (str(Path(f"/proc/self{link}").readlink()) for link in ("/ns/pid", ""))
        if shown_as == pid and (start := _process_start_time(pid)):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            found |= {"process.boot_id": boot, "process.start_time": start, "process.pid_namespace": namespace}
            found["process.machine"] = Path("/etc/machine-id").read_text().strip()  # many containers have none
    return found


def is_process_dead(tags: Mapping[str, str], here: Mapping[str, str]) -> bool | None:
    """Return whether the process with these tags has ended, as seen from the process with the tags `here`.

    None if that cannot be seen: it ran in another PID namespace, such as a container, on another machine, or it is of
    an earlier version, which recorded neither.
    """

    def same(key: str) -> bool:
        return bool(tags.get(f"process.{key}")) and tags[f"process.{key}"] == here.get(f"process.{key}")

    if not (same("host") and same("pid_namespace") and (same("boot_id") or same("machine"))):
        return None
    return not same("boot_id") or _process_start_time(tags["process.pid"]) != tags["process.start_time"]


def _process_start_time(pid: str) -> str | None:
    """Return when a process started, in clock ticks since boot; None if there is no such process, or no /proc."""
    try:
        state, *fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]


def mark_dead_runs(client: "MlflowClient", experiment_ids: list[str] | None = None) -> list[str]:
    """Mark as KILLED the runs, in these experiments or in all, that are RUNNING although their process has ended.

    Runs that cannot be judged from here stay as they are. Return the ids of the marked runs.
    """
    here = process_tags()
    of_this_host = f"attributes.status = 'RUNNING' and tags.`process.host` = '{here['process.host']}'"
    ids = experiment_ids or all_experiment_ids(client)
    running = search_pages(client.search_runs, experiment_ids=ids, filter_string=of_this_host)
    dead = [run for run in running if is_process_dead(run.data.tags, here) and not _waiting_notice(run)]
    for run in dead:
        end_abandoned_run(client, run.info.run_id, "KILLED", DISAPPEARED, _last_sign(client, run))
    return [run.info.run_id for run in dead]


def check_resumable(uri: str, run_id: str, resume_anyway: bool) -> None:
    """Raise a StoreError if a run is finished, or may still be running in another process.

    `resume_anyway` ends a run whose process cannot be judged from here.
    """
    client = open_existing_store(uri)
    with store_errors(uri):
        run = get_mlflow_run(client, uri, run_id)
        mark_dead_runs(client, [run.info.experiment_id])
        run = get_mlflow_run(client, uri, run_id)
        if run.info.status == "FINISHED":
            raise StoreError(f"Run {run_id} is finished: there is nothing to resume.")
        tags = run.data.tags
        if run.info.status != "RUNNING" or process_tags().items() <= tags.items():  # a retry in the same process
            return
        unseen = unseen_notice(client, run_id)
        if unseen and resume_anyway and not _waiting_notice(run):
            return end_abandoned_run(client, run_id, "KILLED", "ended by resume_anyway=true", _last_sign(client, run))
    raise StoreError(unseen or f"Run {run_id} is still running, in {_process_of(tags)}. Stop that process first.")


def unseen_notice(client: "MlflowClient", run_id: str) -> str | None:
    """Return what is known of a run that is RUNNING by its store, but has ended, or cannot be judged from here.

    None for others.
    """
    run = client.get_run(run_id)
    dead = is_process_dead(run.data.tags, process_tags())
    if run.info.status != "RUNNING" or dead is False:
        return None
    if dead or _waiting_notice(run):
        return _waiting_notice(run)
    last = datetime.fromtimestamp(_last_sign(client, run) / 1000)
    return (
        f"Run {run_id} is RUNNING in {_process_of(run.data.tags)}, not seen since {last:%Y-%m-%d %H:%M:%S}. Whether it"
        " still runs cannot be seen from here: it is on another machine, in another container, or of an earlier"
        " version. If it has ended, resume it with resume_anyway=true."
    )


def _waiting_notice(run: "MlflowRun") -> str | None:
    """Say where the rest of a run waits, which tells how it ended; None if nothing waits on this machine."""
    return waiting_notice(run.info.run_id, run.data.tags.get(SPOOL_TAG, ""))


def _process_of(tags: Mapping[str, str]) -> str:
    return f"process {tags.get('process.pid', 'unknown')} on {tags.get('process.host', 'an unknown machine')}"


def _last_sign(client: "MlflowClient", run: "MlflowRun") -> int:
    """Return when a run logged its last point, else when it started, in milliseconds since 1970."""
    return max((point.timestamp for point in metric_points(client, run)), default=run.info.start_time)


def end_abandoned_run(client: "MlflowClient", run_id: str, status: str, reason: str, time: int | None = None) -> None:
    """Give the run of a process that has ended its status and the reason; the end time defaults to now."""
    from mlflow.exceptions import MlflowException

    try:
        client.set_tag(run_id, "end_reason", reason)
    except MlflowException:
        client.set_tag(run_id, "end_reason", reason)  # another process set it at the same moment
    client.set_terminated(run_id, status, end_time=time)
