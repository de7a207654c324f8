"""Run a recorded run again from its own config, and compare every metric and the model."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.config.facts import count_training_examples
from experiments.config.metrics import METRICS, find_metric, measured_split
from experiments.data.datasets import load_dataset
from experiments.errors import StoreError
from experiments.experiment import run_experiment
from experiments.reproduction.original_run import (
    MetricPoints,
    OriginalRun,
    read_logged_model,
    recorded_hardware,
    recorded_points,
)
from experiments.runtime import start_tensorflow
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import check_initial_weights, download_model
from experiments.tracking.records import find_runs
from experiments.tracking.store import open_existing_store
from experiments.training.cluster import CLUSTER_FOLDER_VARIABLE
from experiments.training.devices import process_settings
from experiments.training.evaluation import Evaluator, criterion_of
from experiments.training.networks import load_keras_model

RELATIVE_TOLERANCE = 0.02  # of losses and of other metrics that are not accuracies
SAME_MODEL_TOLERANCE = 0.001  # of the accuracy of the same weights on another machine
TWO_MODELS_TOLERANCE = 0.005
ROUNDING = 1e-6  # of an accuracy in 32 bits
TOLERANCE_TEXT = (
    "2 % for losses and other metrics, 0.5 percentage points (or two images, if that is more) for accuracies; "
    f"{', '.join(metric.name for metric in METRICS if not metric.compared)} is not compared"
)

EXACT_TAGS = ("code_digest", "own_code_digest", "versions")  # where they are equal, so are the bits


@dataclass(frozen=True)
class MetricRow:
    """A metric in both runs."""

    metric: str
    recorded: float | None  # the last value; None where it is missing
    repeated: float | None
    difference: float | None  # the largest absolute difference of all epochs; None if the runs have different epochs
    epoch: int | None  # with the largest difference
    equal: bool  # whether all differences are within the tolerance


@dataclass(frozen=True)
class RerunVerdict:
    """How a new run compares with the recorded one."""

    exact: bool  # whether equality to the last bit is required: machine, versions and code are the same
    rows: list[MetricRow]
    # Whether the logged models are equal; without `exact`, whether their weights have the same shapes and the recorded
    # model has its recorded test metrics. None if a model is missing.
    same_weights: bool | None
    record_changes: list[str]
    machine_changes: list[str]

    @property
    def reproduced(self) -> bool:
        return not self.record_changes and all(row.equal for row in self.rows) and self.same_weights is not False


def repeat_run(original: OriginalRun) -> str:
    """Run it as a new run with the tag `reproduces`, in the same store and experiment.

    Return the new run's id; empty in a worker of a cluster that is not the chief. Raise a UserError if devices, store
    or initial weights cannot be used, a TrainingError if the new run failed.
    """
    tracking = replace(original.config.tracking, uri=original.uri, run_name=f"again: {original.run.name}")
    config = replace(original.config, tracking=tracking, resume=None, resume_anyway=True)  # changes are reported
    check_initial_weights(config)
    run_id = run_experiment(config, original.overrides, {"reproduces": original.run.run_id})
    return "" if CLUSTER_FOLDER_VARIABLE in os.environ else run_id


def judge_rerun(original: OriginalRun, run_id: str) -> RerunVerdict:
    """Compare every metric of the new run with the recorded one, at every epoch."""
    resolved = resolve_tracking_uri(original.uri)
    client = open_existing_store(resolved)
    (new,) = find_runs(client, [run_id])
    machine = original.machine_changes(recorded_hardware(resolved, run_id))
    exact = not machine and all(original.run.tags.get(key) == new.tags.get(key) for key in EXACT_TAGS)
    validation, test = original.config.data.validation, original.config.data.test_examples
    images = {"test": test, "validation": validation, "train": count_training_examples(original.config)}
    rows = compare_points(original.points, recorded_points(client, new), None if exact else images)
    model = read_logged_model(resolved, new, False)
    same_weights = None
    if original.model and model and exact:
        same_weights = original.model.equals(model)
    elif original.model and model:
        same_weights = original.model.fits(model) and _has_recorded_metrics(original)
    return RerunVerdict(exact, rows, same_weights, original.record_changes(), machine)


def _has_recorded_metrics(original: OriginalRun) -> bool:
    """Return whether the logged model still has the recorded test metrics, within the tolerance."""
    config, store = original.config, resolve_tracking_uri(original.uri)
    start_tensorflow(*process_settings(config))
    with TemporaryDirectory() as folder:
        file = download_model(store, original.run.run_id, Path(folder), accept_changed=True)
        try:
            model = load_keras_model(file, original.run.run_id, original.config)
        except StoreError:
            return False
    metrics = Evaluator(model, criterion_of(config))(load_dataset(config.data, config.seed).test).metrics
    allowed = max(SAME_MODEL_TOLERANCE, 1 / config.data.test_examples)
    recorded = {name: original.run.metrics.get(f"test_{name}", math.nan) for name in metrics}
    return all(_is_close(name, recorded[name], value, allowed) for name, value in metrics.items())


def compare_points(recorded: MetricPoints, repeated: MetricPoints, images: Mapping[str, int] | None) -> list[MetricRow]:
    """Return a row for each metric of either run.

    `images` is the number of images in each split, for the tolerance; None to require equality to the last bit.

    >>> compare_points({"loss": [(1, 0.5), (2, 0.25)]}, {"loss": [(1, 0.5625), (2, 0.25)]}, None)
    [MetricRow(metric='loss', recorded=0.25, repeated=0.25, difference=0.0625, epoch=1, equal=False)]
    """
    rows = []
    for metric in {**recorded, **repeated}:
        before, after = recorded.get(metric, []), repeated.get(metric, [])
        last_before, last_after = (points[-1][1] if points else None for points in (before, after))
        if not before or [epoch for epoch, _ in before] != [epoch for epoch, _ in after]:
            rows.append(MetricRow(metric, last_before, last_after, None, None, False))
            continue
        pairs = [(epoch, a, b) for (epoch, a), (_, b) in zip(before, after, strict=True)]
        count = images[measured_split(metric)] if images else 0
        allowed = max(TWO_MODELS_TOLERANCE, 2 / count) if count else TWO_MODELS_TOLERANCE
        equal = all(a == b if images is None else _is_close(metric, a, b, allowed) for _, a, b in pairs)
        epoch, difference = max(((epoch, abs(a - b)) for epoch, a, b in pairs), key=lambda pair: pair[1])
        rows.append(MetricRow(metric, last_before, last_after, difference, epoch, equal))
    return rows


def _is_close(metric: str, recorded: float, repeated: float, allowed: float) -> bool:
    known = find_metric(metric)
    if known and not known.compared:
        return True
    if known and known.whole:
        return abs(repeated - recorded) <= known.whole * allowed + ROUNDING
    return abs(repeated - recorded) <= RELATIVE_TOLERANCE * abs(recorded)
