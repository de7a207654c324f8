"""Run one job of a sweep in this process, whichever engine gave it."""

import time
from dataclasses import replace
from functools import partial

from experiments.comparison.evaluate import draw_full_report
from experiments.config.identity import identity_tags
from experiments.config.overrides import override_key
from experiments.config.schema import Config
from experiments.errors import ConfigError, StoreError, TrainingError, UserError
from experiments.formatting import clean_message, hide_credentials
from experiments.sweeps.patience import outlast_outage
from experiments.sweeps.plan import SweepJob, read_job_outcome
from experiments.sweeps.study import pruning_watch
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.recorded_config import read_recorded_config

PATIENCE = 30  # seconds that a job waits for the process that has its run to end


def try_job(job: SweepJob, parent_id: str, draw: str | None = None) -> str:
    """Run a job unless it is done, or draw the full report of its run `draw`; return why that failed, or ''."""
    try:
        if draw:
            draw_full_report(draw, resolve_tracking_uri(job.config.tracking.uri))
        else:
            outlast_outage(partial(_run_job, job, parent_id))
    except (UserError, TrainingError) as error:
        return clean_message(hide_credentials(str(error)))
    except (Exception, SystemExit) as error:  # its traceback is with its run
        return clean_message(hide_credentials(f"{type(error).__name__}: {error}"))
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
        config, overrides = read_recorded_config(resolve_tracking_uri(job.config.tracking.uri), run_id, other_code=True)
    except (StoreError, ConfigError):  # it was cut off before it had recorded them
        return job.config, job.overrides
    store = replace(config.tracking, uri=job.config.tracking.uri)
    overrides = [o for o in overrides if override_key(o) != "data.path"]
    overrides += [o for o in job.overrides if override_key(o) == "data.path"]
    return replace(config, data=job.config.data, tracking=store), overrides
