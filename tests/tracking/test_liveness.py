"""Processes of runs, identified by tags, and from where they can be judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.errors import StoreError
from experiments.tracking.liveness import check_resumable, is_process_dead, mark_dead_runs, process_tags, unseen_notice
from experiments.tracking.store import connect_store

HERE = process_tags()


def test_detects_ended_processes_reused_ids_and_restarts_of_the_machine() -> None:
    here = {**HERE, "process.machine": "this machine"}
    with subprocess.Popen("true") as ended:
        pass
    assert is_process_dead(here, here) is False
    assert is_process_dead({**here, "process.pid": str(ended.pid)}, here)
    assert is_process_dead({**here, "process.start_time": "1"}, here)
    assert is_process_dead({**here, "process.boot_id": "another"}, here)


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"process.pid_namespace": "pid:[1]"},
        {"process.host": "elsewhere"},
        {"process.boot_id": "another", "process.machine": "another"},
        {"process.boot_id": "another", "process.machine": ""},
        {"process.pid_namespace": ""},
    ],
)
def test_does_not_judge_processes_of_other_containers_machines_and_versions(elsewhere: dict[str, str]) -> None:
    here = {**HERE, "process.machine": "this machine"}
    assert is_process_dead({**here, "process.start_time": "1", **elsewhere}, here) is None
    assert is_process_dead({**here, "process.start_time": "1"}, {**here, **elsewhere}) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a PID namespace")
@pytest.mark.parametrize("mount", ["--mount-proc", "--fork"], ids=["own /proc", "foreign /proc"])
def test_a_run_in_another_pid_namespace_is_not_judged_but_shown_with_its_last_sign(uri: str, mount: str) -> None:
    show = "import json; from experiments.tracking.liveness import process_tags; print(json.dumps(process_tags()))"
    isolated = ["unshare", "--pid", "--fork", mount, sys.executable, "-c", show]
    tags = json.loads(subprocess.run(isolated, capture_output=True, text=True, check=True).stdout)
    client = connect_store(uri)
    run_id = client.create_run("0", tags=tags).info.run_id
    client.log_metric(run_id, "loss", 0.5, timestamp=86_400_000)
    assert mark_dead_runs(client) == []
    notice = unseen_notice(client, run_id)
    assert notice
    assert "not seen since 1970-01-02" in notice
    with pytest.raises(StoreError, match="If it has ended, resume it with resume_anyway=true"):
        check_resumable(uri, run_id, resume_anyway=False)
    assert client.get_run(run_id).info.status == "RUNNING"
    check_resumable(uri, run_id, resume_anyway=True)
    assert client.get_run(run_id).info.status == "KILLED"


def test_a_run_of_a_living_process_is_not_resumed_even_with_resume_anyway(uri: str) -> None:
    client = connect_store(uri)
    with subprocess.Popen(["sleep", "60"]) as other:
        start = Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19]
        tags = {**HERE, "process.pid": str(other.pid), "process.start_time": start}
        run_id = client.create_run("0", tags=tags).info.run_id
        assert unseen_notice(client, run_id) is None
        with pytest.raises(StoreError, match=f"is still running, in process {other.pid} on"):
            check_resumable(uri, run_id, resume_anyway=True)
        other.kill()
    check_resumable(uri, run_id, resume_anyway=False)
    assert client.get_run(run_id).data.tags["end_reason"].startswith("the process disappeared")
