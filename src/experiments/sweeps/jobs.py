"""One job of a sweep, in the process that runs it."""

import time
from dataclasses import replace

from experiments.comparison.evaluate import draw_full_report
from experiments.config.identity import identity_tags
from experiments.config.schema import Config
from experiments.errors import ConfigError, StoreError, TrainingError, UserError
from experiments.sweeps.outcomes import job_outcome
from experiments.sweeps.plan import SweepJob
from experiments.sweeps.study import pruning_watch
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.recorded_config import read_recorded_config

PATIENCE = 30  # seconds that a job waits for the process that has its run to end


def try_job(job: SweepJob, parent_id: str) -> str:
    """Run a job unless it is done; return why it failed, or an empty text."""
    try:
        run_job(job, parent_id)
    except (UserError, TrainingError) as error:
        return str(error)
    except (Exception, SystemExit) as error:  # its traceback is with its run
        return f"{type(error).__name__}: {error}"
    return ""


def run_job(job: SweepJob, parent_id: str) -> str:
    """Run a job as the child of a sweep, in its own run if it has one that is not finished.

    Returns:
        The id of its run.

    Raises:
        ConfigError: the code has been edited since the sweep started.
        UserError, TrainingError: as run_experiment.
    """
    from experiments.experiment import run_experiment

    if identity_tags(job.config, job.data_digest)["fingerprint"] != job.fingerprint:
        raise ConfigError("The project's code or packages have changed since the sweep started. Start it again.")
    deadline = time.monotonic() + PATIENCE
    earlier = job_outcome(job, parent_id)
    while earlier.status == "RUNNING" and time.monotonic() < deadline:  # its process checkpoints, and ends
        time.sleep(0.5)
        earlier = job_outcome(job, parent_id)
    if earlier.run_id and earlier.is_done:
        return earlier.run_id
    watch = pruning_watch(job.trial, job.config.training.epochs) if job.trial else None
    config, overrides = _recorded_start(job, earlier.run_id) if earlier.run_id else (job.config, job.overrides)
    return run_experiment(config, overrides, {"mlflow.parentRunId": parent_id}, earlier.run_id, watch)


def _recorded_start(job: SweepJob, run_id: str) -> tuple[Config, list[str]]:
    """Return the recorded config and overrides of the job's run, with data and store where this command says.

    Today's command may differ in what cannot change a result, such as `report.style`.
    """
    try:
        config, overrides = read_recorded_config(resolve_tracking_uri(job.config.tracking.uri), run_id)
    except StoreError:  # it was cut off before it had recorded them
        return job.config, job.overrides
    store = replace(config.tracking, uri=job.config.tracking.uri)
    place = [override for override in job.overrides if override.startswith("data.path=")]
    overrides = [*(override for override in overrides if not override.startswith("data.path=")), *place]
    return replace(config, data=job.config.data, tracking=store), overrides


def draw_report(job: SweepJob, run_id: str) -> str:
    """Draw all figures of a job's finished run; return why that failed, or an empty text."""
    try:
        draw_full_report(run_id, resolve_tracking_uri(job.config.tracking.uri))
    except Exception as error:  # the run itself is fine
        return str(error) or type(error).__name__
    return ""
