"""The engine of hydra/launcher=pool: worker processes that load TensorFlow once; one that dies fails only its job.

A worker keeps its number of threads, its devices and its strategy, which a process takes once and which the result
depends on: jobs that differ in them go to different workers. Where there are GPUs, each worker sees one, or
distribution.devices of them, which it shares only if there are more workers than GPUs.
"""

import contextlib
import gc
import math
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_connections

from experiments.config.facts import available_cores
from experiments.config.own_code import load_own_code, loaded_own_code
from experiments.config.schema import Config
from experiments.config.sweep_composition import PoolSettings
from experiments.errors import ENDING_SIGNALS, Terminated, handle_ending_signals, run_command
from experiments.sweeps.engines.engine import Engine, JobEnd, has_room, process_kind
from experiments.sweeps.jobs import try_job
from experiments.sweeps.plan import SweepJob
from experiments.training.devices import process_settings

GRACE_SECONDS = 30  # seconds that a worker has to checkpoint and close its run
TICK_SECONDS = 1.0  # seconds between looks at the clock


@dataclass
class PoolWorker:
    """A process that runs one job after another."""

    config: Config  # of the job that it was started for; all its jobs need the same process settings
    gpu: str | None  # that it sees, or several with commas
    process: subprocess.Popen
    connection: Connection
    job: SweepJob | None = None
    started: float = math.inf  # when it began the job; infinity while it loads TensorFlow

    def end(self, reason: str, lost_status: str | None = None) -> JobEnd:
        """Return the end of its job."""
        assert self.job is not None
        return JobEnd(self.job, max(0.0, time.monotonic() - self.started), reason, lost_status)


class PoolEngine(Engine):
    """Keeps workers alive between jobs, and starts and ends them as the jobs require."""

    def __init__(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.gpus = visible_gpus()
        self.workers: list[PoolWorker] = []

    def max_parallel(self, config: Config) -> int:
        threads, devices, _ = process_settings(config)
        return self.settings.workers or len(self.gpus) or max(1, available_cores() // (threads * devices))

    def give(self, job: SweepJob, draw: str | None = None) -> None:
        for dead in [worker for worker in self.workers if not worker.job and worker.process.poll() is not None]:
            self._dismiss(dead)
        idle = [worker for worker in self.workers if not worker.job]
        alike = [worker for worker in idle if process_kind(worker.config) == process_kind(job.config)]
        while idle and not alike and not has_room(self, (worker.config for worker in self.workers), job.config):
            self._dismiss(idle.pop())
        worker = alike[0] if alike else self._start_worker(job.config)
        worker.job, worker.started = job, time.monotonic() if alike else math.inf
        with contextlib.suppress(OSError):  # it has died, which `wait` sees
            worker.connection.send((job, draw))

    def _dismiss(self, worker: PoolWorker) -> None:
        """Remove a worker and wait for its end."""
        worker.connection.close()  # then it exits, after its job, if any, has saved a checkpoint
        _await_ends([worker])
        self.workers.remove(worker)

    def _start_worker(self, config: Config) -> PoolWorker:
        ours, theirs = Pipe()
        taken = [gpu for worker in self.workers for gpu in (worker.gpu or "").split(",")]
        environment = worker_environment(self.gpus, taken, config.distribution.devices or 1)
        own = loaded_own_code()
        arguments = theirs.fileno(), self.parent_id, *map(int, process_settings(config)), own.folder if own else ""
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.sweeps.engines.pool", *map(str, arguments)],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # only the sweep reports on jobs that run in parallel
            start_new_session=True,  # a Ctrl-C reaches the sweep's process, which passes it on
        )
        theirs.close()
        self.workers.append(PoolWorker(config, environment.get("CUDA_VISIBLE_DEVICES"), process, ours))
        return self.workers[-1]

    def wait(self, timeout: float = math.inf) -> JobEnd:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            busy = {worker.connection: worker for worker in self.workers if worker.job}
            for connection in wait_for_connections(list(busy), TICK_SECONDS):
                if end := self._receive(busy[connection]):  # type: ignore[index]
                    return end
            for worker in busy.values():
                if time.monotonic() - worker.started > 60 * (self.settings.timeout_minutes or math.inf):
                    self._dismiss(worker)
                    limit = f"hydra.launcher.timeout_minutes={self.settings.timeout_minutes:g}"
                    return worker.end(f"it took longer than {limit}", "KILLED")
        raise TimeoutError

    def _receive(self, worker: PoolWorker) -> JobEnd | None:
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            self._dismiss(worker)
            return _end_of_dead_worker(worker)
        if message is None:  # it has loaded TensorFlow, and begins
            worker.started = time.monotonic()
            return None
        end, worker.job = worker.end(message), None
        return end

    def interrupt(self, sent: signal.Signals) -> None:
        busy = [worker for worker in self.workers if worker.job]
        for worker in busy:
            worker.process.send_signal(sent)
        _await_ends(busy)

    def close(self) -> list[JobEnd]:
        for worker in self.workers:
            if worker.job:
                worker.process.kill()
            worker.connection.close()
        _await_ends(self.workers)
        ends = [_end_of_dead_worker(worker) for worker in self.workers if worker.job]
        self.workers.clear()
        return ends


def _await_ends(workers: Sequence[PoolWorker]) -> None:
    """Wait for processes that were told to end, and kill those that take longer than GRACE_SECONDS."""
    deadline = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(max(0, deadline - time.monotonic()))
        worker.process.kill()  # which does nothing if it has ended
        worker.process.wait()


def _end_of_dead_worker(worker: PoolWorker) -> JobEnd:
    code = worker.process.returncode
    if code - 128 in ENDING_SIGNALS:  # it has closed its run
        return worker.end(f"its worker process was {Terminated(code - 128)}")
    if code < 0:
        return worker.end(f"its worker process was killed by {signal.Signals(-code).name}", "KILLED")
    return worker.end(f"its worker process ended with exit code {code}", "FAILED")


def worker_environment(gpus: Sequence[str], taken: Sequence[str], devices: int) -> dict[str, str]:
    """Return the environment of the next worker, which sees those of the GPUs, if any, that the fewest have taken."""
    if not gpus:
        return dict(os.environ)
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(sorted(gpus, key=taken.count)[:devices])}


