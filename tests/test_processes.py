"""Which process a run belongs to, told by tags."""

import subprocess

from experiments import processes


def test_a_process_is_dead_once_it_has_ended_its_number_is_anothers_or_the_machine_was_restarted() -> None:
    here = processes.tags()
    with subprocess.Popen("true") as ended:
        pass
    assert not processes.is_dead(here)
    assert processes.is_dead({**here, "process.pid": str(ended.pid)})
    assert processes.is_dead({**here, "process.start_time": "1"})
    assert processes.is_dead({**here, "process.boot_id": "another"})
    assert not processes.is_dead({})  # nobody can tell
