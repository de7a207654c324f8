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
from typing import TypeVar

from experiments import PROJECT
from experiments.config.composition import compose_job
from experiments.errors import TrainingError
from experiments.runtime import collect_garbage_rarely

T = TypeVar("T")
REPORT_SPANS = ("figures", "tables", "predictions", "model")  # of the profile


@dataclass(frozen=True)
class MeasuredProcess:
    """A finished process: its wall time, and the peak memory of it or of one of its children, in MiB."""

    seconds: float
    mebibytes: float
    output: str

    @property
    def epochs(self) -> list[float]:
        """Seconds of each epoch, as plain_keras.py prints them."""
        return json.loads(self.output)["epoch_seconds"]


def measure_process(*command: str, exit_code: int = 0) -> MeasuredProcess:
    """Run a command in the project's folder and measure it from outside.

    Raises:
        TrainingError: it ended with another exit code.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        child = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if child.returncode != exit_code:
            said = "".join(errors.readlines()[-20:])
            raise TrainingError(f"{' '.join(command)} ended with {child.returncode}, expected {exit_code}:\n{said}")
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # Linux counts KiB
        return MeasuredProcess(seconds, peak / 2**20, output.read())


def in_fresh_process(function: Callable[..., T], *arguments: object) -> T:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@dataclass(frozen=True)
class MeasuredRun:
    """Seconds of a run, of its report, of its logging between epochs, and of each epoch."""

    seconds: float
    report: float
    logging: float
    epochs: list[float]


def measure_run(overrides: list[str]) -> MeasuredRun:
    """Do what `python run.py OVERRIDES` does, and read the parts of its time from its own profile."""
    start = time.perf_counter()
    collect_garbage_rarely()
    config = compose_job(overrides)
    from experiments.experiment import run_experiment
    from experiments.profiling import trace_events

    epochs: list[float] = []
    with contextlib.redirect_stdout(io.StringIO()):
        run_experiment(config, overrides, watch=lambda _, metrics: epochs.append(metrics["epoch_seconds"]))
    seconds = time.perf_counter() - start
    events = json.loads(trace_events())["traceEvents"]
    spans = [(event["name"], event["ts"] / 1e6, event["dur"] / 1e6) for event in events]
    trained = min(start for name, start, _ in spans if name == "epoch")
    logging = [length for name, start, length in spans if name == "logging" and start > trained][: len(epochs)]
    report = [(start, start + length) for name, start, length in spans if name in REPORT_SPANS and start > trained]
    return MeasuredRun(seconds, max(end for _, end in report) - min(start for start, _ in report), sum(logging), epochs)
