"""Jobs of a sweep in worker processes, each of which loads TensorFlow once; one that dies fails only its job.

A worker keeps its number of threads, its devices and its strategy, which a process takes once and which the result
depends on: jobs that differ in them go to different workers. Where there are GPUs, each worker sees one of its own.
(That was not run on a machine with a GPU.)
"""

import contextlib
import gc
import math
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from experiments.config.facts import available_cores
from experiments.config.schema import Config
from experiments.errors import ConfigError, Terminated, raise_terminated
from experiments.sweeps.jobs import draw_best_run, try_job
from experiments.sweeps.plan import JobOutcome, SweepJob
from experiments.sweeps.sweep import Sweep, end_job, job_outcome, stop_sweep, warn_not_drawn
from experiments.training.devices import logical_devices

WorkerKind = tuple[int, str, int]  # threads, strategy, devices

GRACE_SECONDS = 30  # seconds that a worker has to checkpoint and close its run
TICK_SECONDS = 1.0  # seconds between looks at the clock


def check_pool_settings(workers: object, timeout_minutes: object) -> None:
    """Refuse what conf/hydra/launcher/pool.yaml does not allow.

    Raises:
        ConfigError: names the key, and what it may be.
    """
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ConfigError(f"hydra.launcher.workers={workers} is not allowed: processes, from 1 on, or null")
    number = isinstance(timeout_minutes, int | float) and not isinstance(timeout_minutes, bool)
    if timeout_minutes is not None and not (number and 0 < float(str(timeout_minutes)) < math.inf):
        raise ConfigError(
            f"hydra.launcher.timeout_minutes={timeout_minutes} is not allowed: minutes, greater than 0, or null"
        )


def worker_kind(config: Config) -> WorkerKind:
    """What a process takes once."""
    return int(config.training.threads), config.distribution.strategy, logical_devices(config.distribution)