def visible_gpus() -> list[str]:
    """Return the GPUs of the workers, as CUDA names them, without TensorFlow, which would take their memory."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [device.strip() for device in chosen.split(",") if device.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    return parse_listed_gpus(subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout)


def parse_listed_gpus(listed: str) -> list[str]:
    """Return the GPUs that `nvidia-smi -L` lists, or instead of one that is split into MIG instances, these.

    CUDA numbers them in another order, so they are named by their UUIDs.
    """
    found: list[str] = []
    for gpu in re.split(r"^GPU ", listed, flags=re.MULTILINE)[1:]:
        found += re.findall(r"UUID: (MIG-[^)]+)\)", gpu) or re.findall(r"UUID: (GPU-[^)]+)\)", gpu)
    return found


def run_worker(
    code: str | None, connection: Connection, parent_id: str, threads: int, devices: int, tensor_float_32: int
) -> None:
    """Run incoming jobs until the sweep is gone, and send back why each failed, or an empty string.

    `code` is the folder of the user's own code, None if there is none.
    """
    load_own_code(code)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handle_ending_signals()
    jobs: queue.SimpleQueue[tuple[SweepJob, str | None] | None] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(connection, jobs, busy), daemon=True).start()
    try:
        from experiments.runtime import start_tensorflow

        start_tensorflow(threads, devices, bool(tensor_float_32))
        connection.send(None)
        while (given := jobs.get()) is not None:
            busy.set()
            job, draw = given
            connection.send(try_job(job, parent_id, draw))
            busy.clear()
            if not gc.get_freeze_count():  # Keras collects garbage before each model: spare it the rest
                gc.collect()
                gc.freeze()
    except BrokenPipeError:  # the sweep's process is gone
        return
    except (KeyboardInterrupt, Terminated) as end:  # a job's run is closed, and says why
        sys.exit((end if isinstance(end, Terminated) else Terminated()).exit_code)


def _listen(connection: Connection, jobs: queue.SimpleQueue, busy: threading.Event) -> None:
    try:
        while True:
            jobs.put(connection.recv())
    except (EOFError, OSError):  # the sweep's process is gone
        jobs.put(None)
        if busy.is_set():  # the job checkpoints and closes its run
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(Terminated().exit_code)  # an exception raised by a signal can be lost, for example in a destructor


if __name__ == "__main__":
    number, parent_id, *process, code = sys.argv[1:]
    sys.exit(run_command(partial(run_worker, code or None, Connection(int(number)), parent_id, *map(int, process))))
