"""Commands in forks of a process that has loaded TensorFlow and MLflow, which takes several times what most tests need.

A forked process has its own arguments, environment, output, signals and exit code, as one that a shell starts has.
TensorFlow starts its threads only in there: the process that forks has loaded its modules and does nothing else.
"""

import atexit
import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

MODULES = [
    *("alembic.autogenerate", "alembic.command", "matplotlib.figure", "mlflow.store.tracking.sqlalchemy_store"),
    *("PIL.PngImagePlugin", "pyarrow.pandas_compat", "rich.progress", "scipy.stats", "experiments.cli"),
    *("experiments.experiment", "experiments.reproduction.resume", "experiments.sweeps.sweep"),
]
PROJECT = Path(__file__).resolve().parents[1]
RECORD = 16  # bytes: the process id, and later the exit code


class Preloaded:
    """A command in a fork, with the part of the interface of `subprocess.Popen` that the tests use."""

    def __init__(self, *line: str) -> None:
        (out, out_end), (err, err_end), (self._record, record_end) = os.pipe(), os.pipe(), os.pipe()
        self.stdout, self.stderr = os.fdopen(out), os.fdopen(err)
        self.returncode: int | None = None
        message = json.dumps({"line": line, "environment": dict(os.environ)}).encode()
        socket.send_fds(_server(), [message], [out_end, err_end, record_end])
        for descriptor in (out_end, err_end, record_end):
            os.close(descriptor)
        self.pid = int(os.read(self._record, RECORD))

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._record], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a preloaded command", timeout or 0)
            self.returncode = int(os.read(self._record, RECORD))
            os.close(self._record)
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        with ThreadPoolExecutor(2) as pool:
            out, err = pool.submit(self.stdout.read), pool.submit(self.stderr.read)
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()  # which ends the output
                raise
        self.stdout.close()
        self.stderr.close()
        return out.result(), err.result()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _server() -> socket.socket:
    """Start the process that forks, and return the connection to it: closing it ends the process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())], cwd=PROJECT, pass_fds=[theirs.fileno()]
    )
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


def _serve(connection: socket.socket) -> list[str]:
    """Fork for each message, and report how the forks end; return the command line in a fork, and [] at the end."""
    wakes, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    records: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([connection, wakes], [], [])
        if wakes in ready:
            os.read(wakes, 1000)
            while records and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                record = records.pop(ended[0])
                with contextlib.suppress(BrokenPipeError):
                    os.write(record, f"{os.waitstatus_to_exitcode(ended[1]):{RECORD}}".encode())
                os.close(record)
            continue
        message, descriptors, _, _ = socket.recv_fds(connection, 10**6, 3, socket.MSG_CMSG_CLOEXEC)
        if not message:  # the tests have ended, or were killed: a command that still runs would never end
            for pid in records:
                os.kill(pid, signal.SIGTERM)
            return []
        out, err, record = descriptors
        if not (pid := os.fork()):
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.dup2(out, 1)
            os.dup2(err, 2)
            sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
            sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
            for descriptor in (*descriptors, *records.values(), wakes, wake):
                os.close(descriptor)
            connection.close()
            request = json.loads(message)
            os.environ.clear()
            os.environ.update(request["environment"])
            return request["line"]
        records[pid] = record
        os.write(record, f"{pid:{RECORD}}".encode())
        os.close(out)
        os.close(err)


def _load() -> None:
    from experiments.runtime import collect_garbage_rarely, start_tensorflow
    from experiments.tracking.store import quiet_mlflow

    collect_garbage_rarely()
    quiet_mlflow()
    start_tensorflow(1)  # until its first operation the number can be changed
    for module in MODULES:
        importlib.import_module(module)


if __name__ == "__main__":
    _load()
    if line := _serve(socket.socket(fileno=int(sys.argv[1]))):
        sys.argv = line
        sys.path[0] = str(Path(line[0]).resolve().parent)
        runpy.run_path(line[0], run_name="__main__")
