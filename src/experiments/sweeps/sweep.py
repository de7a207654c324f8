"""A sweep from its command to its leaderboard: one parent run in MLflow, and the jobs as its child runs.

The parent is found by the configs of its jobs, a job by its fingerprint (config, code, data) among the parent's
children; so the same command finds what is done, resumes what was cut off, and runs again what failed. The jobs are
composed once, when the sweep starts: whichever process runs a job, it runs that config.
"""

import fcntl
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from experiments import PROJECT
from experiments.config.facts import objective_of
from experiments.config.identity import config_to_dict
from experiments.config.sweep_composition import ComposedSweep, PoolSettings
from experiments.errors import TrainingError, UserError
from experiments.formatting import as_called, markdown_code, plural, shorten_marked
from experiments.sweeps.earlier_trials import read_earlier_trials
from experiments.sweeps.engines.in_process import InProcessEngine
from experiments.sweeps.engines.pool import PoolEngine
from experiments.sweeps.job_runner import JobRunner, run_search
from experiments.sweeps.leaderboard import (
    print_leaderboard,
    publish_leaderboard,
    share_view,
    sweep_commands,
)
from experiments.sweeps.patience import outlast_outage
from experiments.sweeps.plan import (
    FAMILY_TAG,
    SETTINGS_TAG,
    SweepJob,
    SweepPlan,
    child_runs,
    has_light_figures,
    plan_sweep,
    search_settings,
    varied_overrides,
)
from experiments.sweeps.ranking import Leaderboard, rank_children
from experiments.sweeps.search import Search
from experiments.tracking.addresses import hide_credentials
from experiments.tracking.liveness import check_resumable
from experiments.tracking.run import TrackedRun, open_run, reopen_ended_run

SWEEP_FOLDER = PROJECT / "outputs" / "sweeps"
LONGEST_SWEPT_PARAM = 500  # characters of a swept parameter's values on the parent
LONGEST_SETTINGS = 5000  # characters of a search's settings on the parent


def run_sweep(composed: ComposedSweep, command: Sequence[str]) -> None:
    """Run the jobs of a sweep that are not done, and record and print the leaderboard.

    The parent ends FINISHED if every job is done, or no time was left for it; FAILED with a list of those that failed;
    KILLED for a signal. A finished sweep is only shown, and nothing is written. `command` are the arguments to enter it
    again.

    Raises:
        UserError: the same sweep is running already; nothing was written.
        TrainingError: jobs failed; lists all of them.
    """
    again = as_called(hide_credentials(shlex.join(["python", "run.py", *command])))
    plan = plan_sweep(composed)
    composed = plan.composed
    earlier = read_earlier_trials(plan)
    plan.show()
    if plan.base.sweep.dry_run:
        return
    if plan.is_finished and plan.parent:
        board = _rank_runs(plan, plan.parent.run_id, plan.jobs, {outcome.run_id for outcome in plan.before})
        with reopen_ended_run(plan.uri, plan.parent.run_id) as run:
            return print_leaderboard(run, board, sweep_commands(board, plan.base.tracking.uri, run.run_id, again))
    with lock_sweep(plan), _open_parent(plan, again) as parent:
        try:
            engine = PoolEngine(composed.launcher) if isinstance(composed.launcher, PoolSettings) else InProcessEngine()
            with JobRunner(engine, parent.run_id, plan.base.sweep.minutes) as runner:
                runner.jobs += plan.jobs
                runner.renamed = plan.renamed
                _log_plan(parent, runner.jobs)
                share_view(parent, varied_overrides(composed.jobs), *objective_of(plan.base))
                runner.run(runner.jobs)  # none yet in a search
                refused: list[str] = []
                if isinstance(composed, Search):
                    refused = run_search(composed, runner, parent, SWEEP_FOLDER, earlier)
                outlast_outage(lambda: _finish_sweep(plan, parent, runner, refused, again))
        except BaseException as error:
            if not isinstance(error, TrainingError):
                print(f"\nResume the sweep: {again}", file=sys.stderr)
            raise


@contextmanager
def lock_sweep(plan: SweepPlan) -> Iterator[None]:
    """Hold the sweep's lock on this machine, or raise UserError. (Elsewhere the parent run's status is the lock.)"""
    key = hashlib.sha256(f"{plan.uri} {plan.base.tracking.experiment} {plan.composed.digest}".encode()).hexdigest()
    path = SWEEP_FOLDER / f"{key[:32]}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"This sweep is already running, in process {path.read_text() or 'unknown'} of this machine. Wait for"
                " it, or stop that process; the same command then resumes it."
            ) from None
        path.write_text(str(os.getpid()))
        yield


