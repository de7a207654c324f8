"""Promote the model of a run, or of a sweep's best run, to the champion of a registered model, if it is better."""

import math
from dataclasses import dataclass

from experiments.comparison.paired_test import compare_predictions
from experiments.config.facts import objective_of
from experiments.config.metrics import Mode, find_metric
from experiments.errors import UserError
from experiments.sweeps.leaderboard import NO_FINISHED_RUN, SIGNIFICANCE
from experiments.sweeps.ranking import rank_children
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import model_location, read_artifact_text
from experiments.tracking.model_registry import (
    RegisteredVersion,
    check_registry_names,
    register_version,
    version_with_alias,
)
from experiments.tracking.recorded_config import read_recorded_config
from experiments.tracking.records import RunRecord, find_runs, sweep_children
from experiments.tracking.store import open_existing_store


class PromotionError(UserError):
    """A run that cannot be promoted, or not be compared with the champion: why."""


@dataclass(frozen=True)
class Promotion:
    """What came of a promotion."""

    run: RunRecord
    decision: str  # in a sentence
    version: RegisteredVersion | None  # the champion now; None if the run was refused
    is_new: bool = True  # whether the run was not the champion already


@dataclass(frozen=True)
class _Candidate:
    run: RunRecord
    metric: str  # the objective
    mode: Mode


def promote_model(run_id: str, name: str, alias: str, anyway: bool = False, uri: str | None = None) -> Promotion:
    """Register the model of a run, or of the best run of a sweep, as `name`, and let `alias` point to it.

    If the alias already points to a version, the run has to be better than that one's run beyond noise, or `anyway`.
    Both must have been tested on the same data. What counts as noise:

    - If both runs are among several seeds or folds of their setting in their sweeps: that of the objective between
      those. The means have to differ by Welch's t-test, over folds by the corrected one, as in a leaderboard.
    - Else that of the test examples: the runs' predictions are compared by a paired test (`compare_predictions`). It
      answers for the two models and not for their settings.

    Better is better in the objective's direction with a two-sided p-value below SIGNIFICANCE.

    Raises:
        ConfigError: the name or the alias is not allowed.
        PromotionError: the run is not finished, or does not have its objective.
        StoreError: there is no such run, or it has no model.
    """
    check_registry_names(name, alias)
    store = resolve_tracking_uri(uri)
    client = open_existing_store(store)
    candidate = _find_candidate(store, run_id)
    run, value = candidate.run, candidate.run.metrics[candidate.metric]
    model_location(store, run.run_id)
    champion = version_with_alias(client, name, alias)
    if champion is not None and champion.run_id == run.run_id:
        return Promotion(run, f"Run {run.run_id} is {champion.title} already", champion, is_new=False)
    better, decision = True, f"{candidate.metric} {value:.4g}: the first {alias} of {name}"
    if champion is not None:
        better, decision = _compare_with(store, candidate, champion)
    if not (better or anyway):
        return Promotion(run, decision, None)
    tags = {"run": run.run_id, "metric": candidate.metric, "value": f"{value:.7g}"}
    return Promotion(run, decision, register_version(client, run.run_id, name, alias, tags, decision))


def _find_candidate(uri: str, run_id: str) -> _Candidate:
    client = open_existing_store(uri)
    (run,) = find_runs(client, [run_id])
    if "sweep" in run.tags:
        metric, mode = run.tags["objective"].split()
        board = rank_children(sweep_children(client, run.run_id), metric, "min" if mode == "min" else "max", ())
        if board is None:
            raise PromotionError(NO_FINISHED_RUN)
        return _Candidate(board.best, board.metric, board.mode)
    if run.status != "FINISHED":
        raise PromotionError(f"Run {run.run_id} ({run.name}) is {run.status}: only a finished run can be promoted.")
    metric, mode = objective_of(read_recorded_config(uri, run.run_id)[0])
    if not math.isfinite(run.metrics.get(metric, math.nan)):
        raise PromotionError(f"Run {run.run_id} ({run.name}) does not have its objective, {metric}.")
    return _Candidate(run, metric, mode)


def _compare_with(uri: str, candidate: _Candidate, champion: RegisteredVersion) -> tuple[bool, str]:
    """Return whether the candidate is better than the champion beyond noise, and that in a sentence."""
    try:
        if not champion.run_id:
            raise PromotionError("it was not registered from a run")
        (other,) = find_runs(open_existing_store(uri), [champion.run_id])
        digests = [run.tags.get("data_digest") for run in (candidate.run, other)]
        if digests[0] != digests[1]:
            raise PromotionError(f"its run {other.run_id} was tested on other data (data_digest {digests[1]})")
        return _compare_seeds(uri, candidate, other) or _compare_examples(uri, candidate, other)
    except UserError as error:
        reason = str(error).removesuffix(".")
        return False, f"{candidate.run.name}: cannot be compared with {champion.title}: {reason}"


def _compare_seeds(uri: str, candidate: _Candidate, other: RunRecord) -> tuple[bool, str] | None:
    """Compare the settings of two runs over seeds or folds; return None without, or for one and the same setting."""
    runs = [*_seeds_of(uri, candidate, candidate.run), *_seeds_of(uri, candidate, other)]
    board = rank_children(runs, candidate.metric, candidate.mode, ())
    if board is None or len(board.table) != 2 or board.table.n.min() < 2:
        return None
    kind, column = "Welch's t-test", "p_value"
    if board.is_cross_validated:
        kind, column = "corrected resampled t-test", "p_corrected"
    p = float(board.table[column][1])
    if math.isnan(p):
        return None
    first = {run.run_id for run in board.comparison.groups[0]}
    ours = 0 if candidate.run.run_id in first else 1
    means, n = board.table[f"{candidate.metric}_mean"], board.table.n
    test = f"{kind} over {n[ours]} and {n[1 - ours]} {board.over}"
    return _decide(f"{candidate.metric} on average", candidate.mode, means[ours], means[1 - ours], p, test)


def _seeds_of(uri: str, candidate: _Candidate, run: RunRecord) -> list[RunRecord]:
    """Return the runs of a run's sweep that differ from it only in their seed or fold, with itself."""
    parent = run.tags.get("mlflow.parentRunId")
    if parent is None:
        return [run]
    children = sweep_children(open_existing_store(uri), parent)
    board = rank_children(children, candidate.metric, candidate.mode, ())
    groups = board.comparison.groups if board else []
    return next((group for group in groups if run.run_id in {each.run_id for each in group}), [run])


def _compare_examples(uri: str, candidate: _Candidate, other: RunRecord) -> tuple[bool, str]:
    ours, theirs = (read_artifact_text(uri, run.run_id, "predictions/test.csv") for run in (candidate.run, other))
    paired = compare_predictions(candidate.run, ours, theirs, candidate.metric)
    found = find_metric(paired.metric)
    mode = found.direction if found and found.direction else candidate.mode
    return _decide(paired.metric, mode, paired.first, paired.second, paired.p_value, paired.test)


def _decide(metric: str, mode: Mode, ours: float, theirs: float, p: float, test: str) -> tuple[bool, str]:
    """Return whether our value is better beyond noise, and that in a sentence."""
    word = "not better"
    if p < SIGNIFICANCE:
        word = "better" if (ours < theirs) == (mode == "min") else "worse"
    return word == "better", f"{metric} {ours:.4g} against {theirs:.4g}: {word} beyond noise (p = {p:.2g}, {test})"
