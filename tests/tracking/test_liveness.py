"""Processes of runs, identified by tags."""

import subprocess

from experiments.tracking.liveness import is_process_dead, process_tags


def test_detects_ended_processes_reused_ids_and_restarts_of_the_machine() -> None:
    here = process_tags()
    with subprocess.Popen("true") as ended:
        pass
    assert not is_process_dead(here)
    assert is_process_dead({**here, "process.pid": str(ended.pid)})
    assert is_process_dead({**here, "process.start_time": "1"})
    assert is_process_dead({**here, "process.boot_id": "another"})
    assert not is_process_dead({})  # unknown
