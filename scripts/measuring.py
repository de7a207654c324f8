"""Processes and runs with a clock around them, for benchmark.py."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

from experiments import PROJECT
from experiments.config.composition import compose_job
from experiments.errors import TrainingError
from experiments.runtime import collect_garbage_rarely

T = TypeVar("T")
Call = tuple[float, tuple[Any, ...]]  # seconds, arguments


@dataclass(frozen=True)
class Process:
    """A process that ended: its wall time, and the most memory that it, or a child of it, held at once."""

    seconds: float
    mebibytes: float
    output: str

    @property
    def epochs(self) -> list[float]:
        """Seconds of each epoch, as plain_keras.py and jax_loop.py print them."""
        return json.loads(self.output)["epoch_seconds"]


def process(*command: str, code: int = 0) -> Process:
    """Run a command in the project's folder and measure it from without.

    Raises:
        TrainingError: it ended with another exit code.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        child = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if child.returncode != code:
            said = "".join(errors.readlines()[-20:])
            raise TrainingError(f"{' '.join(command)} ended with {child.returncode}, expected {code}:\n{said}")
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # Linux counts KiB
        return Process(seconds, peak / 2**20, output.read())


def in_fresh_process(function: Callable[..., T], *arguments: object) -> T:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@dataclass(frozen=True)
class Run:
    """Seconds of a run, of its report, of its logging between epochs, and of each epoch."""

    seconds: float
    report: float
    logging: float
    epochs: list[float]


def timed_run(overrides: list[str]) -> Run:
    """Do what `python run.py OVERRIDES` does, with a clock around the report and around each logging of metrics."""
    start = time.perf_counter()
    collect_garbage_rarely()
    config = compose_job(overrides)
    from experiments.experiment import publish_results, run_experiment
    from experiments.tracking.run import TrackedRun

    reports: list[Call] = []
    logged: list[Call] = []
    publish_results = recorded(publish_results, reports)
    TrackedRun.log_metrics = recorded(TrackedRun.log_metrics, logged)  # type: ignore[method-assign]
    with contextlib.redirect_stdout(io.StringIO()):
        run_experiment(config, overrides)
    epochs = [(seconds, metrics["epoch_seconds"]) for seconds, (_, metrics, *_) in logged if "epoch_seconds" in metrics]
    logging, trained = (list(column) for column in zip(*epochs, strict=True))
    return Run(time.perf_counter() - start, sum(seconds for seconds, _ in reports), sum(logging), trained)


def recorded(function: Callable[..., T], calls: list[Call]) -> Callable[..., T]:
    """The function, which then also appends the seconds and the arguments of each call to `calls`."""

    def call(*arguments: Any) -> T:
        start = time.perf_counter()
        result = function(*arguments)
        calls.append((time.perf_counter() - start, arguments))
        return result

    return call
