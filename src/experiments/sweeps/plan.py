"""What the command of a sweep describes: the jobs, their names and fingerprints, and their outcomes in MLflow."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from experiments.config.composition import ComposedJob
from experiments.config.facts import objective_of
from experiments.config.identity import affects_result, complete, config_to_dict, flatten_config, identity_tags
from experiments.config.overrides import last_values, override_key
from experiments.config.schema import Config
from experiments.config.sweep_composition import ComposedSweep
from experiments.data.datasets import load_dataset
from experiments.errors import ConfigError, NotFiniteError, StoreError
from experiments.formatting import LONGEST_CELL, clean_message, plural, printable, shorten_marked
from experiments.reports.differences import run_name
from experiments.sweeps.ranking import SEED_PARAM
from experiments.sweeps.search import LEARNING_SAMPLERS, Search
from experiments.sweeps.significance import FOLD_PARAM
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import read_artifact_text
from experiments.tracking.liveness import end_abandoned_run
from experiments.tracking.records import RunRecord, runs_with_tags
from experiments.tracking.run import LONGEST_NAME, REPORT_MISSING
from experiments.tracking.store import (
    connect_store,
    experiment_name,
    open_existing_store,
    restoring_advice,
    store_errors,
    store_exists,
)
from experiments.training.checkpoints import has_checkpoint

MADE_BY = {  # by tags
    "by other code": ("code_digest", "code_digest_rule"),
    "by other package versions": ("versions",),
    "from other data": ("data_digest",),
}
FAMILY_TAG = "sweep_family"  # of the parent: what sweeps of one experiment over the same keys share
SETTINGS_TAG = "search_settings"  # of the parent of a search: JSON


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep, as it was when the sweep started."""

    number: int  # position in the sweep, from 0 on
    name: str  # what differs from the other jobs, differing value first; MLflow cuts names near 14 characters
    config: Config  # with `name` as the run's name
    overrides: list[str]  # those of the command line and of the sweep, without those of `hydra.*`
    fingerprint: str  # of config, code and data
    data_digest: str
    trial: Mapping[str, Any] | None = None  # in a search: what a pruner needs to know of the trial, or nothing


