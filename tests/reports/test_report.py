"""The report of a run, from real small models and data that needs no download."""

import csv
import io
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from conftest import command
from matplotlib.text import Text
from stores import files, runs

from experiments.config.composition import compose_job
from experiments.data.datasets import load_dataset
from experiments.reports.report import (
    Results,
    final_metrics,
    predictions_csv,
    report_figures,
    report_tables,
    write_figures,
)
from experiments.training.evaluation import Evaluation, Evaluator, criterion_of
from experiments.training.networks import build_network

HISTORY = {
    "loss": [2.0, 1.5, 1.2],
    "accuracy": [0.3, 0.5, 0.6],
    "val_loss": [1.9, 1.6, 1.7],
    "val_accuracy": [0.4, 0.7, 0.5],
    "learning_rate": [0.001, 0.001, 0.001],
    "epoch_seconds": [0.25, 0.5, 0.25],
    "examples_per_second": [1.0, 1.0, 1.0],
}
FIT_HISTORY = {"loss": [0.2, 0.1], "mean_absolute_error": [0.4, 0.3], "epoch_seconds": [1.0, 2.0]}


@cache
def classified(*overrides: str) -> Results:
    """An untrained model on the digits, which makes mistakes of every kind."""
    config = compose_job(["data=digits", *overrides])
    dataset = load_dataset(config.data, config.seed)
    model = build_network(config)
    test = Evaluator(model, criterion_of(config))(dataset.test)
    return Results(config, dataset, model, HISTORY, None, test)


@cache
def fitted(*overrides: str) -> Results:
    config = compose_job(["experiment=single_neuron", *overrides])
    dataset = load_dataset(config.data, config.seed)
    model = build_network(config)
    evaluate = Evaluator(model, criterion_of(config))
    untrained = evaluate(dataset.train).outputs
    if config.model.name == "neuron":
        model.set_weights([np.array([[0.5]]), np.array([0.25])])
    return Results(config, dataset, model, FIT_HISTORY, untrained, evaluate(dataset.test))


def answered(*predicted: int) -> Results:
    """Return results with these predictions for the first digits, in falling confidence; the others are correct."""
    results = classified()
    targets = results.dataset.test.targets
    outputs = np.full((len(targets), 10), 0.001, np.float32)
    answers = np.concatenate([np.array(predicted, int), targets[len(predicted) :]])
    certain = np.full(len(targets), 0.9)
    certain[: len(predicted)] = np.linspace(0.8, 0.5, len(predicted))
    outputs[np.arange(len(targets)), answers] = certain
    return replace(results, test=Evaluation(outputs, {"loss": 0.5, "accuracy": float((answers == targets).mean())}))


def test_metrics_of_a_classification_cover_test_set_best_epoch_and_time():
    targets = classified().dataset.test.targets
    metrics = final_metrics(answered((targets[0] + 1) % 10, (targets[1] + 1) % 10, targets[2]))
    assert metrics == {
        "test_loss": 0.5,
        "test_accuracy": 358 / 360,
        "test_error_percent": 100 * 2 / 360,
        "best_val_accuracy": 0.7,
        "best_epoch": 2,
        "train_seconds": 1.0,
    }


def test_without_validation_there_is_no_best_epoch():
    history = {key: values for key, values in HISTORY.items() if not key.startswith("val_")}
    metrics = final_metrics(replace(classified(), history=history))
    assert set(metrics) == {"test_loss", "test_accuracy", "test_error_percent", "train_seconds"}


def test_metrics_of_a_single_neuron_are_its_error_weight_and_bias():
    metrics = final_metrics(fitted())
    assert set(metrics) == {"test_loss", "test_mean_absolute_error", "train_seconds", "learned_weight", "learned_bias"}
    assert (metrics["learned_weight"], metrics["learned_bias"], metrics["train_seconds"]) == (0.5, 0.25, 3.0)


def test_another_model_of_the_line_reports_no_weight():
    assert "learned_weight" not in final_metrics(fitted("model=mlp"))


def test_per_class_table_counts_examples_and_errors():
    targets = classified().dataset.test.targets
    first = int(targets[0])
    table = report_tables(answered((first + 1) % 10))["per_class"]
    assert table["class"] == list("0123456789")
    assert table["examples"] == np.bincount(targets, minlength=10).tolist()
    assert table["errors"] == [int(label == first) for label in range(10)]
    examples = table["examples"][first]
    assert table["accuracy"][first] == pytest.approx(1 - 1 / examples, abs=1e-6)
    assert table["error_percent"] == [round(100 / examples, 4) if label == first else 0 for label in range(10)]


def test_table_of_mistakes_begins_with_the_most_confident():
    targets = classified().dataset.test.targets[:3]
    wrong = (targets + 1) % 10
    table = report_tables(answered(wrong[0], targets[1], wrong[2]))["mistakes"]
    assert table == {
        "index": [0, 2],
        "actual": [str(targets[0]), str(targets[2])],
        "predicted": [str(wrong[0]), str(wrong[2])],
        "probability": pytest.approx([0.8, 0.5]),
        "probability_of_actual": pytest.approx([0.001, 0.001]),
    }


