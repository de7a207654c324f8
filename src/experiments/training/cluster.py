"""The processes of a multi-worker run: a supervisor starts and watches the workers, and ends all when one fails.

TensorFlow waits silently, and forever, for a peer that does not start or hangs. So the process that the user starts
does not load it: it starts its worker (all of them, for `distribution.workers`) as a child process, and the workers
report through files in a folder that they are alive, which phase they are in, and that they make progress.
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
from pathlib import Path
from typing import NoReturn

from experiments.config.schema import DistributionConfig
from experiments.errors import ConfigError, Terminated, TrainingError
from experiments.runtime import this_command

CLUSTER_FOLDER_VARIABLE = "EXPERIMENTS_CLUSTER"  # set for a worker: the folder that it reports through
SUPERVISOR_VARIABLE = "EXPERIMENTS_SUPERVISOR"  # and the process that started it, which may end before it has loaded


def supervises_cluster(config: DistributionConfig) -> bool:
    """Return whether this process has to start the workers of a cluster.

    Raise a ConfigError unless exactly one source defines the workers, and it is valid.
    """
    if config.strategy != "multi_worker" or CLUSTER_FOLDER_VARIABLE in os.environ:
        return False
    if sum((config.workers is not None, read_tf_config() is not None, on_slurm())) != 1:
        raise ConfigError(
            "distribution=multi_worker needs exactly one definition of its workers. Add distribution.workers=N to start"
            " N on this machine, or set TF_CONFIG on each, or start it with srun in a Slurm allocation."
        )
    return True


def read_tf_config() -> tuple[int, list[str]] | None:
    """Return the index of this worker and the addresses of all, from a valid TF_CONFIG; None if it is not set."""
    given = os.environ.get("TF_CONFIG")
    if not given:
        return None
    try:
        parsed = json.loads(given)
        ((job, addresses),) = parsed["cluster"].items()
        kind, index = parsed["task"]["type"], int(parsed["task"]["index"])
        fits = job == kind == "worker" and isinstance(addresses, list) and 0 <= index < len(addresses)
        fits = fits and all(re.fullmatch(r"\S+:\d+", address) for address in addresses)
    except (ValueError, KeyError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise ConfigError(
            f"TF_CONFIG={given} does not describe a worker. Expected, on the first of two:"
            ' {"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}.'
            " That worker is the chief; jobs of other names, such as chief or ps, are not supported."
        )
    return index, addresses


def on_slurm() -> bool:
    """Return whether Slurm started this process as one of several tasks."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


class ClusterWorker:
    """A worker that this process starts; `task` is its TF_CONFIG, None where the environment has it."""

    def __init__(self, index: int, task: str | None, folder: Path) -> None:
        self.index, self.folder, self.started = index, folder, time.monotonic()
        ours = {CLUSTER_FOLDER_VARIABLE: str(folder), SUPERVISOR_VARIABLE: str(os.getpid())}
        environment = {**os.environ, **ours, **({"TF_CONFIG": task} if task else {})}
        with (folder / f"log-{index}").open("w") as log:
            output = None if index == 0 else log  # only the chief prints
            self.process = subprocess.Popen(
                [*this_command(), *sys.argv[1:]],
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.name = f"worker {index} (process {self.process.pid})"

    def failure(self, timeout: float) -> str | None:
        """Return what is wrong with it, None if nothing is."""
        code = self.process.poll()
        if code is not None and code < 0:
            return f"{self.name} was killed by {signal.Signals(-code).name}"
        if code:
            return f"{self.name} ended with exit code {code}{self._last_words()}"
        if code is None:
            limit = f"distribution.timeout_seconds={timeout:g}"
            alive, trained, moved, ended = map(self._seconds_since, ("alive", "training", "progress", "reporting"))
            if trained is None and (waited := time.monotonic() - self.started) > timeout:
                return f"{self.name} is still waiting for its peers after {waited:.0f} s{_unreachable_peers()}"
            if trained is not None and alive is not None and alive > timeout:
                return f"{self.name} hangs: no sign of life for {alive:.0f} s ({limit})"
            if moved is not None and ended is None and moved > timeout:
                return f"{self.name} has not finished a step for {moved:.0f} s ({limit})"
        return None

    def _last_words(self) -> str:
        log = self.folder / f"log-{self.index}"
        lines = log.read_text(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def _seconds_since(self, sign: str) -> float | None:
        path = self.folder / f"{sign}-{self.index}"
        return time.time() - path.stat().st_mtime if path.exists() else None


def supervise_cluster(config: DistributionConfig, fail: Callable[[str, str | None], NoReturn]) -> str | None:
    """Start the workers and wait for them; end all when one fails, hangs or does not start.

    `fail` records a failure and raises; it takes the reason and the id of the run, None if there is none yet. Return
    the id of the chief's run, None if the chief is not a child of this process.
    """
    with tempfile.TemporaryDirectory(prefix="experiments-") as folder:
        workers = [ClusterWorker(index, task, Path(folder)) for index, task in _cluster_tasks(config.workers)]
        chief = next((worker for worker in workers if worker.index == 0), None)
        try:
            reason = _watch_workers(workers, config.timeout_seconds)
        except (KeyboardInterrupt, Terminated) as interruption:
            # The chief saves a checkpoint and prints how to resume; the others have nothing to save.
            sent = interruption.signal if isinstance(interruption, Terminated) else signal.SIGINT
            for worker in workers if chief is None else [chief]:
                worker.process.send_signal(sent)
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
    if code == 0:  # its run is finished, whatever happened to another worker after its last step
        return run_id
    if code is not None and code > 0:  # the chief has already printed and recorded why it failed
        sys.exit(code)
    fail(f"{reason}. All workers were ended", run_id)


def _watch_workers(workers: list[ClusterWorker], timeout: float) -> str | None:
    """Wait until all workers have succeeded, or one fails; return the reason of the failure, else None."""
    while True:
        # One worker that hangs makes all others wait: report the one that hangs.
        failures = [failure for worker in workers if (failure := worker.failure(timeout))]
        if failures:
            return min(failures, key=lambda failure: ("killed" not in failure, "hangs" not in failure))
        if all(worker.process.poll() == 0 for worker in workers):
            return None
        time.sleep(0.1)


def _cluster_tasks(workers: int | None) -> Iterator[tuple[int, str | None]]:
    """Yield index and TF_CONFIG of each worker to start here; None where the environment defines the cluster."""
    if given := read_tf_config():
        yield given[0], None
    elif on_slurm():
        yield int(os.environ["SLURM_PROCID"]), None
    else:
        addresses = [f"127.0.0.1:{port}" for port in free_local_ports(workers or 0)]
        for index in range(len(addresses)):
            yield index, json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})


