"""Which process a run belongs to, told by tags."""

import subprocess

from experiments.tracking.liveness import is_process_dead, process_tags


def test_a_process_is_dead_once_it_has_ended_its_number_is_anothers_or_the_machine_was_restarted() -> None:
    here = process_tags()
    with subprocess.Popen("true") as ended:
        pass
    assert not is_process_dead(here)
    assert is_process_dead({**here, "process.pid": str(ended.pid)})
    assert is_process_dead({**here, "process.start_time": "1"})
    assert is_process_dead({**here, "process.boot_id": "another"})
    assert not is_process_dead({})  # nobody can tell