JobKind = TypeVar("JobKind", ComposedJob, SweepJob)


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended, by its run in MLflow; it has no run if it failed before one was made."""

    run_id: str | None = None
    status: str = "NONE"  # or of its run: FINISHED, FAILED, KILLED (also by pruning) or RUNNING
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""  # why it is not finished
    pruned: bool = False
    diverged: bool = False  # in a search, where that is a result: it would diverge again

    @property
    def is_done(self) -> bool:
        return self.status == "FINISHED" or self.pruned or self.diverged

    def __str__(self) -> str:
        """`FAILED (1f0a...): the reason`"""
        status = f"{self.status} ({self.run_id})" if self.run_id else "no run"
        return f"{status}: {self.reason}" if self.reason else status


@dataclass(frozen=True)
class SweepPlan:
    """The sweep that a command describes, and how much of it is done."""

    composed: ComposedSweep
    jobs: list[SweepJob]
    uri: str
    parent: RunRecord | None = None  # the run of the sweep that the command enters again, if there is one
    before: Sequence[JobOutcome] = ()  # the earlier outcome of each job
    notice: str = ""  # why every job runs anew though there are finished runs
    renamed: Mapping[str, str] = field(default_factory=dict)  # experiments that have another name by now

    @property
    def base(self) -> Config:
        return self.composed.jobs[0].config

    @property
    def family(self) -> str:
        """The digest of what stays when the values, bounds or other settings of the sweep change."""
        parts = [self.base.tracking.experiment, self.composed.is_search, sorted(varied_overrides(self.composed.jobs))]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def is_finished(self) -> bool:
        """Whether every job is done, and the parent says so, with its whole report."""
        ended = self.parent and self.parent.status == "FINISHED" and REPORT_MISSING not in self.parent.tags
        return bool(ended) and not self.composed.is_search and all(outcome.is_done for outcome in self.before)

    def find_parent(self) -> RunRecord | None:
        """Find the run of the sweep that the command enters again."""
        if self.base.sweep.rerun or not store_exists(self.uri):
            return None
        tags, client = {"sweep": self.composed.digest}, open_existing_store(self.uri)
        found = runs_with_tags(client, tags, self.base.tracking.experiment)
        # The experiment may have been renamed: the family is that of its name when the sweep began.
        return next(iter(found or runs_with_tags(client, {**tags, FAMILY_TAG: self.family})), None)

    def show(self) -> None:
        """Print what will run, what varies, and what is done already."""
        experiment = self.base.tracking.experiment
        metric, _ = objective_of(self.base)
        if metric.startswith("test_"):
            print(
                f"Warning: {metric} ranks these runs, so the value of the best one is too good to be expected on other"
                " data. Hold out examples to choose by: data.validation=N.",
                file=sys.stderr,
            )
        if self.composed.is_search:
            print(f"Search in experiment {experiment}, over:\n{self.composed}")
        else:
            values = varied_overrides(self.composed.jobs)
            print(f"Sweep of {plural(len(self.jobs), 'run')} in experiment {experiment}{', over:' if values else '.'}")
            for key, choices in values.items():
                print(printable(f"  {key}: {', '.join(choices)}"))
        if self.notice:
            print(self.notice)
        if counts := Counter(map(self._state, self.jobs)):
            print(f"{', '.join(f'{count} {state}' for state, count in counts.items())}.")

    def _state(self, job: SweepJob) -> str:
        before = self.before[job.number]
        if first_equal_job(self.jobs, job.number) != job.number:
            return "the same as another"
        if before.is_done or not before.run_id:
            return "done" if before.is_done else "to run"
        return "to resume" if has_checkpoint(before.run_id) else "to run again"


def plan_sweep(composed: ComposedSweep) -> SweepPlan:
    """Plan a sweep and find out how much of it is done; nothing is written.

    Raises:
        ConfigError: the jobs would go to several stores.
        DataError, StoreError: the data of a job, or the store, cannot be used.
    """
    uri, *others = {resolve_tracking_uri(job.config.tracking.uri) for job in composed.jobs}
    if others:
        raise ConfigError("The jobs of this sweep go to several stores. Give all of them the same tracking.uri.")
    jobs = [] if composed.is_search else plan_jobs(composed.jobs, list(varied_overrides(composed.jobs)))
    plan = SweepPlan(composed, jobs, uri)
    parent = plan.find_parent()
    if parent is None:
        return replace(plan, before=[JobOutcome()] * len(jobs), notice=_explain_new_sweep(plan))
    renamed = {composed.jobs[0].config.tracking.experiment: experiment_name(connect_store(uri), uri, parent.run_id)}
    jobs = [rename_experiment(job, renamed) for job in jobs]
    composed = replace(composed, jobs=[rename_experiment(job, renamed) for job in composed.jobs])
    data = {job.data_digest for job in jobs or plan_jobs(composed.jobs[:1], [])}
    notice = _explain_fresh_start(child_runs(uri, parent.run_id), [identity_tags(plan.base, each) for each in data])
    before = job_outcomes(jobs, parent.run_id)
    of_this = f"tags.`mlflow.parentRunId` = '{parent.run_id}'"
    if not all(outcome.is_done for outcome in before) and (deleted := restoring_advice(connect_store(uri), of_this)):
        notice = f"{notice}\nDeleted runs of this sweep do not count. {printable(deleted)}".strip()
    return SweepPlan(composed, jobs, uri, parent, before, notice, renamed)


def rename_experiment(job: JobKind, renamed: Mapping[str, str]) -> JobKind:
    """Return a job with the name that its experiment has now."""
    tracking = job.config.tracking
    named = replace(tracking, experiment=renamed.get(tracking.experiment, tracking.experiment))
    return replace(job, config=replace(job.config, tracking=named))


def search_settings(search: Search) -> list[str]:
    """Return the bounds and the sweeper's settings in words; with more trials it is still the same search."""
    settings = {**asdict(search.sweeper), "n_trials": None, "params": None}
    return [*map(str, search.space), *(f"hydra.sweeper.{k}={v}" for k, v in settings.items() if v is not None)]