def free_local_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _unreachable_peers() -> str:
    """Describe which workers of the cluster do not answer at all."""
    _, addresses = read_tf_config() or (0, [])
    silent = []
    for peer, address in enumerate(addresses):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=2).close()
        except OSError:
            silent.append(f"worker {peer} at {address}")
    return f"; no answer from {', '.join(silent)}" if silent else ""


class ClusterMember:
    """The part that this process plays in a run: it leads (also alone), follows the chief, or has supervised workers.

    A worker reports its signs of life to its supervisor; in a run of one process there is nobody to report to.
    """

    def __init__(self, supervised: bool = False, run_id: str = "") -> None:
        folder = os.environ.get(CLUSTER_FOLDER_VARIABLE)
        # It has run its workers to their end; the run is that of the chief, if that was one of them.
        self.supervised, self.run_id = supervised, run_id
        self.folder, self.supervisor = Path(folder) if folder else None, os.environ.get(SUPERVISOR_VARIABLE)
        self.index = next(_cluster_tasks(None))[0] if folder else 0
        self.follows = self.index > 0  # it trains as the chief does, but prints and records nothing

    def live(self) -> None:
        """Give signs of life until the supervisor is gone, and then end this process."""
        while self.folder and self.folder.exists() and str(os.getppid()) == self.supervisor:
            self._sign("alive")
            time.sleep(0.5)
        os._exit(1)

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Report that training begins, and that it is over: only in between must steps be finished."""
        self.progress()
        self._sign("training")
        yield
        self._sign("reporting")

    def progress(self, *_: object) -> None:
        """Report that a step is finished."""
        self._sign("progress")

    step = epoch = progress  # a TrainingObserver

    def report_run(self, run_id: str) -> None:
        """Report the id of the chief's run."""
        if self.folder:
            (self.folder / "run").write_text(run_id)

    def _sign(self, name: str) -> None:
        if self.folder:
            with contextlib.suppress(FileNotFoundError):  # the folder is removed at the end
                (self.folder / f"{name}-{self.index}").touch()


@contextlib.contextmanager
def join_cluster(config: DistributionConfig, fail: Callable[[str, str | None], NoReturn]) -> Iterator[ClusterMember]:
    """Find out what this process has to do in a run: everything, a worker's part, or to supervise workers.

    Supervision is already over when the body starts; arguments and errors are those of supervise_cluster.
    """
    if supervises_cluster(config):
        yield ClusterMember(supervised=True, run_id=supervise_cluster(config, fail) or "")
        return
    member = ClusterMember()
    if member.folder:
        threading.Thread(target=member.live, daemon=True).start()
    yield member


@contextlib.contextmanager
def name_failed_worker() -> Iterator[None]:
    """Raise a TrainingError that names the missing worker when TensorFlow cannot finish a step without it."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError) as e:
        if CLUSTER_FOLDER_VARIABLE not in os.environ:
            raise
        gone = sorted(set(re.findall(r"/task:(\d+)", str(e))))
        who = " or ".join(f"worker {index}" for index in gone) or "a worker"
        raise TrainingError(
            f"{who} of the cluster is gone or hangs: a step could not be finished without it ({type(e).__name__})"
        ) from e