def _open_parent(plan: SweepPlan, again: str) -> AbstractContextManager[TrackedRun]:
    parent = plan.parent or plan.find_parent()  # another process may have made it since
    if parent and parent.status == "RUNNING":
        check_resumable(plan.uri, parent.run_id, plan.base.resume_anyway)
    values = varied_overrides(plan.composed.jobs)
    params = {key: shorten_marked(", ".join(values), LONGEST_SWEPT_PARAM) for key, values in values.items()}
    if not plan.composed.is_search:
        params["runs"] = str(len(plan.jobs))
    name = plan.base.tracking.run_name or " x ".join(key.rpartition(".")[2] for key in values) or "sweep"
    tags = {
        "sweep": plan.composed.digest,
        "command": again,
        "objective": " ".join(objective_of(plan.base)),
        **({} if parent and FAMILY_TAG in parent.tags else {FAMILY_TAG: plan.family}),
        "mlflow.note.content": f"**Not finished.**\n\n{markdown_code(again)}",
    }
    if isinstance(plan.composed, Search):
        tags[SETTINGS_TAG] = json.dumps(search_settings(plan.composed))[:LONGEST_SETTINGS]
    return open_run(plan.uri, plan.base.tracking.experiment, name, params, tags, parent.run_id if parent else None)


def _log_plan(parent: TrackedRun, jobs: Sequence[SweepJob]) -> None:
    plan = [
        {
            **{key: getattr(job, key) for key in ("number", "name", "fingerprint", "trial")},
            "overrides": [hide_credentials(override) for override in job.overrides],
            # Whoever reads this knows the store, and its address may hold a password.
            "config": config_to_dict(replace(job.config, tracking=replace(job.config.tracking, uri=None))),
        }
        for job in jobs
    ]
    parent.log_text(json.dumps(plan), "config/plan.json")


def _finish_sweep(plan: SweepPlan, parent: TrackedRun, runner: JobRunner, refused: Sequence[str], again: str) -> None:
    """Record and print the results of a sweep; raise TrainingError with a list of the jobs that did not finish."""
    jobs = runner.jobs
    _log_plan(parent, jobs)
    ended = list(zip(jobs, runner.outcomes(), strict=True))
    tried = [(job, outcome) for job, outcome in ended if job.number not in runner.not_started]
    failed = [*refused, *(f"{job.name}: {outcome}" for job, outcome in tried if not outcome.is_done)]
    remarks = []
    if diverged := sum(outcome.diverged for _, outcome in ended):
        remarks.append(f"{plural(diverged, 'trial')} diverged, with the worst result there is.")
    if left := len(runner.not_started) + runner.trials_left:
        limit = f"sweep.minutes={plan.base.sweep.minutes:g}"
        remarks.append(f"{plural(left, 'job')} not started within {limit}: the same command goes on.")
    board = _rank_runs(plan, parent.run_id, jobs, {outcome.run_id for _, outcome in ended})
    if board and runner.seconds:  # else the best run was drawn when the last job ran
        best = next(job for job, outcome in ended if outcome.run_id == board.best.run_id)
        if has_light_figures(best.overrides) and best.config.tracking.log_model:
            runner.draw(best, board.best.run_id)
    commands = sweep_commands(board, plan.base.tracking.uri, parent.run_id, again)
    publish_leaderboard(parent, board, commands, failed, plan.base.report.style, remarks)
    print_leaderboard(parent, board, commands, remarks)
    if failed:
        raise TrainingError(
            f"{len(failed)} of {plural(len(jobs) + len(refused), 'job')} of the sweep did not finish:"
            + "".join(f"\n  {line}" for line in failed)
            + f"\nThe same command runs them again: {again}"
        )


def _rank_runs(plan: SweepPlan, parent_id: str, jobs: Sequence[SweepJob], known: set[str | None]) -> Leaderboard | None:
    """Rank the runs that are `known`: the others were made by different code and cannot be compared."""
    children = [run for run in child_runs(plan.uri, parent_id) if run.run_id in known]
    return rank_children(children, *objective_of(plan.base), list(varied_overrides(jobs)))
