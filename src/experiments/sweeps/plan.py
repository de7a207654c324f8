"""What the command of a sweep stands for: its jobs, what each is called and known by, and what came of them before."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.config.composition import ComposedJob
from experiments.config.facts import objective_of
from experiments.config.identity import identity_tags
from experiments.config.overrides import override_key, split_override
from experiments.config.schema import Config
from experiments.config.sweep_composition import ComposedSweep
from experiments.data.datasets import load_dataset
from experiments.errors import ConfigError
from experiments.formatting import plural
from experiments.reports.summary import run_name
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.records import RunRecord, runs_with_tags
from experiments.tracking.store import open_existing_store, store_exists
from experiments.training.checkpoints import checkpoint_path


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep, as it was when the sweep started.

    Attributes:
        number: Hydra's number of the job.
        name: what differs from the other jobs, differing value first; MLflow cuts names near 14 characters.
        config: names the run `name`.
        overrides: those of the command line and of the sweep, less those of `hydra.*`.
        fingerprint: of config, code and data.
        data_digest: of the data.
        trial: for a search: what tells the trial apart.
    """

    number: int
    name: str
    config: Config
    overrides: list[str]
    fingerprint: str
    data_digest: str
    trial: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class JobOutcome:
    """What came of a job; without a run if it failed before there was one.

    Attributes:
        status: of its run: FINISHED, FAILED, KILLED (also by pruning), RUNNING; NONE if it has none.
        reason: why it is not finished.
    """

    run_id: str | None
    status: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    pruned: bool = False

    @property
    def is_done(self) -> bool:
        return self.status == "FINISHED" or self.pruned


NO_OUTCOME = JobOutcome(None, "NONE")


@dataclass(frozen=True)
class SweepPlan:
    """What a command stands for, and how much of it is done.

    Attributes:
        digest: what the parent is known by.
        parent: the run of the sweep that the command goes on with, if there is one.
        before: what came of each job before, in their order.
    """

    composed: ComposedSweep
    jobs: list[SweepJob]
    digest: str
    uri: str
    parent: RunRecord | None
    before: list[JobOutcome]

    @property
    def base(self) -> Config:
        return self.composed.jobs[0].config

    @property
    def is_finished(self) -> bool:
        """Whether every job is done, and the parent says so."""
        known = self.parent is not None and self.parent.status == "FINISHED" and not self.composed.is_search
        return known and all(outcome.is_done for outcome in self.before)

    def show(self) -> None:
        """Print what will run, what varies, and what is done already."""
        experiment = self.base.tracking.experiment
        metric, _ = objective_of(self.base)
        if metric.startswith("test_"):
            print(
                f"Warning: {metric} ranks these runs, so the best one's is too good to be expected of other data. Hold"
                " out examples to choose by: data.validation=N.",
                file=sys.stderr,
            )
        if self.composed.is_search:
            print(f"Search in experiment {experiment}, over:\n{self.composed}")
            return
        values = varied_overrides(self.composed.jobs)
        print(f"Sweep of {plural(len(self.jobs), 'run')} in experiment {experiment}{', over:' if values else '.'}")
        for key, choices in values.items():
            print(f"  {key}: {', '.join(choices)}")
        counts = Counter(map(self._how, range(len(self.jobs))))
        print(f"{', '.join(f'{count} {how}' for how, count in counts.items())}.")

    def _how(self, number: int) -> str:
        before = self.before[number]
        if first_equal_job(self.jobs, number) != number:
            return "the same as another"
        if before.is_done:
            return "done"
        if before.run_id is None:
            return "to run"
        return "to go on with" if checkpoint_path(before.run_id).exists() else "to run again"