def max_parallel(config: Config, workers: int | None) -> int:
    """How many jobs with this config run at once, with so many workers or as many as the machine has room for."""
    threads, _, devices = worker_kind(config)
    return workers or _visible_gpus() or max(1, available_cores() // (threads * devices))


@dataclass
class PoolWorker:
    """A process that runs one job after another; `job` is the one it has."""

    kind: WorkerKind
    gpu: int | None
    process: subprocess.Popen
    connection: Connection
    job: SweepJob | None = None
    started: float = math.inf  # when it began the job

    def give(self, job: SweepJob) -> None:
        self.job = job
        if self.started < math.inf:  # else it is still to load TensorFlow
            self.started = time.monotonic()
        self.connection.send(job.number)

    @property
    def seconds(self) -> float:
        """Since it began the job."""
        return max(0.0, time.monotonic() - self.started)

    def end(self) -> None:
        """Let go of a worker without a job: it ends itself when nobody is at the other end."""
        self.connection.close()

    def kill(self) -> None:
        """End the worker: it checkpoints and closes its run; if it takes too long, at once."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)
        self.process.kill()
        self.process.wait()


def run_in_pool(sweep: Sweep, numbers: Sequence[int], workers: int | None, timeout_minutes: float | None) -> None:
    """Run those of these jobs that are not done, as many at once as there are workers.

    Args:
        workers: processes; None for one per GPU, else as many as the cores hold with the jobs' threads.
        timeout_minutes: that a job may take; None for any time.

    Raises:
        KeyboardInterrupt, Terminated: after all jobs have checkpointed; a second Ctrl-C ends them at once.
    """
    pending = [sweep.jobs[number] for number in sweep.to_run(numbers)]
    if not pending:
        return
    if sweep.pool is None:  # a search comes back with more jobs, for which the workers have loaded TensorFlow
        sweep.pool = WorkerPool(sweep, workers, math.inf if timeout_minutes is None else 60 * timeout_minutes)
        sweep.resources.callback(sweep.pool.close)
    try:
        sweep.pool.run(pending)
    except (KeyboardInterrupt, Terminated) as interruption:
        sweep.pool.interrupt(signal.SIGINT if isinstance(interruption, KeyboardInterrupt) else signal.SIGTERM)
        raise


class WorkerPool:
    """The workers of a sweep and the jobs that wait for them."""

    def __init__(self, sweep: Sweep, workers: int | None, timeout: float) -> None:
        self.sweep, self.timeout = sweep, timeout
        self.pending: deque[SweepJob] = deque()
        self.retries: dict[int, int] = {}
        self.gpus = _visible_gpus()
        # In workers if their number is given, or in GPUs; else in threads.
        self.by_threads = workers is None and not self.gpus
        self.capacity = workers or self.gpus or available_cores()
        self.workers: list[PoolWorker] = []

    def run(self, jobs: Sequence[SweepJob]) -> None:
        self.pending.extend(jobs)
        self.retries |= dict.fromkeys((job.number for job in jobs), self.sweep.plan.base.sweep.retries)
        while self.pending or any(worker.job for worker in self.workers):
            self._fill()
            busy = {worker.connection: worker for worker in self.workers if worker.job}
            for connection in wait(list(busy), timeout=TICK_SECONDS):
                self._hear(busy[connection])  # type: ignore[index]
            for worker in busy.values():
                if worker.job and worker in self.workers and worker.seconds > self.timeout:
                    self._time_out(worker)

    def _fill(self) -> None:
        """Give every worker a job, start workers while there is room, and end those that stand in the way of others."""
        if self.sweep.is_stopped:
            self.pending.clear()
        for worker in [worker for worker in self.workers if not worker.job]:
            job = next((job for job in self.pending if worker_kind(job.config) == worker.kind), None)
            alive = worker.process.poll() is None
            if job and alive:
                self.pending.remove(job)
                self._give(worker, job)
            elif self.pending:
                self.workers.remove(worker)
                worker.end()
        while self.pending and self._has_room(self.pending[0]):
            job = self.pending.popleft()
            worker = self._start(worker_kind(job.config))
            self.workers.append(worker)
            self._give(worker, job)

    def _give(self, worker: PoolWorker, job: SweepJob) -> None:
        try:
            worker.give(job)
        except OSError:  # it has died since it was looked at
            self._bury(worker)

    def _has_room(self, job: SweepJob) -> bool:
        taken = sum(self._cost(worker.kind) for worker in self.workers)
        return not self.workers or taken + self._cost(worker_kind(job.config)) <= self.capacity

    def _cost(self, of: WorkerKind) -> int:
        threads, _, devices = of
        return threads * devices if self.by_threads else 1

    def _start(self, of: WorkerKind) -> PoolWorker:
        ours, theirs = Pipe()
        free = [gpu for gpu in range(self.gpus) if gpu not in {worker.gpu for worker in self.workers}]
        gpu = free[0] if free else None
        threads, _, devices = of
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.sweeps.engines.pool", str(theirs.fileno()), str(threads), str(devices)],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": _gpu_name(gpu)})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # of jobs that run at once, only this process speaks
            start_new_session=True,  # a Ctrl-C reaches this process, which passes it on
        )
        theirs.close()
        return PoolWorker(of, gpu, process, ours)

    def _hear(self, worker: PoolWorker) -> None:
        assert worker.job is not None
        try:
            heard = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            self._bury(worker)
            return
        if heard is None:  # it has loaded TensorFlow, and begins
            worker.started = time.monotonic()
            return
        job, worker.job = worker.job, None
        self._take(job, *heard)

    def _bury(self, worker: PoolWorker) -> None:
        """A worker is gone with its job."""
        assert worker.job is not None
        self.workers.remove(worker)
        code, parent_id = worker.process.wait(), self.sweep.run.run_id
        if code == Terminated.exit_code:
            outcome = job_outcome(worker.job, parent_id, "its worker process was terminated by SIGTERM")
        elif code < 0:
            reason = f"its worker process was killed by {signal.Signals(-code).name}"
            outcome = end_job(worker.job, parent_id, "KILLED", reason)
        else:
            reason = f"its worker process ended with exit code {code}"
            outcome = end_job(worker.job, parent_id, "FAILED", reason)
        self._take(worker.job, outcome, worker.seconds)

    def _time_out(self, worker: PoolWorker) -> None:
        assert worker.job is not None
        self.workers.remove(worker)
        worker.kill()
        reason = f"it took longer than hydra.launcher.timeout_minutes={self.timeout / 60:g}"
        outcome = end_job(worker.job, self.sweep.run.run_id, "KILLED", reason)
        self._take(worker.job, outcome, worker.seconds)

    def _take(self, job: SweepJob, outcome: JobOutcome, seconds: float) -> None:
        if not outcome.is_done and self.retries[job.number]:
            self.retries[job.number] -= 1
            print(f"{job.name} is tried again: {outcome.reason}", file=sys.stderr, flush=True)
            self.pending.append(job)
            return
        if not outcome.is_done and job.config.sweep.on_error == "stop":
            stop_sweep()
        self.sweep.finished(job.number, outcome, seconds, max(1, len(self.workers)))

    def draw(self, job: SweepJob, run_id: str) -> None:
        """Have a worker that has nothing to do draw the whole report of a job's run."""
        idle = (w for w in self.workers if w.kind == worker_kind(job.config) and not w.job and w.process.poll() is None)
        if worker := next(idle, None):
            try:
                worker.connection.send(run_id)
                if worker.connection.poll(GRACE_SECONDS):
                    worker.connection.recv()
            except (EOFError, OSError):
                warn_not_drawn(run_id, "the worker process that drew them is gone")

    def interrupt(self, sent: signal.Signals) -> None:
        """Let all jobs checkpoint and close their runs."""
        busy = [worker for worker in self.workers if worker.job]
        for worker in busy:
            worker.process.send_signal(sent)
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in busy:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0, deadline - time.monotonic()))

    def close(self) -> None:
        """Leave no process behind, and no run that says it is running."""
        for worker in self.workers:
            alive = worker.process.poll() is None
            if worker.job and alive:
                worker.process.kill()
                worker.process.wait()
                end_job(worker.job, self.sweep.run.run_id, "KILLED", "its worker process was killed by SIGKILL")
            worker.end()


