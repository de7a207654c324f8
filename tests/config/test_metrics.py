"""The table of metrics, and what a line in it changes."""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from composed import job, refusal
from conftest import PROJECT
from sklearn import metrics as scores

from experiments.config.composition import compose_job
from experiments.config.facts import epoch_metric_names, final_metric_names, objective_metric_names, objective_of
from experiments.config.identity import fingerprint_of
from experiments.config.metrics import CHOSEN_METRICS, all_metrics, find_metric, higher_is_better
from experiments.training.evaluation import SPLIT_METRICS, accuracy, mean_absolute_error, split_metrics

G1 = {
    "config/metrics.py": (
        "\nMETRICS = (\n",
        '\nMETRICS = (\n    Metric("g1", "max", ("val_", "test_", "best_val_"), "classes", 1, "G1", "{:.2%}"),\n',
    ),
    "training/evaluation.py": (
        '"error_percent": error_percent,',
        '"error_percent": error_percent, "g1": lambda targets, outputs: 0.25,',
    ),
}
WITH_G1 = """
from types import SimpleNamespace
import numpy as np
from experiments.comparison.comparison import metric_direction
from experiments.config.composition import compose_job
from experiments.config.facts import epoch_metric_names, final_metric_names, objective_of
from experiments.config.metrics import finished_run_metrics, preferred_metrics, shown_position
from experiments.reports.figures.training import learning_curves
from experiments.reports.notes import describe_result
from experiments.reports.report import best_epoch_metrics
from experiments.reproduction.published import show_metric
from experiments.tracking.ui_pages import sweep_metrics, table_columns
from experiments.training.evaluation import split_metrics

named = compose_job(["data=digits", "objective.metric=best_val_g1", "training.early_stopping.metric=val_g1"])
assert objective_of(named) == ("best_val_g1", "max")
assert objective_of(compose_job(["data=digits"])) == ("best_val_g1", "max")  # it is the first line of the table
assert "val_g1" in epoch_metric_names(named) and "test_g1" in final_metric_names(named)
assert compose_job(["experiment=walkthrough", "expected.metric=test_g1"]).expected.metric == "test_g1"
assert {"test_g1", "best_val_g1"} <= set(finished_run_metrics())
assert {"metrics.`test_g1`", "metrics.`best_val_g1`"} <= set(table_columns())
assert "test_g1" in sweep_metrics() and preferred_metrics()[0] == "test_g1"
assert metric_direction("best_val_g1") == "max"
assert show_metric("test_g1", 0.5) == "50.000 %"
assert split_metrics([], np.array([0, 1]), np.eye(2), "val_")[0] == {"val_g1": 0.25}
assert split_metrics([], np.array([0, 1]), np.eye(2), "test_")[0] == {"test_g1": 0.25, "test_error_percent": 0.0}
history = {"loss": [2.0, 1.0], "val_loss": [2.0, 1.0], "val_g1": [0.75, 0.25]}
assert best_epoch_metrics(history) == {"best_val_g1": 0.75, "best_epoch": 1}
columns = ["val_g1", "other", "best_val_g1", "test_other", "epoch_seconds", "train_seconds", "test_accuracy", "test_g1"]
assert sorted(columns, key=shown_position) == [
    *("test_g1", "test_accuracy", "best_val_g1", "train_seconds", "test_other", "val_g1", "epoch_seconds", "other")
]
test = SimpleNamespace(targets=np.array([0, 1]), outputs=np.eye(2))
results = SimpleNamespace(config=named, dataset=SimpleNamespace(test=test), test=test, history=history)
final = {"test_g1": 0.25, "test_accuracy": 1.0, "best_val_g1": 0.75, "best_epoch": 1, "train_seconds": 3}
assert describe_result(results, final) == (
    "**Test g1 25.00%** (0 of 2 wrong) after 2 epochs in 3.0 s. Test accuracy 100.00%. Best validation g1 75.00%, in"
    " epoch 1."
)
assert [axes.get_title(loc="left") for axes in learning_curves(history).axes] == ["Loss", "G1"]
"""


