"""A sweep: one parent run in MLflow, and its jobs as child runs, each of which is run once, whatever ends the command.

The parent is known by the configs of its jobs, a job by its fingerprint (config, code, data) among the parent's
children; so the same command finds what is done, goes on with what was cut off, and runs again what failed. The plan is
frozen in a file when the sweep starts: whichever launcher and process runs a job, it runs the config that is there.
"""

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments import PROJECT
from experiments.config.facts import objective_of
from experiments.config.identity import config_to_dict
from experiments.errors import TrainingError, UserError
from experiments.formatting import format_duration, plural
from experiments.sweeps.leaderboard import Leaderboard, rank_children
from experiments.sweeps.leaderboard_views import print_leaderboard, publish_leaderboard, share_view, sweep_commands
from experiments.sweeps.plan import (
    NO_OUTCOME,
    JobOutcome,
    SweepJob,
    SweepPlan,
    child_outcomes,
    find_parent,
    first_equal_job,
    has_light_figures,
    plan_jobs,
    varied_overrides,
)
from experiments.tracking.addresses import hide_credentials, resolve_tracking_uri
from experiments.tracking.liveness import end_abandoned_run
from experiments.tracking.records import runs_with_tags
from experiments.tracking.run import TrackedRun, open_run, reopen_ended_run
from experiments.tracking.store import connect_store, open_existing_store, store_exists

SWEEP_VARIABLE = "EXPERIMENTS_SWEEP"  # in the environment of a sweep's jobs: the folder of its frozen plan
SWEEP_FOLDER = PROJECT / "outputs" / "sweeps"
LONGEST_SWEPT_PARAM = 500  # characters of a swept parameter's values on the parent

_current: "Sweep | None" = None


def current_sweep() -> "Sweep | None":
    """The sweep that this process leads."""
    return _current


@contextmanager
def open_sweep(plan: SweepPlan, command: Sequence[str]) -> Iterator["Sweep"]:
    """The parent run, open while the jobs run; it ends with its true status.

    FINISHED only if every job is; FAILED with the list of those that are not; KILLED for Ctrl-C and SIGTERM.

    Args:
        command: the arguments of the command line, with which the sweep can be entered again.

    Raises:
        UserError: the same sweep is running already; nothing was written.
        TrainingError: jobs failed; lists them all.
    """
    global _current
    base = plan.base
    again = _shown_command(command)
    with _sweep_lock(plan):
        parent = plan.parent
        if not base.sweep.rerun and parent is None and store_exists(plan.uri):  # made since by another process
            parent = find_parent(open_existing_store(plan.uri), base, plan.digest)
        parent_id = parent.run_id if parent else None
        values = varied_overrides(plan.composed.jobs)
        params = {key: ", ".join(values)[:LONGEST_SWEPT_PARAM] for key, values in values.items()}
        params |= {} if plan.composed.is_search else {"runs": str(len(plan.jobs))}
        name = base.tracking.run_name or " x ".join(key.rpartition(".")[2] for key in values) or "sweep"
        tags = {
            "sweep": plan.digest,
            "command": again,
            "objective": " ".join(objective_of(base)),
            "mlflow.note.content": f"**Not finished.**\n\n```\n{again}\n```",
        }
        opened = open_run(plan.uri, base.tracking.experiment, name, params, tags, parent_id)
        with opened as run, ExitStack() as resources:
            _current = Sweep(plan, run, again, resources)
            try:
                yield _current
                _current.close()
            except BaseException as error:
                if not isinstance(error, TrainingError):
                    print(f"\nGo on with the sweep: {again}", file=sys.stderr)
                raise
            finally:
                os.environ.pop(SWEEP_VARIABLE, None)
                shutil.rmtree(_current.folder, ignore_errors=True)
                _current = None


def show_finished_sweep(plan: SweepPlan, command: Sequence[str]) -> None:
    """Print what a finished sweep came to; nothing is written.

    Args:
        command: as of open_sweep.
    """
    assert plan.parent is not None
    board = _sweep_leaderboard(plan.uri, plan.parent.run_id, plan.jobs, plan.before)
    commands = sweep_commands(board, plan.base.tracking.uri, plan.parent.run_id, _shown_command(command))
    with reopen_ended_run(plan.uri, plan.parent.run_id) as run:
        print_leaderboard(run, board, commands)


def _shown_command(command: Sequence[str]) -> str:
    return hide_credentials(shlex.join(["python", "run.py", *command]))