def _explain_new_sweep(plan: SweepPlan) -> str:
    """Say in what the configs or settings differ from those of the latest sweep over the same keys, if there is one."""
    if plan.base.sweep.rerun or not store_exists(plan.uri):
        return ""
    experiment, keys = plan.base.tracking.experiment, varied_overrides(plan.composed.jobs)
    client = open_existing_store(plan.uri)
    of_this = f"tags.sweep = '{plan.composed.digest}' and tags.{FAMILY_TAG} = '{plan.family}'"
    if deleted := restoring_advice(client, of_this):
        return f"Every job runs anew, as this sweep was deleted. {printable(deleted)}"
    like = runs_with_tags(client, {FAMILY_TAG: plan.family})  # also if their experiment was renamed
    if not like:
        return ""
    other, differing, offer = like[0], [], ""
    with suppress(StoreError):  # it may have been cut off as it began
        differing = changed_values(plan, other.run_id)
    if isinstance(plan.composed, Search):
        learns = plan.composed.sweeper.sampler in LEARNING_SAMPLERS and not plan.base.sweep.begin_from
        if learns and not differing:
            offer = f" To begin from its trials: sweep.begin_from={other.run_id}"
        settings = other.tags.get(SETTINGS_TAG, "")
        differing += [line for line in search_settings(plan.composed) if json.dumps(line) not in settings]
    found = printable(", ".join(differing) or f"other values of {', '.join(keys)}")
    kind = "search" if plan.composed.is_search else "sweep"
    if (renamed := experiment_name(client, plan.uri, other.run_id)) != experiment:
        offer = f" That is in the experiment {renamed!r} now. To go there too: tracking.experiment=NAME{offer}"
    return f"This is a new {kind}, as it differs from {printable(other.name)} ({other.run_id}): {found}.{offer}"


def changed_values(plan: SweepPlan, parent_id: str) -> list[str]:
    """List what affects the result in every job and differs from another sweep over the same keys, as `key=value`.

    Raise a StoreError if that has recorded no job.
    """
    try:
        then = json.loads(read_artifact_text(plan.uri, parent_id, "config/plan.json"))[0]["config"]
        was, now = (flatten_config(tree) for tree in (complete(then), config_to_dict(plan.base)))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise StoreError(f"Run {parent_id} has no plan of a sweep with jobs.") from None
    varied = tuple(name for key in varied_overrides(plan.composed.jobs) for name in (key, f"{key}."))
    changed = [key for key in now if affects_result(key) and was.get(key) != now[key] and not key.startswith(varied)]
    return [f"{key}={now[key]} (was {was.get(key)})" for key in changed]


def child_runs(uri: str | None, parent_id: str, **tags: str) -> list[RunRecord]:
    """Find the children of a sweep's parent that have these tags, newest first."""
    client = open_existing_store(resolve_tracking_uri(uri))
    return runs_with_tags(client, {"mlflow.parentRunId": parent_id, **tags})


def _explain_fresh_start(children: Sequence[RunRecord], now: Sequence[Mapping[str, str]]) -> str:
    finished = [run for run in children if run.status == "FINISHED"]
    for maker, keys in MADE_BY.items():
        current = [[tags.get(key) for key in keys] for tags in now]
        if finished and all([run.tags.get(key) for key in keys] not in current for run in finished):
            were, they_stay = ("was", "it stays") if len(finished) == 1 else ("were", "they stay")
            runs = plural(len(finished), "finished run")
            return f"{runs} {were} made {maker}: {they_stay}, and every job runs anew."
    return ""


