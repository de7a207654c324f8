"""Running a recorded run again: from its own config, with every metric and the model compared."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.config.facts import count_training_examples
from experiments.config.metrics import find_metric
from experiments.data.datasets import load_dataset
from experiments.errors import StoreError
from experiments.experiment import run_experiment
from experiments.reproduction.logged_model import read_logged_model
from experiments.reproduction.record import MetricPoints, Record, recorded_hardware, recorded_points
from experiments.runtime import start_tensorflow
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import download_model_unchecked
from experiments.tracking.initial_weights import check_initial_weights
from experiments.tracking.records import find_runs
from experiments.tracking.store import open_existing_store
from experiments.training.cluster import CLUSTER_FOLDER_VARIABLE
from experiments.training.devices import logical_devices
from experiments.training.evaluation import Evaluator
from experiments.training.saved_models import load_keras_model

NOT_JUDGED = ("best_epoch",)  # among epochs that are nearly equal the last bits choose
RELATIVE_TOLERANCE = 0.02  # of a loss, or of what is neither loss nor accuracy
SAME_MODEL_TOLERANCE = (
    0.001  # the accuracy of the same weights elsewhere: an image of a thousand may be as near to two digits
)
TWO_MODELS_TOLERANCE = 0.005
ROUNDING = 1e-6  # of an accuracy in 32 bits: one image more is more
TOLERANCE_TEXT = (
    "2 % in losses and other metrics, 0.5 percentage points (or two images, where those are more) in accuracies;"
    " best_epoch is not judged"
)


@dataclass(frozen=True)
class MetricRow:
    """A metric in both runs.

    Attributes:
        then, now: the last values, None where there is none.
        difference: the largest of all epochs, absolute; None if the runs do not have the same epochs.
        epoch: where that is.
        equal: whether all is within the tolerance.
    """

    metric: str
    then: float | None
    now: float | None
    difference: float | None
    epoch: int | None
    equal: bool


@dataclass(frozen=True)
class RerunVerdict:
    """What came out: `exact` asks for equality to the last bit, which only the same machine and software gives.

    Attributes:
        same_weights: whether the two logged models are equal; if `exact` is not asked for, whether they have weights of
            the same shapes, and the recorded one its recorded loss on the test images. None if one is not there.
        machine_changes: what of the machine is not as it was then.
    """

    exact: bool
    rows: list[MetricRow]
    same_weights: bool | None
    contradictions: list[str]
    run_id: str
    machine_changes: list[str]

    @property
    def reproduced(self) -> bool:
        return not self.contradictions and all(row.equal for row in self.rows) and self.same_weights is not False


def rerun_record(recorded: Record) -> str:
    """Run it as a new run, which has the tag `reproduces` and stands in the same store and experiment.

    Returns:
        The new run's id; empty in a process that only trains for another one (a worker of a cluster).

    Raises:
        UserError: devices or store cannot be used, or the run that it starts from is gone.
        TrainingError: the new run failed.
    """
    tracked = replace(recorded.config.tracking, uri=recorded.uri, run_name=f"again: {recorded.run.name}")
    config = replace(recorded.config, tracking=tracked, resume=None)
    check_initial_weights(config)
    false = recorded.false_overrides()
    overrides = [override for override in recorded.overrides if override not in false]
    run_id = run_experiment(config, overrides, {"reproduces": recorded.run.run_id})
    return "" if CLUSTER_FOLDER_VARIABLE in os.environ else run_id


def judge_rerun(recorded: Record, run_id: str) -> RerunVerdict:
    """Compare every metric of the new run with the recorded one, at every epoch."""
    resolved = resolve_tracking_uri(recorded.uri)
    client = open_existing_store(resolved)
    (new,) = find_runs(client, [run_id])
    hardware = recorded_hardware(resolved, run_id)
    changed = recorded.machine_changes(hardware)
    exact = not changed and all(recorded.run.tags.get(key) == new.tags[key] for key in ("code_digest", "versions"))
    validation, test = recorded.config.data.validation, recorded.config.data.test_examples
    images = {"test_": test, "val_": validation, "best_val_": validation, "": count_training_examples(recorded.config)}
    rows = compare_points(recorded.points, recorded_points(client, new), None if exact else images)
    model = read_logged_model(resolved, new, False)
    same_weights = None
    if recorded.model and model:
        same_weights = recorded.model.equals(model) if exact else recorded.model.fits(model) and _is_as_good(recorded)
    return RerunVerdict(exact, rows, same_weights, recorded.contradictions(), new.run_id, changed)


def _is_as_good(recorded: Record) -> bool:
    """Whether the logged model still has the recorded loss on the test set, within the tolerance, and accuracy."""
    config, store = recorded.config, resolve_tracking_uri(recorded.uri)
    start_tensorflow(int(config.training.threads), logical_devices(config.distribution))
    with TemporaryDirectory() as folder:
        file = download_model_unchecked(store, recorded.run.run_id, Path(folder))
        try:
            model = load_keras_model(file, recorded.run.run_id)
        except StoreError:
            return False
    now = Evaluator(model, config.training.loss)(load_dataset(config.data, config.seed).test).metrics
    then = {name: recorded.run.metrics.get(f"test_{name}", math.nan) for name in now}
    allowed = max(SAME_MODEL_TOLERANCE, 1 / config.data.test_examples)
    return all(_is_close(name, then[name], now[name], allowed) for name in now)


def compare_points(then: MetricPoints, now: MetricPoints, images: Mapping[str, int] | None) -> list[MetricRow]:
    """A row for each metric that either run has.

    Args:
        images: how many there are behind a metric, by the beginning of its name, for the tolerance; None: all has to be
            equal to the last bit.

    >>> compare({"loss": [(1, 0.5), (2, 0.25)]}, {"loss": [(1, 0.5625), (2, 0.25)]}, None)
    [Row(metric='loss', then=0.25, now=0.25, difference=0.0625, epoch=1, equal=False)]
    """
    rows = []
    for metric in [*then, *(metric for metric in now if metric not in then)]:
        before, after = then.get(metric, []), now.get(metric, [])
        last_then, last_now = (points[-1][1] if points else None for points in (before, after))
        if not before or [epoch for epoch, _ in before] != [epoch for epoch, _ in after]:
            rows.append(MetricRow(metric, last_then, last_now, None, None, False))
            continue
        pairs = [(epoch, a, b) for (epoch, a), (_, b) in zip(before, after, strict=True)]
        count = next(count for start, count in images.items() if metric.startswith(start)) if images else 0
        allowed = max(TWO_MODELS_TOLERANCE, 2 / count) if count else TWO_MODELS_TOLERANCE
        equal = all(a == b if images is None else _is_close(metric, a, b, allowed) for _, a, b in pairs)
        epoch, difference = max(((epoch, abs(a - b)) for epoch, a, b in pairs), key=lambda pair: pair[1])
        rows.append(MetricRow(metric, last_then, last_now, difference, epoch, equal))
    return rows


def _is_close(metric: str, then: float, now: float, allowed: float) -> bool:
    if metric in NOT_JUDGED:
        return True
    if (known := find_metric(metric)) and known.whole:
        return abs(now - then) <= known.whole * allowed + ROUNDING
    return abs(now - then) <= RELATIVE_TOLERANCE * abs(then)