def test_a_metric_in_the_table_is_known_everywhere(tmp_path: Path) -> None:
    for part in ("src", "conf"):
        shutil.copytree(PROJECT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (before, after) in G1.items():
        file = tmp_path / "src" / "experiments" / name
        assert file.read_text().count(before) == 1
        file.write_text(file.read_text().replace(before, after))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run([sys.executable, "-c", WITH_G1], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("accuracy", "accuracy"),
        ("best_val_accuracy", "accuracy"),
        ("test_error_percent", "error_percent"),
        ("train_seconds", "train_seconds"),
        ("val_error_percent", None),
        ("test_balanced_accuracy", "balanced_accuracy"),
        ("best_val_roc_auc_ovo", None),
        ("val_g1", None),
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
    of_scikit_learn = {name for name in CHOSEN_METRICS if name != "top_5_accuracy"}
    assert {accuracy.__name__, mean_absolute_error.__name__, "loss", *SPLIT_METRICS} == {
        metric.name for metric in all_metrics() if metric.prefixes not in ((), ("",))
    } - of_scikit_learn


# For several labels, for clusters, of a parameter k, and those that are logged always.
OTHER_SCORERS = {
    *("f1_samples", "jaccard_samples", "precision_samples", "recall_samples", "top_k_accuracy"),
    *("adjusted_mutual_info_score", "adjusted_rand_score", "completeness_score", "fowlkes_mallows_score"),
    *("homogeneity_score", "mutual_info_score", "normalized_mutual_info_score", "rand_score", "v_measure_score"),
    *("accuracy", "neg_mean_absolute_error"),
    "d2_brier_score",  # newer than the oldest scikit-learn that is allowed
}


def test_metrics_to_choose_are_the_scorers_of_scikit_learn() -> None:
    from sklearn.metrics import get_scorer_names

    signed = {("neg_" if metric.direction == "min" else "") + name for name, metric in CHOSEN_METRICS.items()}
    assert signed - {"top_5_accuracy"} == set(get_scorer_names()) - OTHER_SCORERS


PROBABILITIES = np.random.default_rng(0).dirichlet(np.full(7, 0.4), 200).astype(np.float32)
CLASSES = np.random.default_rng(1).integers(0, 7, 200, np.int32) * np.arange(200, dtype=np.int32) % 7


@pytest.mark.parametrize(
    ("name", "function", "argument"),
    [
        ("f1_macro", partial(scores.f1_score, average="macro"), "classes"),
        ("precision_weighted", partial(scores.precision_score, average="weighted", zero_division=0), "classes"),
        ("balanced_accuracy", scores.balanced_accuracy_score, "classes"),
        ("matthews_corrcoef", scores.matthews_corrcoef, "classes"),
        ("roc_auc_ovr", partial(scores.roc_auc_score, multi_class="ovr"), "probabilities"),
        ("roc_auc_ovo_weighted", partial(scores.roc_auc_score, multi_class="ovo", average="weighted"), "probabilities"),
        ("average_precision", scores.average_precision_score, "probabilities"),
        ("log_loss", scores.log_loss, "probabilities"),
        ("top_5_accuracy", partial(scores.top_k_accuracy_score, k=5), "probabilities"),
    ],
)
def test_a_chosen_metric_has_the_value_of_scikit_learns_function(name: str, function: Any, argument: str) -> None:
    given = PROBABILITIES if argument == "probabilities" else PROBABILITIES.argmax(1)
    metrics, undefined = split_metrics([name], CLASSES, PROBABILITIES, "test_")
    assert metrics[f"test_{name}"] == pytest.approx(function(CLASSES, given), rel=1e-6)
    assert not undefined


def test_metrics_of_numbers_are_scikit_learns() -> None:
    targets, outputs = np.random.default_rng(2).random((2, 50, 1), np.float32)
    metrics, undefined = split_metrics(["r2", "root_mean_squared_error"], targets, outputs, "val_")
    expected = [scores.r2_score(targets, outputs), np.sqrt(np.mean((targets - outputs) ** 2))]
    assert [metrics["val_r2"], metrics["val_root_mean_squared_error"]] == pytest.approx(expected, rel=1e-5)
    assert "mean_gamma_deviance" not in undefined
    _, undefined = split_metrics(["mean_gamma_deviance"], targets - 1, outputs, "val_")
    assert "can only be used" in undefined["val_mean_gamma_deviance"]


def test_a_metric_without_a_value_has_a_reason() -> None:
    one_class, wrong = np.zeros(9, np.int32), np.eye(2)[np.ones(9, int)] * 2
    metrics, undefined = split_metrics(["roc_auc", "f1", "log_loss"], one_class, np.eye(2)[one_class], "test_")
    assert metrics.keys() == {"test_error_percent", "test_f1"}
    assert "one class" in undefined["test_roc_auc"].lower()
    _, undefined = split_metrics(["roc_auc"], np.array([0, 1] * 4), wrong[:8], "test_")
    assert undefined["test_roc_auc"] == "the outputs of the network are not probabilities."


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["metrics=[f1_makro]"], "metrics: f1_makro is not a known metric (did you mean 'f1_macro'?)"),
        (["metrics=[neg_log_loss]"], "(did you mean 'log_loss'?). Choices for data=digits: average_precision, "),
        (["metrics=[f1]"], "metrics: f1 needs two classes, data=digits has 10 classes. Choices for data=digits: "),
        (["metrics=[r2]"], "metrics: r2 needs numbers, data=digits has 10 classes."),
        (
            ["experiment=single_neuron", "metrics=[f1_macro]"],
            "metrics: f1_macro needs classes, data=linear has numbers.",
        ),
        (["metrics=[accuracy]"], "metrics: accuracy is logged anyway. Leave it out."),
        (["metrics=[log_loss,log_loss]"], "metrics names log_loss twice. Name it once."),
        (["metrics=f1_macro"], "metrics=f1_macro is not allowed: expected a list: "),
        (["objective.metric=best_val_f1_macro"], "is not a metric of these runs (metrics does not name f1_macro)."),
        (
            ["schedule=reduce_on_plateau", "schedule.metric=val_roc_auc_ovo", "metrics=[roc_auc_ovo]"],
            "schedule.metric=val_roc_auc_ovo is not a metric of each epoch. Choices: ",
        ),
        (["data.class_names=[a,b,c,d,e]", "data.classes=5", "metrics=[top_5_accuracy]"], "needs 6 or more classes"),
    ],
)
def test_refuses_a_metric_that_does_not_fit(overrides: list[str], message: str) -> None:
    assert message in refusal(*overrides, *([] if "experiment=single_neuron" in overrides else ["data=digits"]))


def test_chosen_metrics_belong_to_the_run_and_to_its_fingerprint() -> None:
    config = job("data=digits", "metrics=[f1_macro,roc_auc_ovo]")
    assert set(epoch_metric_names(config)) - set(epoch_metric_names(job("data=digits"))) == {"val_f1_macro"}
    assert {"test_f1_macro", "best_val_f1_macro", "test_roc_auc_ovo"} < set(final_metric_names(config))
    assert objective_of(config) == ("best_val_accuracy", "max")
    assert fingerprint_of(config, {}) != fingerprint_of(job("data=digits"), {})


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