def test_table_of_mistakes_has_at_most_a_hundred_rows():
    assert len(report_tables(classified())["mistakes"]["index"]) == 100


def test_a_regression_has_no_tables():
    assert report_tables(fitted()) == {}


def test_predictions_have_a_line_for_each_test_image():
    targets = classified().dataset.test.targets
    rows = list(csv.DictReader(io.StringIO(predictions_csv(answered((targets[0] + 1) % 10)))))
    assert len(rows) == 360
    wrong = {"index": "0", "actual": str(targets[0]), "predicted": str((targets[0] + 1) % 10)}
    assert rows[0] == wrong | {"probability": "0.800000"}
    assert rows[359]["actual"] == rows[359]["predicted"] == str(targets[359])


def test_predictions_of_a_regression_are_numbers():
    results = fitted()
    rows = list(csv.DictReader(io.StringIO(predictions_csv(results))))
    assert len(rows) == 1000
    assert float(rows[7]["actual"]) == pytest.approx(results.dataset.test.targets[7, 0])
    assert float(rows[7]["predicted"]) == pytest.approx(results.test.outputs[7, 0])


def test_outputs_are_called_probabilities_only_if_they_are():
    results = classified("training.loss=mean_squared_error", "model.output_activation=linear")
    assert set(report_tables(results)["mistakes"]) >= {"output", "output_of_actual"}
    assert predictions_csv(results).startswith("index,actual,predicted,output\n")
    drawn = report_figures(results)
    assert "05_calibration" not in drawn
    assert "its output" in " ".join(text.get_text() for text in drawn["06_predictions"]().findobj(Text))


FULL = [
    "01_learning_curves",
    "02_confusion_matrix",
    "03_mistakes",
    "04_classes",
    "05_calibration",
    "06_predictions",
    "07_samples",
    "08_flatten",
    "09_network",
    "10_activation",
    "11_first_layer",
]


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ((), FULL),
        (("model=cnn",), FULL),
        (("model=layers",), [name for name in FULL if name != "10_activation"]),
        (("report.figures=light",), FULL[:2]),
        (("report.figures=none",), []),
    ],
)
def test_figures_of_a_classification(overrides, names, tmp_path):
    results = classified(*overrides)
    assert list(report_figures(results)) == names
    write_figures(results, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{name}.png" for name in names]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ((), ["01_learning_curves", "02_regression_fit", "09_network", "10_activation"]),
        (("report.style=dark",), ["01_learning_curves", "02_regression_fit", "09_network", "10_activation"]),
        (("report.figures=light",), ["01_learning_curves", "02_regression_fit"]),
        # Of all units together: no curve to draw.
        (("model=mlp", "model.activation=log_softmax"), ["01_learning_curves", "09_network"]),
        (("report.figures=none",), []),
    ],
)
def test_figures_of_a_regression(overrides, names, tmp_path):
    write_figures(fitted(*overrides), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{name}.png" for name in names]


def test_what_cannot_be_written_is_left_out_with_the_reason(tmp_path):
    failures = write_figures(classified("report.figures=light"), tmp_path / "none")
    assert list(failures) == ["figures/01_learning_curves.png", "figures/02_confusion_matrix.png"]
    assert all(isinstance(error, FileNotFoundError) for error in failures.values())


@pytest.mark.slow
def test_a_report_that_fails_leaves_a_finished_run_that_evaluate_completes(uri: str) -> None:
    small = ["data=digits", "training.epochs=1", "report.figures=light", f"tracking.uri={uri}"]
    done = command(*small, MPLBACKEND="bogus")  # with which Matplotlib cannot be imported
    assert done.returncode == 0, done.stderr
    (run,) = runs(uri)
    missing = "figures/01_learning_curves.png, figures/02_confusion_matrix.png"
    assert (run.info.status, run.data.tags["report_missing"]) == ("FINISHED", missing)
    assert "test_accuracy" in run.data.metrics
    assert "model_digest" in run.data.tags
    lacks, fix = done.stderr.splitlines()
    assert lacks.startswith(f"The report of run {run.info.run_id} lacks {missing}: ValueError: Key backend: 'bogus'")
    assert fix == f"To make that later: python scripts/evaluate.py {run.info.run_id} --uri {uri}"
    assert files(uri, run.info.run_id, "figures") == set()

    done = command(run.info.run_id, "--uri", uri, script="scripts/evaluate.py")
    assert done.returncode == 0, done.stderr
    assert f"The report of run {run.info.run_id} is complete now.\n" in done.stderr
    (run,) = runs(uri)
    assert "report_missing" not in run.data.tags
    assert set(missing.split(", ")) < files(uri, run.info.run_id, "figures")


def test_style_colours_every_figure(tmp_path):
    from matplotlib.image import imread

    for style, corner in (("light", 1.0), ("dark", 0.1)):
        folder = tmp_path / style
        folder.mkdir()
        write_figures(classified(f"report.style={style}"), folder)
        for file in folder.iterdir():
            assert imread(file)[0, 0, :3].max() == pytest.approx(corner, abs=0.05), file.name
