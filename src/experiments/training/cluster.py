"""The processes of a multi-worker run: this one starts and watches workers, and ends them all when one fails.

TensorFlow waits in silence, and for ever, for a peer that does not come up or hangs. So no process that the user starts
loads it: each starts its worker (all of them, for `distribution.workers`) as a child, and the children tell through
files in a folder that they are alive, that they are ready, and how far they are.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from experiments.config.schema import DistributionConfig
from experiments.errors import ConfigError, Terminated, TrainingError

CLUSTER_FOLDER_VARIABLE = "EXPERIMENTS_CLUSTER"  # in a worker's environment: where it tells how it is
STARTING = "starting"
TRAINING = "training"
REPORTING = "reporting"


def supervises_cluster(config: DistributionConfig) -> bool:
    """Whether this process has to start the workers, rather than to be one.

    Raises:
        ConfigError: nothing says what the cluster is, or two things do, or TF_CONFIG does not say it.
    """
    if config.strategy != "multi_worker" or CLUSTER_FOLDER_VARIABLE in os.environ:
        return False
    if sum((config.workers is not None, read_tf_config() is not None, on_slurm())) != 1:
        raise ConfigError(
            "distribution=multi_worker needs to know its workers from one source. Add distribution.workers=N to start N"
            " on this machine, or set TF_CONFIG on each, or start it by srun in a Slurm allocation; not two of them."
        )
    return True


def read_tf_config() -> tuple[int, list[str]] | None:
    """This process's number among the workers, and the addresses of all, as TF_CONFIG says; None where it is not set.

    Raises:
        ConfigError: it is not that of a worker in a cluster of workers only.
    """
    given = os.environ.get("TF_CONFIG")
    if not given:
        return None
    try:
        said = json.loads(given)
        ((job, addresses),) = said["cluster"].items()
        kind, index = said["task"]["type"], int(said["task"]["index"])
        fits = job == kind == "worker" and isinstance(addresses, list) and 0 <= index < len(addresses)
        fits = fits and all(re.fullmatch(r"\S+:\d+", address) for address in addresses)
    except (ValueError, KeyError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise ConfigError(
            f"TF_CONFIG={given} is not that of a worker. Expected, on the first of two:"
            ' {"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}.'
            " That worker is the chief; a job of another name, such as chief or ps, is not supported."
        )
    return index, addresses


def on_slurm() -> bool:
    """Whether Slurm started this process as one of several tasks."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


@dataclass
class ClusterWorker:
    """A worker that this process started."""

    index: int
    process: subprocess.Popen
    folder: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        return f"worker {self.index} (process {self.process.pid})"

    def failure(self, timeout: float) -> str | None:
        """What is wrong with it, or None."""
        code = self.process.poll()
        if code is not None and code < 0:
            return f"{self.name} was killed by {signal.Signals(-code).name}"
        if code:
            return f"{self.name} ended with exit code {code}{self._last_words()}"
        if code is None:
            phase = self._read("phase") or STARTING
            alive, moved = self._seconds_since("alive"), self._seconds_since("progress")
            if phase == STARTING and (waited := time.monotonic() - self.started) > timeout:
                return f"{self.name} still waits for its peers after {waited:.0f} s{_unreachable_peers()}"
            if phase != STARTING and alive > timeout:
                return (
                    f"{self.name} hangs: no sign of life for {alive:.0f} s (distribution.timeout_seconds={timeout:g})"
                )
            if phase == TRAINING and moved > timeout:
                return f"no step of {self.name} has ended for {moved:.0f} s (distribution.timeout_seconds={timeout:g})"
        return None

    def _last_words(self) -> str:
        log = self.folder / f"log-{self.index}"
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        return f": {lines[-1]}" if lines else ""

    def _read(self, what: str) -> str:
        path = self.folder / f"{what}-{self.index}"
        return path.read_text() if path.exists() else ""

    def _seconds_since(self, what: str) -> float:
        path = self.folder / f"{what}-{self.index}"
        return time.time() - path.stat().st_mtime if path.exists() else time.monotonic() - self.started