def plan_sweep(composed: ComposedSweep) -> SweepPlan:
    """Find out what a sweep stands for and how much of it is done; nothing is written.

    Raises:
        ConfigError: the jobs are to go to several stores.
        DataError: the data of a job cannot be found or read.
        StoreError: the store cannot be used.
    """
    uris = {resolve_tracking_uri(job.config.tracking.uri) for job in composed.jobs}
    if len(uris) > 1:
        raise ConfigError("The jobs of this sweep go to several stores. Give all the same tracking.uri.")
    (uri,) = uris
    jobs = [] if composed.is_search else plan_jobs(composed.jobs, list(varied_overrides(composed.jobs)), 0)
    digest = composed.digest
    parent = None
    if not composed.jobs[0].config.sweep.rerun and store_exists(uri):
        parent = find_parent(open_existing_store(uri), composed.jobs[0].config, digest)
    found = child_outcomes(uri, parent.run_id) if parent else {}
    return SweepPlan(composed, jobs, digest, uri, parent, [found.get(job.fingerprint, NO_OUTCOME) for job in jobs])


def varied_overrides(jobs: "Sequence[ComposedJob | SweepJob]") -> dict[str, list[str]]:
    """Which keys the jobs' overrides set differently, each with its values in the order of the jobs."""
    values: dict[str, dict[str, None]] = {}
    for job in jobs:
        for override in job.overrides:
            _, key, value = split_override(override)
            values.setdefault(key, {})[value] = None
    return {key: list(found) for key, found in values.items() if len(found) > 1}


def plan_jobs(composed: Sequence[ComposedJob], keys: Sequence[str], first: int) -> list[SweepJob]:
    digests: dict[str, str] = {}
    found = []
    for number, job in enumerate(composed, first):
        whole = replace(job.config.data, validation=0, limit=None)
        if repr(whole) not in digests:
            digests[repr(whole)] = load_dataset(whole, 0).digest
        digest = digests[repr(whole)]
        name = _job_name(job, keys)
        # The figures of a hundred children are looked at by few; the best one gets them all in the end.
        light = has_light_figures(job.overrides)
        report = replace(job.config.report, figures="light") if light else job.config.report
        config = replace(job.config, report=report, tracking=replace(job.config.tracking, run_name=name))
        found.append(
            SweepJob(number, name, config, job.overrides, identity_tags(config, digest)["fingerprint"], digest)
        )
    return found


def has_light_figures(overrides: Sequence[str]) -> bool:
    """Whether the command says nothing about figures."""
    return not any(override_key(o) in ("report", "report.figures") for o in overrides)


def _job_name(job: ComposedJob, keys: Sequence[str]) -> str:
    parts = []
    for override in job.overrides:
        _, key, value = split_override(override)
        if key == "seed" and key in keys:
            parts.append(f"seed {value}")
        elif key in keys:  # of a group, the choice says it all
            parts.append(f"{value} {key.rpartition('.')[2]}" if "." in key else value)
    return ", ".join(parts) or run_name(job.config, job.overrides)


def find_parent(client: Any, base: Config, digest: str) -> RunRecord | None:
    found = runs_with_tags(client, {"sweep": digest}, base.tracking.experiment)
    return found[0] if found else None


def child_outcomes(uri: str, parent_id: str, of: str | None = None) -> dict[str, JobOutcome]:
    """The children of a parent by their fingerprint (or the one that has it); a finished one before another."""
    tags = {"mlflow.parentRunId": parent_id} | ({"fingerprint": of} if of else {})
    found: dict[str, JobOutcome] = {}
    for run in runs_with_tags(open_existing_store(uri), tags):
        outcome = JobOutcome(
            run.run_id, run.status, run.metrics, run.tags.get("end_reason", ""), pruned="pruned" in run.tags
        )
        key = run.tags.get("fingerprint", "")
        if key not in found or (outcome.is_done and not found[key].is_done):
            found[key] = outcome
    return found


def first_equal_job(jobs: Sequence[SweepJob], number: int) -> int:
    """The first job with the same fingerprint: they are the same experiment, and it is run once."""
    return next(job.number for job in jobs if job.fingerprint == jobs[number].fingerprint)
