"""The outcomes of a sweep's jobs, as the runs in MLflow tell them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.liveness import end_abandoned_run
from experiments.tracking.records import RunRecord, runs_with_tags
from experiments.tracking.store import connect_store, open_existing_store

if TYPE_CHECKING:
    from experiments.sweeps.plan import SweepJob


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended; it has no run if it failed before one was made.

    Attributes:
        status: of its run: FINISHED, FAILED, KILLED (also by pruning) or RUNNING; NONE without a run.
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

    def __str__(self) -> str:
        """`FAILED (1f0a...): the reason`"""
        status = f"{self.status} ({self.run_id})" if self.run_id else "no run"
        return f"{status}: {self.reason}" if self.reason else status


NO_OUTCOME = JobOutcome(None, "NONE")


def outcomes_by_fingerprint(children: Iterable[RunRecord]) -> dict[str, JobOutcome]:
    """Return the outcome of each fingerprint among the children of a parent; a finished run wins over another."""
    found: dict[str, JobOutcome] = {}
    for run in children:
        outcome = JobOutcome(run.run_id, run.status, run.metrics, run.tags.get("end_reason", ""), "pruned" in run.tags)
        key = run.tags.get("fingerprint", "")
        if key not in found or (outcome.is_done and not found[key].is_done):
            found[key] = outcome
    return found


def job_outcome(job: "SweepJob", parent_id: str, reason: str = "") -> JobOutcome:
    """Return the outcome of a job.

    Args:
        reason: of a failure that left no run.
    """
    client = open_existing_store(resolve_tracking_uri(job.config.tracking.uri))
    children = runs_with_tags(client, {"mlflow.parentRunId": parent_id, "fingerprint": job.fingerprint})
    outcome = outcomes_by_fingerprint(children).get(job.fingerprint, NO_OUTCOME)
    return outcome if outcome.reason or outcome.is_done else replace(outcome, reason=reason)


def end_lost_job(job: "SweepJob", parent_id: str, status: str, reason: str) -> JobOutcome:
    """Give the run of a job whose process is gone its status and the reason."""
    outcome = job_outcome(job, parent_id)
    if outcome.run_id and outcome.status != "FINISHED":
        client = connect_store(resolve_tracking_uri(job.config.tracking.uri))
        end_abandoned_run(client, outcome.run_id, status, reason)
    return job_outcome(job, parent_id, reason)
