"""Commands in forks of the preloaded process, which the tests start."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT
from stores import runs
from sweep_runs import wait_until

KILLED_TEST = """
import sys
sys.path.insert(0, "tests")
from preloaded import Preloaded

endless = Preloaded("run.py", "data=digits", "training.epochs=100000", "report.figures=none", sys.argv[1])
print(endless.pid, flush=True)
endless.wait()
"""


@pytest.mark.soak
def test_a_command_ends_when_its_test_is_killed(uri: str) -> None:
    line = [sys.executable, "-c", KILLED_TEST, f"tracking.uri={uri}"]
    with subprocess.Popen(line, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as test:
        assert test.stdout
        pid = int(test.stdout.readline())
        (run,) = wait_until(lambda: [run for run in runs(uri) if run.data.metrics])
        assert run.data.tags["process.pid"] == str(pid)
        test.send_signal(signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), seconds=20)
    (run,) = runs(uri)
    assert run.data.tags["end_reason"] == "terminated by SIGTERM"
