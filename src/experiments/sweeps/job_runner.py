"""Runs the jobs of a sweep or the trials of a search with an engine: what remains, retries, when to stop, progress."""

import math
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Self

from experiments.config.composition import compose_jobs, composing
from experiments.config.facts import objective_of
from experiments.config.identity import identity_tags
from experiments.errors import ConfigError, StoreOutageError, Terminated
from experiments.formatting import clean_message, format_duration, printable
from experiments.sweeps.earlier_trials import EarlierTrial
from experiments.sweeps.engines.engine import Engine, JobEnd, has_room, process_kind
from experiments.sweeps.leaderboard import log_figures
from experiments.sweeps.patience import outlast_outage
from experiments.sweeps.plan import (
    JobOutcome,
    SweepJob,
    job_outcomes,
    plan_jobs,
    read_job_outcome,
    rename_experiment,
    varied_overrides,
)
from experiments.sweeps.search import Point, Search, point_overrides
from experiments.sweeps.study import SearchStudy, study_figures, trials_table
from experiments.tracking.run import TrackedRun

if TYPE_CHECKING:
    from optuna.trial import Trial

DRAW_SECONDS = 120  # seconds that the figures of the best run may take


class JobRunner:
    """The jobs of a sweep that is running, as a context that leaves no process behind.

    On Ctrl-C or another signal that ends it, the running jobs checkpoint first; a second Ctrl-C ends them at once.
    """

    def __init__(self, engine: Engine, parent_id: str, minutes: float | None = None) -> None:
        """Start the engine; after `minutes`, unless None, no more jobs are started."""
        self.engine, self.parent_id = engine, parent_id
        self.jobs: list[SweepJob] = []  # by their number
        self.expected = 0  # in a search: how many jobs there will be
        self.is_stopped = False  # a job failed, and with `sweep.on_error=stop` no more are started
        self.seconds: list[float] = []  # taken by each job that ran
        self.renamed: Mapping[str, str] = {}  # experiments that have another name by now
        self.not_started: set[int] = set()  # jobs for which no time was left
        self.trials_left = 0  # in a search: trials for which no time was left, besides these jobs
        self._deadline = time.monotonic() + 60 * (math.inf if minutes is None else minutes)
        self._ended: dict[int, str] = {}  # jobs that are done or were tried, with the reason if that left no run
        self._most_at_once = 1
        engine.start(parent_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if isinstance(error, KeyboardInterrupt | Terminated):
                self.engine.interrupt(error.signal if isinstance(error, Terminated) else SIGINT)
        finally:
            for end in self.engine.close():
                with suppress(StoreOutageError):  # the next command finds that their processes have ended
                    read_job_outcome(end.job, self.parent_id, end.reason, end.lost_status)

    @property
    def is_out_of_time(self) -> bool:
        return time.monotonic() > self._deadline

    def outcomes(self) -> list[JobOutcome]:
        """Return the outcome of every job."""
        outcomes = outlast_outage(lambda: job_outcomes(self.jobs, self.parent_id))
        return [o if o.reason else replace(o, reason=self._ended.get(n, "")) for n, o in enumerate(outcomes)]

    def run(self, jobs: Sequence[SweepJob]) -> None:
        """Run those of these jobs that are not done; of several that are the same experiment, the first."""
        outcomes = self.outcomes()
        self._ended |= {number: "" for number, outcome in enumerate(outcomes) if outcome.is_done}
        first = {job.fingerprint: job for job in reversed(self.jobs)}
        to_do = [job for job in jobs if not outcomes[job.number].is_done and first[job.fingerprint] is job]
        kinds = list(dict.fromkeys(process_kind(job.config) for job in to_do))
        pending = deque(sorted(to_do, key=lambda job: kinds.index(process_kind(job.config))))  # processes are kept
        retries = {job.number: job.config.sweep.retries for job in jobs}
        running: dict[int, SweepJob] = {}
        while pending or running:
            if pending and self.is_out_of_time:
                left = {job.fingerprint for job in pending}
                self.not_started |= {job.number for job in self.jobs if job.fingerprint in left}
                pending.clear()
                continue
            while pending and has_room(self.engine, (j.config for j in running.values()), pending[0].config):
                running[pending[0].number] = pending[0]
                self.engine.give(pending.popleft())
            self._most_at_once = max(self._most_at_once, len(running))
            end = self.engine.wait()
            del running[end.job.number]
            read = partial(read_job_outcome, end.job, self.parent_id, end.reason, end.lost_status)
            outcome = outlast_outage(read)
            if not outcome.is_done and retries[end.job.number]:
                retries[end.job.number] -= 1
                print(f"{end.job.name} is tried again: {outcome.reason}", file=sys.stderr, flush=True)
                pending.appendleft(end.job)
                continue
            self._report(end, outcome)
            if not outcome.is_done and end.job.config.sweep.on_error == "stop":
                self.is_stopped = True
                pending.clear()

    def draw(self, job: SweepJob, run_id: str) -> None:
        """Draw the full report of a job's finished run; what fails or takes too long is left out, with a message."""
        self.engine.give(job, run_id)
        try:
            reason = self.engine.wait(DRAW_SECONDS).reason
        except TimeoutError:
            reason = f"it took longer than {DRAW_SECONDS} s"
        if reason:
            print(f"The figures of the best run {run_id} are left out: {reason}", file=sys.stderr)

    def _report(self, end: JobEnd, outcome: JobOutcome) -> None:
        """Print a line about a job that has ended, with the estimated time left for the whole sweep."""
        equal = (job.number for job in self.jobs if job.fingerprint == end.job.fingerprint)
        self._ended |= dict.fromkeys(equal, "" if outcome.run_id else outcome.reason)
        self.seconds.append(end.seconds)
        total = max(len(self.jobs), self.expected)
        metric, _ = objective_of(end.job.config)
        if outcome.is_done and metric in outcome.metrics:
            result = f"{metric} {outcome.metrics[metric]:.4f}"
        else:
            result = "pruned" if outcome.pruned else outcome.status if outcome.run_id else "no run"
            result = "diverged, which counts as the worst result" if outcome.diverged else result
        left = (total - len(self._ended)) / self._most_at_once * sum(self.seconds) / len(self.seconds)
        rest = f"  about {format_duration(left)} left" if left > 0 else ""
        position = f"[{len(self._ended):{len(str(total))}}/{total}]"
        print(f"{position} {printable(end.job.name)}  {result}  {end.seconds:.1f} s{rest}", flush=True)
        if not outcome.is_done:
            print(f"  {end.job.name}: {outcome.reason}", file=sys.stderr, flush=True)


def run_search(
    search: Search, runner: JobRunner, parent: TrackedRun, folder: Path, earlier: Sequence[EarlierTrial] = ()
) -> list[str]:
    """Run the trials of a search, as many in parallel as the engine has room for, and publish the study.

    A batch waits for its slowest trial: what is drawn next would otherwise depend on which trial ends first. The folder
    keeps the study's journal; the sampler learns from `earlier` trials, too. Returns a line for each trial that could
    not be made into a job.
    """
    code = identity_tags(search.jobs[0].config, data_digest="")["fingerprint"]  # results of other code do not count
    study = SearchStudy(search, folder / f"{parent.run_id}-{code[:16]}.journal")
    study.begin_from(earlier)
    keys = list(varied_overrides(search.jobs))

    def plan_job(point: Point, trial: "Trial | None" = None) -> SweepJob:
        with composing(search.config_dir):
            (job,) = compose_jobs([[*search.fixed, *point_overrides(point)]])
        entry = study.pruning_entry(trial) if trial else {}
        runner.jobs += plan_jobs([rename_experiment(job, runner.renamed)], keys, len(runner.jobs), entry)
        return runner.jobs[-1]

    refused: list[str] = []
    for ended in study.trials("COMPLETE", "PRUNED"):
        plan_job(ended.params)
    runner.expected = len(runner.jobs) + study.left
    at_once = runner.engine.max_parallel(search.jobs[0].config)
    while not (runner.is_stopped or runner.is_out_of_time) and (batch := study.ask(at_once)):
        jobs: dict[int, Trial] = {}
        for trial in batch:
            try:
                jobs[plan_job(trial.params, trial).number] = trial
            except ConfigError as error:  # values that are allowed one by one, but not together
                refused.append(clean_message(f"trial {trial.number} cannot run: {error}"))
                print(refused[-1], file=sys.stderr)
                study.tell(trial, None, "FAILED", None)
                runner.expected -= 1
        runner.run([runner.jobs[number] for number in jobs])
        outcomes = runner.outcomes()
        for number, trial in jobs.items():
            end = outcomes[number]
            if number not in runner.not_started and (end.run_id or not runner.is_stopped):  # else it did not start
                status = "DIVERGED" if end.diverged else "PRUNED" if end.pruned else end.status
                study.tell(trial, end.run_id, status, end.metrics.get(search.metric))
    runner.trials_left = study.left if runner.is_out_of_time else 0
    for point in study.not_tried_again:
        plan_job(point)
    parent.log_table(trials_table(study), "tables/trials.json")
    log_figures(parent, partial(study_figures, study, search.jobs[0].config.report.style))
    return refused
