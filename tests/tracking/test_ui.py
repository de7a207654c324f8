"""scripts/ui.py as users run it: real processes and a real server on a free loopback port."""

import os
import runpy
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from conftest import PROJECT

UI = PROJECT / "scripts" / "ui.py"


def run_ui(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, UI, *options], capture_output=True, text=True, timeout=60)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def processes_naming(text: str) -> list[int]:
    """Return the ids of the processes whose command line or environment contains `text`."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                words = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            except OSError:
                continue
            if text.encode() in words:
                found.append(int(folder.name))
    return found


@pytest.mark.soak
def test_serves_a_new_store_and_leaves_no_process(tmp_path):
    uri, port = f"sqlite:///{tmp_path / 'a store' / 'mlflow.db'}", free_port()
    command = [sys.executable, UI, "--uri", uri, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path) as ui:
        try:
            address = f"http://127.0.0.1:{port}/#/experiments/0/runs?workflowType=machine_learning"
            assert ui.stdout.readline() == f"{address}\n"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
                assert b"MLflow" in page.read()
            assert len(processes_naming(uri)) > 1

            taken = run_ui("--uri", uri, "--port", str(port))
            assert (taken.returncode, taken.stdout) == (2, "")
            assert f"Port {port} on 127.0.0.1 is in use" in taken.stderr
            assert "Try: python scripts/ui.py --port" in taken.stderr
            assert taken.stderr.count("\n") == 1

            remote = run_ui("--uri", f"http://127.0.0.1:{port}")
            assert (remote.returncode, remote.stdout, remote.stderr) == (0, f"{address}\n", "")

            no_sweep = run_ui("--uri", f"http://127.0.0.1:{port}", "--sweep", "0" * 32)
            assert (no_sweep.returncode, no_sweep.stdout) == (2, "")
            assert no_sweep.stderr == f"There is no run {'0' * 32!r} in http://127.0.0.1:{port}.\n"

            unknown = run_ui("--uri", f"http://127.0.0.1:{port}", "--experiment", "mnits")
            assert unknown.returncode == 2
            assert unknown.stderr == "There is no experiment 'mnits' in the store. Choices: Default.\n"
        finally:
            ui.send_signal(signal.SIGTERM)
        assert ui.wait(timeout=60) == 0
    assert processes_naming(uri) == []
    assert [path.name for path in tmp_path.iterdir()] == ["a store"]


@pytest.mark.slow
def test_an_unusable_store_is_reported_in_one_line():
    for uri, message in [("mlruns", "no longer supports file stores"), ("http://127.0.0.1:9", "does not answer")]:
        result = run_ui("--uri", uri)
        assert (result.returncode, result.stdout) == (2, "")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


def test_unusable_ports_and_hosts_are_reported(tmp_path, capsys, monkeypatch):
    main = runpy.run_path(str(UI))["main"]
    for port in ("0", "-1", "70000"):
        monkeypatch.setattr(sys, "argv", ["ui.py", f"--port={port}"])
        assert main() == 2
        assert capsys.readouterr().err.startswith(f"--port={port}: expected 1 to 65535. For help: ")
    monkeypatch.setattr(sys, "argv", ["ui.py", "--host=192.0.2.1", f"--uri=sqlite:///{tmp_path}/mlflow.db"])
    assert main() == 2
    assert capsys.readouterr().err == (
        "Port 5000 on 192.0.2.1 is in use or not allowed, as are the ports after it. Choose another --host or --port.\n"
    )