def _sweep_leaderboard(
    uri: str, parent_id: str, jobs: Sequence[SweepJob], outcomes: Sequence[JobOutcome]
) -> Leaderboard | None:
    children = {outcome.run_id for outcome in outcomes}  # others are of other code, and not to be compared
    found = runs_with_tags(open_existing_store(uri), {"mlflow.parentRunId": parent_id})
    metric, mode = objective_of(jobs[0].config)
    return rank_children([run for run in found if run.run_id in children], metric, mode, list(varied_overrides(jobs)))


@contextmanager
def _sweep_lock(plan: SweepPlan) -> Iterator[None]:
    """Hold the sweep's lock on this machine. (Other machines are told by the status of the parent run.)"""
    key = hashlib.sha256(f"{plan.uri} {plan.base.tracking.experiment} {plan.digest}".encode()).hexdigest()
    path = SWEEP_FOLDER / f"{key[:32]}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"This sweep is running already, in process {file.read() or 'unknown'} of this machine. Wait for it, or"
                " stop that process; the same command then goes on with it."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


class Sweep:
    """A sweep while it runs.

    Attributes:
        run: the parent run, to log to.
        jobs: by their number.
        resources: closed when the sweep ends.
        pool: what its launcher keeps between calls.
        expected: of a search: how many jobs there will be.
    """

    def __init__(self, plan: SweepPlan, run: TrackedRun, command: str, resources: ExitStack) -> None:
        self.plan, self.run, self.command, self.resources = plan, run, command, resources
        self.pool: Any = None
        self.jobs: list[SweepJob] = []
        self.expected = 0
        self.metric, self.mode = objective_of(plan.base)
        self.folder = SWEEP_FOLDER / run.run_id
        self.reasons: dict[int, str] = {}  # of jobs that failed without a run
        self.refused: list[str] = []  # of a search: trials that no job could be made of
        self.seconds: list[float] = []  # of each job that was run
        self.through: set[int] = set()  # jobs that are done, or were tried
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700)  # the address of the store may hold a password
        os.environ[SWEEP_VARIABLE] = str(self.folder)
        self._add(plan.jobs)
        self._log_plan()
        share_view(run, varied_overrides(self.plan.composed.jobs), self.metric, self.mode)

    def add(self, overrides: Sequence[Sequence[str]], trials: Sequence[Mapping[str, Any] | None] = ()) -> list[int]:
        """Plan further jobs of a search.

        Args:
            overrides: of each job, all of them.
            trials: what tells each job's trial apart, as JSON holds it.

        Returns:
            The jobs' numbers.

        Raises:
            ConfigError: a job cannot be run.
        """
        keys = list(varied_overrides(self.plan.composed.jobs))
        jobs = plan_jobs(self.plan.composed.more(overrides), keys, len(self.jobs))
        self._add([replace(job, trial=trial) for job, trial in zip(jobs, trials or [None] * len(jobs), strict=True)])
        return [job.number for job in jobs]

    def _add(self, jobs: Sequence[SweepJob]) -> None:
        self.jobs += jobs
        for job in jobs:
            record = {**vars(job), "config": config_to_dict(job.config)}
            (self.folder / f"{job.number}.json").write_text(json.dumps(record))

    def _log_plan(self) -> None:
        plan = [
            {
                "number": job.number,
                "name": job.name,
                "overrides": [hide_credentials(override) for override in job.overrides],
                "fingerprint": job.fingerprint,
                "trial": job.trial,
                # Where the runs are stored is known to who reads this, and may hold a password.
                "config": config_to_dict(replace(job.config, tracking=replace(job.config.tracking, uri=None))),
            }
            for job in self.jobs
        ]
        self.run.log_text(json.dumps(plan), "config/plan.json")

    def outcome(self, number: int) -> JobOutcome:
        """What came of a job."""
        found = child_outcomes(self.run.uri, self.run.run_id, self.jobs[number].fingerprint)
        return self._with_reason(number, found.get(self.jobs[number].fingerprint, NO_OUTCOME))

    def outcomes(self) -> list[JobOutcome]:
        """What came of every job."""
        found = child_outcomes(self.run.uri, self.run.run_id)
        return [self._with_reason(job.number, found.get(job.fingerprint, NO_OUTCOME)) for job in self.jobs]

    def _with_reason(self, number: int, outcome: JobOutcome) -> JobOutcome:
        return outcome if outcome.reason else replace(outcome, reason=self.reasons.get(number, ""))

    @property
    def is_stopped(self) -> bool:
        """Whether a job failed and `sweep.on_error=stop` says that no further one starts."""
        return _is_sweep_stopped(self.folder)

    def to_run(self, numbers: Sequence[int]) -> list[int]:
        """Of these jobs, those that are not done; of several that are the same experiment, the first."""
        outcomes = self.outcomes()
        found = [n for n in numbers if not outcomes[n].is_done and first_equal_job(self.jobs, n) == n]
        self.through |= {n for n, outcome in enumerate(outcomes) if outcome.is_done}
        return found

    def finished(self, number: int, outcome: JobOutcome, seconds: float, workers: int = 1) -> None:
        """Print a line on a job that is through, with what the whole sweep still takes.

        Args:
            seconds: that the job took.
            workers: how many jobs run at once.
        """
        if not outcome.run_id:
            self.reasons[number] = outcome.reason
        self.through.add(number)
        self.seconds.append(seconds)
        total = max(len(self.jobs), self.expected)
        how = f"{self.metric} {outcome.metrics[self.metric]:.4f}" if self.metric in outcome.metrics else ""
        status = outcome.status if outcome.run_id else "no run"
        how = how if outcome.is_done and how else "pruned" if outcome.pruned else status
        left = (total - len(self.through)) / workers * sum(self.seconds) / len(self.seconds)
        rest = f"  about {format_duration(left)} left" if left > 0 else ""
        width = len(str(total))
        print(
            f"[{len(self.through):{width}}/{total}] {self.jobs[number].name}  {how}  {seconds:.1f} s{rest}", flush=True
        )
        if not outcome.is_done:
            print(f"  {self.jobs[number].name}: {outcome.reason}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Log and print what the sweep came to.

        Raises:
            TrainingError: jobs failed or were not started; lists them all.
        """
        outcomes = self.outcomes()
        self._log_plan()
        failed = self.refused + [
            f"{job.name}: {outcome.status if outcome.run_id else 'no run'}"
            + (f" ({outcome.run_id})" if outcome.run_id else "")
            + (f": {outcome.reason}" if outcome.reason else "")
            for job, outcome in zip(self.jobs, outcomes, strict=True)
            if not outcome.is_done
        ]
        board = _sweep_leaderboard(self.run.uri, self.run.run_id, self.jobs, outcomes)
        if board:
            best = next(number for number, outcome in enumerate(outcomes) if outcome.run_id == board.best.run_id)
            self._draw(self.jobs[best], board.best.run_id)
        commands = sweep_commands(board, self.plan.base.tracking.uri, self.run.run_id, self.command)
        publish_leaderboard(self.run, board, commands, failed, self.plan.base.report.style)
        print_leaderboard(self.run, board, commands)
        if failed:
            raise TrainingError(
                f"{len(failed)} of {plural(len(self.jobs) + len(self.refused), 'job')} of the sweep did not finish:"
                + "".join(f"\n  {line}" for line in failed)
                + f"\nThe same command runs them again: {self.command}"
            )

    def _draw(self, best: SweepJob, run_id: str) -> None:
        """Give the best run the figures that its command would have drawn alone."""
        if not has_light_figures(best.overrides) or not best.config.tracking.log_model:
            return
        if self.pool:
            self.pool.draw(best, run_id)
        elif "tensorflow" in sys.modules:  # as Hydra's basic launcher leaves it; for no other is it worth the start
            from experiments.sweeps.jobs import draw_best_run

            draw_best_run(run_id)


def warn_not_drawn(run_id: str, reason: object) -> None:
    print(f"The figures of the best run {run_id} could not be drawn: {reason}", file=sys.stderr)


def job_outcome(job: SweepJob, parent_id: str, reason: str = "") -> JobOutcome:
    """What came of a job; `reason` is that of a failure which left no run."""
    uri = resolve_tracking_uri(job.config.tracking.uri)
    outcome = child_outcomes(uri, parent_id, job.fingerprint).get(job.fingerprint, NO_OUTCOME)
    return outcome if outcome.reason or outcome.is_done else replace(outcome, reason=reason)


def end_job(job: SweepJob, parent_id: str, status: str, reason: str) -> JobOutcome:
    """Give the run of a job whose process is gone its status and the reason."""
    outcome = job_outcome(job, parent_id)
    if outcome.run_id and outcome.status != "FINISHED":
        uri = resolve_tracking_uri(job.config.tracking.uri)
        end_abandoned_run(connect_store(uri), outcome.run_id, status, reason)
    return job_outcome(job, parent_id, reason)


def stop_sweep() -> None:
    """Start no further job of the sweep."""
    (_plan_folder() / "stop").touch()


def _is_sweep_stopped(folder: Path) -> bool:
    return (folder / "stop").exists()


def _plan_folder() -> Path:
    return Path(os.environ[SWEEP_VARIABLE])