def _visible_gpus() -> int:
    """How many GPUs workers may use, found without TensorFlow, which would take their memory."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([device for device in chosen.split(",") if device.strip() not in ("", "-1")])
    if not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0


def _gpu_name(gpu: int) -> str:
    """The name of the GPU in CUDA_VISIBLE_DEVICES."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",")[gpu].strip() if chosen else str(gpu)


def main(connection: Connection, threads: int, devices: int) -> None:
    """Run the jobs whose numbers come in, and send back what came of each and how long it took, in seconds.

    For the id of a run, draw its report.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, raise_terminated)
    jobs: queue.SimpleQueue[int | str | None] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(connection, jobs, busy), daemon=True).start()
    try:
        from experiments.runtime import start_tensorflow

        start_tensorflow(threads, devices)
        connection.send(None)
        while (given := jobs.get()) is not None:
            started = time.monotonic()
            busy.set()
            if isinstance(given, str):
                draw_best_run(given)
                connection.send(None)
            else:
                connection.send((try_job(given), time.monotonic() - started))
            busy.clear()
            if not gc.get_freeze_count():  # Keras looks for garbage before each model, also among what stays
                gc.collect()
                gc.freeze()
    except (KeyboardInterrupt, Terminated):
        sys.exit(Terminated.exit_code)  # a job's run is closed, and says why


def _listen(connection: Connection, jobs: "queue.SimpleQueue[int | str | None]", busy: threading.Event) -> None:
    try:
        while True:
            jobs.put(connection.recv())
    except (EOFError, OSError):  # nobody is there any more
        jobs.put(None)
        if busy.is_set():  # the job checkpoints and closes its run
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(Terminated.exit_code)  # what a signal raises can be lost, within a destructor for one


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])), *map(int, sys.argv[2:4]))
