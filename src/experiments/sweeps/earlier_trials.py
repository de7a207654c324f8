"""The results of an earlier search, from which a new one with other bounds or settings begins (`sweep.begin_from`)."""

import json
from dataclasses import dataclass

from experiments.config.identity import identity_tags
from experiments.errors import ConfigError, StoreError
from experiments.sweeps.plan import MADE_BY, SweepPlan, changed_values, child_runs, plan_jobs
from experiments.sweeps.search import LEARNING_SAMPLERS, Point, Search
from experiments.tracking.artifacts import read_artifact_text
from experiments.tracking.records import find_runs
from experiments.tracking.store import open_existing_store


@dataclass(frozen=True)
class EarlierTrial:
    """A trial of another search that ended with a result."""

    point: Point
    value: float | None  # of the objective; None if it diverged
    run_id: str


def read_earlier_trials(plan: SweepPlan) -> list[EarlierTrial]:
    """Return the trials of the search that `sweep.begin_from` names; nothing is written.

    Raises:
        ConfigError: they say nothing about this search, whose config, objective, code or data is another.
        StoreError: there is no such run.
    """
    search, given = plan.composed, plan.base.sweep.begin_from
    if given is None:
        return []
    asked = f"sweep.begin_from={given}"
    if not isinstance(search, Search) or search.sweeper.sampler not in LEARNING_SAMPLERS:
        raise ConfigError(f"{asked} is for a search by {' or '.join(LEARNING_SAMPLERS)}, which learn. Leave it out.")
    (parent,) = find_runs(open_existing_store(plan.uri), [given])
    try:
        table = json.loads(read_artifact_text(plan.uri, parent.run_id, "tables/trials.json"))
        changed = changed_values(plan, parent.run_id)
    except StoreError:
        raise ConfigError(f"{asked}: {parent.name} is not a search that has ended. Give the id of one.") from None
    if parent.tags.get("objective") != f"{search.metric} {search.mode}":
        changed.append(f"the {search.mode} of {search.metric} (was {parent.tags.get('objective')})")
    if changed:
        raise ConfigError(f"{asked}: its trials cannot be compared with this search, which has {', '.join(changed)}.")
    now = identity_tags(plan.base, plan_jobs(search.jobs[:1], [])[0].data_digest)
    keys = [key for names in MADE_BY.values() for key in names]
    comparable = {
        run.run_id
        for run in child_runs(plan.uri, parent.run_id)
        if [run.tags.get(key) for key in keys] == [now[key] for key in keys]
    }
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    found = [
        EarlierTrial({p.key: row[p.key] for p in search.space if row[p.key] is not None}, row[search.metric], run_id)
        for row in rows
        if row["status"] in ("COMPLETE", "DIVERGED") and (run_id := row["run_id"]) in comparable
    ]
    if not found:
        raise ConfigError(f"{asked}: no trial of it has a result with the present code, packages and data.")
    return found
