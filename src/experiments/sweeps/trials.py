"""The loop of a search: batches of trials become jobs of the sweep, and the study hears how each ended."""

import sys
from pathlib import Path

from experiments.config.identity import identity_tags
from experiments.errors import ConfigError
from experiments.sweeps.job_runner import JobRunner
from experiments.sweeps.plan import SweepJob, plan_jobs, varied_overrides
from experiments.sweeps.search import Search
from experiments.sweeps.search_space import Point, point_overrides
from experiments.sweeps.study import SearchStudy, SearchTrial, publish_study
from experiments.tracking.run import TrackedRun


def run_search(search: Search, runner: JobRunner, parent: TrackedRun, folder: Path) -> list[str]:
    """Run the trials of a search, as many at once as the engine has room for, and publish the study.

    A batch waits for its slowest trial: what is drawn next would otherwise depend on which trial ends first.

    Args:
        folder: for the study's journal, which outlives the sweep's process.

    Returns:
        The trials that no job could be made of, a line on each.
    """
    # The study sees no results of other code.
    code = identity_tags(search.jobs[0].config, data_digest="")["fingerprint"]
    study = SearchStudy(search, folder / f"{parent.run_id}-{code[:16]}.journal")
    keys = list(varied_overrides(search.jobs))

    def plan_job(point: Point, trial: SearchTrial | None = None) -> SweepJob:
        composed = search.compose_more([[*search.fixed, *point_overrides(point)]])
        entry = study.pruning_entry(trial) if trial else None
        runner.jobs += plan_jobs(composed, keys, len(runner.jobs), entry)
        return runner.jobs[-1]

    refused: list[str] = []
    for point in study.done:
        plan_job(point)
    runner.expected = len(runner.jobs) + study.left
    at_once = runner.engine.max_parallel(search.jobs[0].config)
    while not runner.is_stopped and (batch := study.ask(at_once)):
        jobs: dict[int, SearchTrial] = {}
        for trial in batch:
            try:
                jobs[plan_job(trial.values, trial).number] = trial
            except ConfigError as error:  # values that do not go together, though each is allowed
                refused.append(f"trial {trial.asked.number} cannot run: {error}")
                print(refused[-1], file=sys.stderr)
                study.tell(trial, None, "FAILED", None)
        runner.run([runner.jobs[number] for number in jobs])
        outcomes = runner.outcomes()
        for number, trial in jobs.items():
            outcome = outcomes[number]
            if outcome.run_id or not runner.is_stopped:  # else it was not started
                status = "PRUNED" if outcome.pruned else outcome.status
                study.tell(trial, outcome.run_id, status, outcome.metrics.get(search.metric))
    for point in study.not_tried_again:
        plan_job(point)
    publish_study(study, parent)
    return refused
