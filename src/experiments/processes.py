"""Which process a run belongs to, and whether it still lives."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path


def tags() -> dict[str, str]:
    """What tells this process from all others, also after a restart of the machine."""
    found = {"process.host": socket.gethostname(), "process.pid": str(os.getpid())}
    start = _start_time(found["process.pid"])
    if start is not None:
        found |= {"process.boot_id": _boot_id(), "process.start_time": start}
    return found


def is_dead(tags: Mapping[str, str]) -> bool:
    """Whether the process of this host that has these tags is gone."""
    if tags.get("process.boot_id", "") != _boot_id():
        return "process.boot_id" in tags
    return _start_time(tags["process.pid"]) != tags["process.start_time"]


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: str) -> str | None:
    """Clock ticks from the start of the machine to that of the process; None if there is none, or no /proc."""
    try:
        state, *fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]