def supervise_cluster(config: DistributionConfig, fail: Callable[[str, str | None], NoReturn]) -> str | None:
    """Start the workers, wait for their end, and end all when one fails, hangs or does not come up.

    Args:
        fail: records a failure; is given the reason and the id of the run, None if it was not made yet. Raises.

    Returns:
        The id of the chief's run, None in a process that has not the chief.
    """
    with tempfile.TemporaryDirectory(prefix="experiments-") as folder:
        workers = [_start_worker(index, task, Path(folder)) for index, task in _cluster_tasks(config.workers)]
        chief = next((worker for worker in workers if worker.index == 0), None)
        try:
            reason = _watch_workers(workers, config.timeout_seconds)
        except (KeyboardInterrupt, Terminated) as interruption:
            # The chief checkpoints, and says how to go on; the others have nothing to lose.
            for worker in workers if chief is None else [chief]:
                worker.process.send_signal(
                    signal.SIGINT if isinstance(interruption, KeyboardInterrupt) else signal.SIGTERM
                )
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.process.wait(config.timeout_seconds)
            raise
        finally:
            for worker in workers:
                worker.process.kill()
                worker.process.wait()
        run_id = (Path(folder) / "run").read_text() if (Path(folder) / "run").exists() else None
    if reason is None:
        return run_id
    if chief is None:
        raise TrainingError(f"{reason}. This worker has ended.")
    code = chief.process.returncode
    if code == 0:  # its run is finished, whatever ended another worker after its last step
        return run_id
    if code is not None and code > 0:  # the chief itself failed, and has said and recorded why
        sys.exit(code)
    fail(f"{reason}. All workers were ended", run_id)


def _watch_workers(workers: list[ClusterWorker], timeout: float) -> str | None:
    """Wait until all workers ended well, or the first is in trouble; what the trouble is, else None."""
    while True:
        # A worker that hangs makes all others wait: its own silence says more than that they do not move.
        failures = [failure for worker in workers if (failure := worker.failure(timeout))]
        if failures:
            return min(failures, key=lambda failure: ("killed" not in failure, "hangs" not in failure))
        if all(worker.process.poll() == 0 for worker in workers):
            return None
        time.sleep(0.1)


def _cluster_tasks(workers: int | None) -> Iterator[tuple[int, str | None]]:
    """Index and TF_CONFIG of each worker to start here; no TF_CONFIG where the environment says it all."""
    if given := read_tf_config():
        yield given[0], None
    elif on_slurm():
        yield int(os.environ["SLURM_PROCID"]), None
    else:
        addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers or 0)]
        for index in range(len(addresses)):
            yield index, json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _start_worker(index: int, task: str | None, folder: Path) -> ClusterWorker:
    environment = {**os.environ, CLUSTER_FOLDER_VARIABLE: str(folder), **({"TF_CONFIG": task} if task else {})}
    with (folder / f"log-{index}").open("w") as log:
        output = None if index == 0 else log  # the chief speaks for all
        process = subprocess.Popen(
            [sys.executable, *sys.argv], env=environment, stdout=output, stderr=output, start_new_session=True
        )
    return ClusterWorker(index, process, folder)


def _unreachable_peers() -> str:
    """Which workers of the cluster do not answer at all."""
    _, addresses = read_tf_config() or (0, [])
    silent = []
    for peer, address in enumerate(addresses):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=2).close()
        except OSError:
            silent.append(f"worker {peer} at {address}")
    return f"; no answer from {', '.join(silent)}" if silent else ""


class SignsOfLife:
    """A worker's signs of life to the process that started it; nothing in a run of one process."""

    def __init__(self) -> None:
        folder = os.environ.get(CLUSTER_FOLDER_VARIABLE)
        self.folder = Path(folder) if folder else None
        self.index = next(_cluster_tasks(None))[0] if folder else 0
        self.parent = os.getppid()
        if self.folder:
            threading.Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        while self.folder and self.folder.exists() and os.getppid() == self.parent:
            self._write("alive", "")
            time.sleep(0.5)
        os._exit(1)  # the process that watches over all workers is gone

    def phase(self, name: str) -> None:
        self.progress()
        self._write("phase", name)

    def progress(self) -> None:
        self._write("progress", "")

    def step(self, *_: object) -> None:
        self.progress()

    epoch = step  # all that training tells of itself is that it moves

    def run(self, run_id: str) -> None:
        if self.folder:
            (self.folder / "run").write_text(run_id)

    def _write(self, what: str, text: str) -> None:
        if self.folder:
            path = self.folder / f"{what}-{self.index}"
            with contextlib.suppress(FileNotFoundError):  # the folder is removed at the end
                path.with_suffix(".new").write_text(text)
                path.with_suffix(".new").replace(path)  # never read half written


@contextlib.contextmanager
def name_failed_worker() -> Iterator[None]:
    """Say which worker is gone when TensorFlow ends a step for the lack of a peer."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError) as e:
        if CLUSTER_FOLDER_VARIABLE not in os.environ:
            raise
        gone = sorted(set(re.findall(r"/task:(\d+)", str(e))))
        who = " or ".join(f"worker {index}" for index in gone) or "a worker"
        raise TrainingError(
            f"{who} of the cluster is gone or hangs: a step could not end without it ({type(e).__name__})"
        ) from e
