"""The protocol of all engines, and what they share."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from signal import Signals
from typing import Protocol

from experiments.config.schema import Config
from experiments.sweeps.plan import SweepJob
from experiments.training.devices import process_settings


@dataclass(frozen=True)
class JobEnd:
    """The end of a job as its engine saw it; its outcome is in its MLflow run."""

    job: SweepJob
    seconds: float
    reason: str = ""  # why it failed
    lost_status: str | None = None  # FAILED or KILLED if its process ended without closing the job's run


class Engine(Protocol):
    """Runs jobs of a sweep, each once; a job that fails is reported and raises nothing."""

    parent_id: str

    def start(self, parent_id: str) -> None:
        """Prepare to run jobs as children of this run."""
        self.parent_id = parent_id

    def max_parallel(self, config: Config) -> int:
        """Return how many jobs with this config can run at once."""

    def give(self, job: SweepJob, draw: str | None = None) -> None:
        """Start a job if there is room, or `draw` the full report of its finished run, given by id."""

    def wait(self, timeout: float = math.inf) -> JobEnd:
        """Wait until one of the jobs given has ended; a signal raises KeyboardInterrupt or Terminated.

        Raises:
            TimeoutError: none has ended after `timeout` seconds. (A job in this process ends first.)
        """

    def interrupt(self, sent: Signals) -> None:
        """Let all running jobs checkpoint and close their runs, for a limited time."""
        return

    def close(self) -> list[JobEnd]:
        """Leave no process behind; return the ends of jobs that nobody has waited for."""
        return []


def has_room(engine: Engine, running: Iterable[Config], config: Config) -> bool:
    """Return whether a job with this config fits beside the running ones; each takes its share of the engine."""
    return sum(Fraction(1, engine.max_parallel(each)) for each in (*running, config)) <= 1


def process_kind(config: Config) -> tuple[tuple[int, int, bool], str]:
    """Return what a process takes once: the settings of TensorFlow, and the strategy."""
    return process_settings(config), config.distribution.strategy
