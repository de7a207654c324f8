"""Engines run the jobs of a sweep: all follow one protocol, so a sweep gives the same results with any of them.

An engine knows processes (or, one day, nodes of a cluster). What a job is, which jobs are done, retries, the parent
run and the search belong to the sweep, which reads outcomes from MLflow.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from signal import Signals
from typing import Protocol

from experiments.comparison.evaluate import draw_full_report
from experiments.config.identity import identity_tags
from experiments.config.overrides import override_key
from experiments.config.schema import Config
from experiments.errors import ConfigError, StoreError, TrainingError, UserError
from experiments.sweeps.plan import SweepJob, read_job_outcome
from experiments.sweeps.study import pruning_watch
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.recorded_config import read_recorded_config
from experiments.training.devices import logical_devices

PATIENCE = 30  # seconds that a job waits for the process that has its run to end


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


def process_kind(config: Config) -> tuple[int, str, int]:
    """Return threads, strategy and devices of a config, which TensorFlow fixes once per process."""
    return int(config.training.threads), config.distribution.strategy, logical_devices(config.distribution)


class InProcessEngine(Engine):
    """The engine of hydra/launcher=basic: jobs in this process. A signal reaches the job, which closes its run."""

    given: tuple[SweepJob, str | None]

    def max_parallel(self, config: Config) -> int:
        return 1

    def give(self, job: SweepJob, draw: str | None = None) -> None:
        self.given = job, draw

    def wait(self, timeout: float = math.inf) -> JobEnd:
        started = time.monotonic()
        job, draw = self.given
        reason = try_job(job, self.parent_id, draw)
        return JobEnd(job, time.monotonic() - started, reason)


def check_shared_process(jobs: Sequence[Config]) -> None:
    """Raise ConfigError if the jobs differ in what TensorFlow takes once per process, or layers do not fit."""
    if len({process_kind(config) for config in jobs}) > 1:
        raise ConfigError(
            "The jobs of this sweep differ in training.threads (which `auto` chooses by the network), or in"
            " distribution, and TensorFlow fixes both once per process. Give all the same, such as training.threads=1,"
            " or use hydra/launcher=pool."
        )
    layered = [config for config in jobs if config.model.name == "layers"]
    if layered:  # only Keras knows whether the layers fit; a single run finds out before it is made
        from experiments.training.devices import start_strategy
        from experiments.training.networks import build_network

        start_strategy(layered[0].distribution, int(layered[0].training.threads))
        for config in layered:
            build_network(config)


def try_job(job: SweepJob, parent_id: str, draw: str | None = None) -> str:
    """Run a job unless it is done, or draw the full report of its run `draw`; return why that failed, or ''."""
    try:
        if draw:
            draw_full_report(draw, resolve_tracking_uri(job.config.tracking.uri))
        else:
            _run_job(job, parent_id)
    except (UserError, TrainingError) as error:
        return str(error)
    except (Exception, SystemExit) as error:  # its traceback is with its run
        return f"{type(error).__name__}: {error}"
    return ""


def _run_job(job: SweepJob, parent_id: str) -> None:
    """Run a job as the child of a sweep, in its own run if it has one that is not finished.

    Raises:
        ConfigError: the code has been edited since the sweep started.
        UserError, TrainingError: as run_experiment.
    """
    from experiments.experiment import run_experiment

    if identity_tags(job.config, job.data_digest)["fingerprint"] != job.fingerprint:
        raise ConfigError("The project's code or packages have changed since the sweep started. Start it again.")
    deadline = time.monotonic() + PATIENCE
    earlier = read_job_outcome(job, parent_id)
    while earlier.status == "RUNNING" and time.monotonic() < deadline:  # its process saves a checkpoint and exits
        time.sleep(0.5)
        earlier = read_job_outcome(job, parent_id)
    if earlier.is_done:
        return
    watch = pruning_watch(job.trial, job.config.training.epochs) if job.trial else None
    config, overrides = _recorded_start(job, earlier.run_id) if earlier.run_id else (job.config, job.overrides)
    run_experiment(config, overrides, {"mlflow.parentRunId": parent_id}, earlier.run_id, watch)


def _recorded_start(job: SweepJob, run_id: str) -> tuple[Config, list[str]]:
    """Return what the job's run recorded, but data and store of this command, which may not change the result."""
    try:
        config, overrides = read_recorded_config(resolve_tracking_uri(job.config.tracking.uri), run_id)
    except StoreError:  # it was cut off before it had recorded them
        return job.config, job.overrides
    store = replace(config.tracking, uri=job.config.tracking.uri)
    overrides = [o for o in overrides if override_key(o) != "data.path"]
    overrides += [o for o in job.overrides if override_key(o) == "data.path"]
    return replace(config, data=job.config.data, tracking=store), overrides