def varied_overrides(jobs: "Sequence[ComposedJob | SweepJob]") -> dict[str, list[str]]:
    """Return the keys that the jobs' overrides set differently, each with its values in the order of the jobs."""
    values: dict[str, dict[str, None]] = {}
    for job in jobs:
        for key, value in last_values(job.overrides).items():
            values.setdefault(key, {})[value] = None
    return {key: list(found) for key, found in values.items() if len(found) > 1}


def plan_jobs(
    composed: Sequence[ComposedJob], keys: Sequence[str], first: int = 0, trial: Mapping[str, Any] | None = None
) -> list[SweepJob]:
    """Name the jobs by the keys that the sweep varies, number them from `first` on, and compute their fingerprints."""
    digests: dict[str, str] = {}
    found = []
    for number, job in enumerate(composed, first):
        whole = replace(job.config.data, validation=0, limit=None)
        if (data := repr(whole)) not in digests:
            digests[data] = load_dataset(whole, 0).digest
        name = _job_name(job, keys)
        config = replace(job.config, tracking=replace(job.config.tracking, run_name=name))
        if has_light_figures(job.overrides):  # few users open every child; the best run gets all figures at the end
            config = replace(config, report=replace(config.report, figures="light"))
        fingerprint = identity_tags(config, digests[data])["fingerprint"]
        found.append(SweepJob(number, name, config, job.overrides, fingerprint, digests[data], trial))
    return found


def has_light_figures(overrides: Sequence[str]) -> bool:
    """Return whether the overrides leave the choice of figures to the sweep."""
    return not any(override_key(o) in ("report", "report.figures") for o in overrides)


def _job_name(job: ComposedJob, keys: Sequence[str]) -> str:
    parts = []
    for key, whole in last_values(job.overrides).items():
        value = shorten_marked(whole, LONGEST_CELL)
        if key in (SEED_PARAM, FOLD_PARAM) and key in keys:
            parts.append(f"{key.rpartition('.')[2]} {value}")
        elif key in keys:  # the choice of a group needs no key beside it
            parts.append(f"{value} {key.rpartition('.')[2]}" if "." in key else value)
    return shorten_marked(", ".join(parts) or run_name(job.config, job.overrides), LONGEST_NAME)


def first_equal_job(jobs: Sequence[SweepJob], number: int) -> int:
    """Return the first job with the same fingerprint: it is the same experiment, and runs once."""
    return next(job.number for job in jobs if job.fingerprint == jobs[number].fingerprint)


def job_outcomes(jobs: Sequence[SweepJob], parent_id: str, **tags: str) -> list[JobOutcome]:
    """Return each job's outcome among the children that have these tags; a finished run wins over another."""
    found: dict[str, JobOutcome] = {}
    for run in child_runs(jobs[0].config.tracking.uri, parent_id, **tags) if jobs else []:
        diverged = jobs[0].trial is not None and run.tags.get("end_error") == NotFiniteError.__name__
        reason, pruned = clean_message(run.tags.get("end_reason", "")), "pruned" in run.tags
        outcome = JobOutcome(run.run_id, run.status, run.metrics, reason, pruned, diverged and run.status == "FAILED")
        key = run.tags.get("fingerprint", "")
        if key not in found or (outcome.is_done and not found[key].is_done):
            found[key] = outcome
    return [found.get(job.fingerprint, JobOutcome()) for job in jobs]


def read_job_outcome(job: SweepJob, parent_id: str, reason: str = "", lost_status: str | None = None) -> JobOutcome:
    """Return the outcome of a job in the store, or the reason why it left no run.

    `lost_status` and the reason go to a run that is not finished and has lost its process.
    """
    (outcome,) = job_outcomes([job], parent_id, fingerprint=job.fingerprint)
    if lost_status and outcome.run_id and outcome.status != "FINISHED":
        uri = resolve_tracking_uri(job.config.tracking.uri)
        with store_errors(uri):
            end_abandoned_run(connect_store(uri), outcome.run_id, lost_status, reason)
        return replace(outcome, status=lost_status, reason=reason)
    return outcome if outcome.reason or outcome.is_done else replace(outcome, reason=reason)
