"""The table of metrics, and what a line in it changes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

from experiments.config.composition import compose_job
from experiments.config.facts import objective_metric_names, objective_of
from experiments.config.metrics import METRICS, find_metric, higher_is_better
from experiments.training.evaluation import SPLIT_METRICS, accuracy, mean_absolute_error

F1 = {
    "config/metrics.py": (
        "METRICS = (\n",
        'METRICS = (\n    Metric("f1", "max", ("val_", "test_", "best_val_"), "classes", 1, "F1", "{:.2%}"),\n',
    ),
    "training/evaluation.py": (
        '{"error_percent": error_percent}',
        '{"error_percent": error_percent, "f1": lambda targets, outputs: 0.25}',
    ),
}
WITH_F1 = """
from types import SimpleNamespace
import numpy as np
from experiments.comparison.comparison import metric_direction
from experiments.config.composition import compose_job
from experiments.config.facts import epoch_metric_names, final_metric_names, objective_of
from experiments.config.metrics import EXPECTED_METRICS, FINAL_METRICS, PREFERRED_METRICS, shown_position
from experiments.reports.figures.training import learning_curves
from experiments.reports.notes import describe_result
from experiments.reports.report import best_epoch_metrics
from experiments.reproduction.published import show_metric
from experiments.tracking.ui_pages import SWEEP_METRICS, TABLE_COLUMNS
from experiments.training.evaluation import split_metrics

named = compose_job(["data=digits", "objective.metric=best_val_f1", "training.early_stopping.metric=val_f1"])
assert objective_of(named) == ("best_val_f1", "max")
assert objective_of(compose_job(["data=digits"])) == ("best_val_f1", "max")  # it is the first line of the table
assert "val_f1" in epoch_metric_names(named) and "test_f1" in final_metric_names(named)
assert compose_job(["experiment=walkthrough", "expected.metric=test_f1"]).expected.metric == "test_f1"
assert {"test_f1", "best_val_f1"} <= set(EXPECTED_METRICS) & set(FINAL_METRICS) & set(TABLE_COLUMNS["metrics"])
assert "test_f1" in SWEEP_METRICS and PREFERRED_METRICS[0] == "test_f1"
assert metric_direction("best_val_f1") == "max"
assert show_metric("test_f1", 0.5) == "50.000 %"
assert split_metrics(np.array([0, 1]), np.eye(2), "val_") == {"val_f1": 0.25}
assert split_metrics(np.array([0, 1]), np.eye(2), "test_") == {"test_f1": 0.25, "test_error_percent": 0.0}
history = {"loss": [2.0, 1.0], "val_loss": [2.0, 1.0], "val_f1": [0.75, 0.25]}
assert best_epoch_metrics(history) == {"best_val_f1": 0.75, "best_epoch": 1}
columns = ["val_f1", "other", "best_val_f1", "test_other", "epoch_seconds", "train_seconds", "test_accuracy", "test_f1"]
assert sorted(columns, key=shown_position) == [
    *("test_f1", "test_accuracy", "best_val_f1", "train_seconds", "test_other", "val_f1", "epoch_seconds", "other")
]
test = SimpleNamespace(targets=np.array([0, 1]), outputs=np.eye(2))
results = SimpleNamespace(config=named, dataset=SimpleNamespace(test=test), test=test, history=history)
final = {"test_f1": 0.25, "test_accuracy": 1.0, "best_val_f1": 0.75, "best_epoch": 1, "train_seconds": 3}
assert describe_result(results, final) == (
    "**Test f1 25.00%** (0 of 2 wrong) after 2 epochs in 3.0 s. Test accuracy 100.00%. Best validation f1 75.00%, in"
    " epoch 1."
)
assert [axes.get_title(loc="left") for axes in learning_curves(history).axes] == ["Loss", "F1"]
"""


def test_a_metric_in_the_table_is_known_everywhere(tmp_path: Path) -> None:
    for part in ("src", "conf"):
        shutil.copytree(PROJECT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (before, after) in F1.items():
        file = tmp_path / "src" / "experiments" / name
        assert file.read_text().count(before) == 1
        file.write_text(file.read_text().replace(before, after))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run([sys.executable, "-c", WITH_F1], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("accuracy", "accuracy"),
        ("best_val_accuracy", "accuracy"),
        ("test_error_percent", "error_percent"),
        ("train_seconds", "train_seconds"),
        ("val_error_percent", None),
        ("test_balanced_accuracy", None),
        ("val_f1", None),
    ],
)
def test_a_metric_is_found_by_the_names_under_which_it_is_logged(name: str, metric: str | None) -> None:
    found = find_metric(name)
    assert (found.name if found else None) == metric


def test_the_direction_is_that_of_the_metric() -> None:
    assert higher_is_better("best_val_accuracy")
    assert not higher_is_better("test_error_percent")
    assert not higher_is_better("val_loss")


def test_every_metric_that_is_computed_is_in_the_table() -> None:
    assert {accuracy.__name__, mean_absolute_error.__name__, "loss", *SPLIT_METRICS} == {
        metric.name for metric in METRICS if metric.prefixes not in ((), ("",))
    }


@pytest.mark.parametrize(
    ("overrides", "objective"),
    [
        ([], ("best_val_accuracy", "max")),
        (["data.validation=0"], ("test_accuracy", "max")),
        (["experiment=single_neuron"], ("test_loss", "min")),
        (["experiment=single_neuron", "data.validation=10"], ("val_loss", "min")),
        (["objective.metric=test_error_percent"], ("test_error_percent", "min")),
        (["objective.metric=loss", "objective.mode=max"], ("loss", "max")),
    ],
)
def test_the_objective_follows_from_task_and_validation(overrides: list[str], objective: tuple[str, str]) -> None:
    config = compose_job(overrides)
    assert objective_of(config) == objective
    assert objective[0] in objective_metric_names(config)
