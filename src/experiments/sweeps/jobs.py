"""One job of a sweep, run in whichever process has it."""

import json
import sys
import time
from dataclasses import replace

from experiments.comparison.evaluate import draw_full_report
from experiments.config.identity import identity_tags
from experiments.config.schema import Config
from experiments.config.validation import validate_config
from experiments.errors import ConfigError, StoreError, TrainingError, UserError
from experiments.sweeps.plan import JobOutcome, SweepJob
from experiments.sweeps.study import pruning_watch
from experiments.sweeps.sweep import (
    _is_sweep_stopped,
    _plan_folder,
    current_sweep,
    job_outcome,
    stop_sweep,
    warn_not_drawn,
)
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.recorded_config import read_recorded_config

PATIENCE = 30  # seconds that a job waits for the process that has its run to end


def run_task(number: int) -> None:
    """Run a job of the sweep that this process belongs to, as Hydra's launchers other than ours have it.

    A job that fails raises nothing, so that the others run; its state is in MLflow, its reason is printed.
    """
    job, _ = _load_job(number)
    if _is_sweep_stopped(_plan_folder()):
        return
    started = time.monotonic()
    for _ in range(1 + job.config.sweep.retries):
        outcome = try_job(number)
        if outcome.is_done:
            break
    if sweep := current_sweep():
        sweep.finished(number, outcome, time.monotonic() - started)
    elif not outcome.is_done:
        print(f"{job.name}: {outcome.reason}", file=sys.stderr)
    if not outcome.is_done and job.config.sweep.on_error == "stop":
        stop_sweep()


def try_job(number: int) -> JobOutcome:
    """Try a job of the sweep that this process belongs to, unless it is done; a failure is an outcome too."""
    job, parent_id = _load_job(number)
    reason = ""
    try:
        run_job(job, parent_id)
    except (UserError, TrainingError) as error:
        reason = str(error)
    except (Exception, SystemExit) as error:  # its traceback is with its run
        reason = f"{type(error).__name__}: {error}"
    return job_outcome(job, parent_id, reason)


def run_job(job: SweepJob, parent_id: str) -> str:
    """Run a job as the child of a sweep: in its own run if it has one that is not finished.

    Returns:
        The id of its run.

    Raises:
        ConfigError: the code has been edited since the sweep started.
        UserError, TrainingError: as experiment.run.
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
    """What the job's run was started with, as it recorded it; data and store are where this command says.

    The command of today may be another in what cannot change a result, such as `report.style`.
    """
    try:
        config, overrides = read_recorded_config(resolve_tracking_uri(job.config.tracking.uri), run_id)
    except StoreError:  # it was cut off before it had recorded them
        return job.config, job.overrides
    store = replace(config.tracking, uri=job.config.tracking.uri)
    place, began = ([o for o in given if o.startswith("data.path=")] for given in (job.overrides, overrides))
    overrides = [*(o for o in overrides if o not in began), *place]
    return replace(config, data=job.config.data, tracking=store), overrides


def draw_best_run(run_id: str) -> None:
    """Draw the whole report of a run of the sweep that this process belongs to, as far as that is possible."""
    job, _ = _load_job(0)
    try:
        draw_full_report(run_id, resolve_tracking_uri(job.config.tracking.uri))
    except Exception as error:  # the sweep has done its work
        warn_not_drawn(run_id, error)


def _load_job(number: int) -> tuple[SweepJob, str]:
    """A job of the frozen plan, and the id of the parent run."""
    record = json.loads((_plan_folder() / f"{number}.json").read_text())
    return SweepJob(**{**record, "config": validate_config(record["config"])}), _plan_folder().name
