"""The report of a finished run: metrics, figures, tables and predictions, from the outputs on the test set."""

import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from experiments.config.data_schema import LinearData
from experiments.config.facts import gives_probabilities
from experiments.config.keras_table import LAYER_WIDE_ACTIVATIONS, SCALED_TANH
from experiments.config.metrics import higher_is_better, metric_names
from experiments.config.own_code import call_own
from experiments.config.registry import own_functions
from experiments.config.schema import Config
from experiments.data.datasets import Dataset
from experiments.formatting import printable
from experiments.profiling import profile_table, span, trace_events, trace_page
from experiments.reports.figures import images
from experiments.reports.figures.evaluation import calibration, confusion_matrix, per_class_accuracy
from experiments.reports.figures.network import LayerBox, activation_functions, first_layer_weights, network_diagram
from experiments.reports.figures.style import save_figure
from experiments.reports.figures.training import learning_curves, regression_fit
from experiments.reports.next_commands import next_commands
from experiments.reports.notes import NOTE_TAG, run_note
from experiments.tracking.outages import first_line
from experiments.tracking.run import REPORT_MISSING, TrackedRun, temporary_folder
from experiments.training.evaluation import Evaluation, refuse_not_finite, split_metrics, tell_undefined

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure


FIRST_OWN_FIGURE = 50  # number of the first figure of the user's own
MOST_MISTAKES = 100  # rows of the table of mistakes
IMAGE_FIGURES = ("03_mistakes", "06_predictions", "07_samples", "08_flatten")  # left out for vectors


@dataclass(frozen=True)
class Results:
    """What a report is made from."""

    config: Config
    dataset: Dataset
    model: "keras.Model"  # after training
    history: Mapping[str, Sequence[float]]  # metric -> one value per epoch
    untrained: np.ndarray | None  # outputs for the training inputs before training, [n, 1]; regression only
    test: Evaluation  # of the trained model on the whole official test split
    start: str = ""  # a sentence about the layers that start from model.weights, if not all do

    @property
    def unit(self) -> Literal["probability", "output"]:
        """Return what the outputs for the classes are: only some losses make them probabilities."""
        return "probability" if gives_probabilities(self.config) else "output"

    @property
    def predicted(self) -> np.ndarray:
        """Return the most probable class of each test example, int [n]."""
        return self.test.outputs.argmax(1)


def import_matplotlib_ahead() -> None:
    """Import Matplotlib in the background, on a core that training leaves free."""

    @span("importing Matplotlib")
    def load() -> None:
        with suppress(Exception):  # it is told when the figures are drawn
            import matplotlib.backends.backend_agg
            import matplotlib.figure
            import matplotlib.ticker  # noqa: F401

    threading.Thread(target=load, daemon=True).start()


def final_metrics(results: Results) -> dict[str, float]:
    """Return the metrics on the test set, which must be finite, those of the best epoch, and the training time."""
    metrics = {f"test_{name}": value for name, value in results.test.metrics.items()}
    refuse_not_finite(metrics, "after training")
    chosen = results.config.metrics
    further, undefined = split_metrics(chosen, results.dataset.test.targets, results.test.outputs, "test_")
    tell_undefined(undefined)
    metrics |= further
    metrics |= best_epoch_metrics(results.history)
    metrics["train_seconds"] = sum(results.history["epoch_seconds"])
    if results.untrained is not None and results.config.model.name == "neuron":
        metrics |= zip(("learned_weight", "learned_bias"), _neuron_line(results.model).tolist(), strict=True)
    return metrics


def best_epoch_metrics(history: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the best epoch, from 1 on, and its result, by the validation examples.

    >>> best_epoch_metrics({"loss": [0.5, 0.4, 0.3], "val_accuracy": [0.75, 0.875, 0.875]})
    {'best_val_accuracy': 0.875, 'best_epoch': 2}
    """
    metrics: dict[str, float] = {}
    for name in metric_names("best_val_"):
        values = history.get(name.removeprefix("best_"), [])
        if np.isfinite(values).any():
            epoch = int(np.nanargmax(values) if higher_is_better(name) else np.nanargmin(values))
            metrics[name] = values[epoch]
            metrics.setdefault("best_epoch", epoch + 1)
    return metrics


@contextmanager
def leaving_out(failures: dict[str, Exception], part: str) -> Iterator[None]:
    """Note why a part of a report cannot be made, instead of failing: the training it reports on has succeeded."""
    try:
        yield
    except Exception as error:  # figures and texts are made of data, names and settings of all kinds
        failures[part] = error


def tell_failures(run: TrackedRun, failures: Mapping[str, Exception], fix: str) -> None:
    """Say which parts the report of a run lacks, and why, also in its tag REPORT_MISSING; `fix` makes them later."""
    if not failures:
        return
    reasons: dict[str, list[str]] = {}
    for part, error in failures.items():
        reasons.setdefault(f"{type(error).__name__}: {first_line(error)}", []).append(part)
    for reason, parts in reasons.items():
        print(f"The report of run {run.run_id} lacks {', '.join(parts)}: {reason}", file=sys.stderr)
    print(f"To make that later: {fix}", file=sys.stderr)
    run.set_tags({REPORT_MISSING: ", ".join(failures)})
    run.log_text("\n".join("".join(traceback.format_exception(e)) for e in failures.values()), "error/report.txt")


@span("figures")
def write_figures(results: Results, folder: Path) -> dict[str, Exception]:
    """Draw the figures that `report.figures` asks for, each as a PNG in `folder`; return why some are missing."""
    failures: dict[str, Exception] = {}
    with leaving_out(failures, "figures"):
        for name, draw in report_figures(results).items():
            with span(f"figure {name}"), leaving_out(failures, f"figures/{name}.png"):
                save_figure(draw(), folder / f"{name}.png")
    return failures


def report_figures(results: Results) -> dict[str, Callable[[], "Figure"]]:
    """Return the figures that `report.figures` asks for, by name in reading order, each as a function that draws it.

    A figure has the same number in every run, because MLflow compares artifacts of runs by name.
    """
    config, data = results.config, results.dataset
    if config.report.figures == "none":
        return {}
    style = config.report.style
    test, outputs, names = data.test, results.test.outputs, tuple(map(printable, data.class_names))
    chosen: dict[str, Callable[[], Figure]] = {"01_learning_curves": partial(learning_curves, results.history, style)}
    if isinstance(config.data, LinearData):
        if results.untrained is not None and config.model.name == "neuron":
            chosen["02_regression_fit"] = partial(_draw_regression_fit, results, config.data.slope)
    else:
        judged = images.JudgedImages(test.inputs, test.targets, outputs, names, results.unit)
        chosen |= {
            "02_confusion_matrix": partial(confusion_matrix, test.targets, results.predicted, names, style),
            "03_mistakes": partial(images.worst_mistakes, judged, style),
            "04_classes": partial(per_class_accuracy, test.targets, results.predicted, names, style),
            "05_calibration": partial(calibration, test.targets, outputs, style),
            "06_predictions": partial(images.predictions_grid, judged, style),
            "07_samples": partial(images.samples_grid, data.train.inputs, data.train.targets, names, style),
            "08_flatten": partial(images.flatten_figure, data.train.inputs[0], names[data.train.targets[0]], style),
        }
        if results.unit != "probability":
            del chosen["05_calibration"]
        if len(config.data.shape) == 1:
            chosen = {name: draw for name, draw in chosen.items() if name not in IMAGE_FIGURES}
    chosen["09_network"] = partial(network_diagram, _layer_boxes(results.model), style)
    activation = None if config.model.name in own_functions("model") else getattr(config.model, "activation", None)
    if activation and activation not in LAYER_WIDE_ACTIVATIONS:
        function = _activation_function(activation)
        chosen["10_activation"] = partial(activation_functions, activation, function, style)
    shape = tuple(config.data.shape)
    weights = _first_layer_weights(results.model)
    if len(shape) > 1 and weights is not None and (weights.ndim == 4 or len(weights) == np.prod(shape)):
        chosen["11_first_layer"] = partial(first_layer_weights, weights, shape, style)
    for number, own in enumerate(own_functions("figure").values(), FIRST_OWN_FIGURE):
        chosen[f"{number}_{own.name}"] = partial(call_own, own, results)
    return chosen if config.report.figures == "full" else {name: chosen[name] for name in chosen if name < "03"}


def _draw_regression_fit(results: Results, slope: float) -> "Figure":
    train, after = results.dataset.train, results.model(results.dataset.train.inputs).numpy()
    points = np.stack([train.inputs.ravel(), train.targets.ravel()])
    assert results.untrained is not None
    style = results.config.report.style
    return regression_fit(points, results.untrained, after, slope, _neuron_line(results.model), style)


def _neuron_line(neuron: "keras.Model") -> np.ndarray:
    """Return weight and bias of a single neuron."""
    return np.concatenate([value.ravel() for value in neuron.get_weights()]).astype(float)


def _layer_boxes(model: "keras.Model") -> list[LayerBox]:
    """Return the layers of a model with what matters about each, without its input."""
    import keras

    operations = getattr(model, "operations", model.layers)  # a Sequential has layers only
    makers = {id(tensor): made_by for made_by in operations for tensor in keras.tree.flatten(made_by.output)}

    def layers_before(operation: Any) -> list[str]:
        """Return the names of the layers whose outputs it receives, also by way of operations that are not layers."""
        found = list[str]()
        for tensor in keras.tree.flatten(operation.input):
            maker = makers.get(id(tensor))
            found += [maker.name] if isinstance(maker, keras.Layer) else layers_before(maker) if maker else []
        return found

    return [
        LayerBox(
            layer.name,
            type(layer).__name__,
            tuple(keras.tree.flatten(layer.output)[0].shape[1:]),
            layer.count_params(),
            _layer_note(layer),
            tuple(layers_before(layer)),
        )
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
    ]


def _layer_note(layer: "keras.Layer") -> str:
    """Return what matters about a layer besides its shape."""
    if hasattr(layer, "rate"):
        return f"rate {layer.rate:g}"
    if getattr(layer, "activation", None) is not None:
        return str(layer.activation.__name__)
    return f"× {layer.scale:.4g}" if hasattr(layer, "scale") and isinstance(layer.scale, float) else ""


def _activation_function(activation: str) -> Any:
    import keras

    if activation == SCALED_TANH:
        return lambda x: 1.7159 * np.tanh(2 / 3 * x)
    return lambda x: np.asarray(getattr(keras.activations, activation)(x.astype(np.float32)))


def _first_layer_weights(model: "keras.Model") -> np.ndarray | None:
    first = next((layer for layer in model.layers if layer.weights), None)
    kernel = getattr(first, "kernel", None)
    return None if kernel is None or len(kernel.shape) not in (2, 4) else kernel.numpy()


def report_tables(results: Results) -> dict[str, dict[str, list[Any]]]:
    """Return tables by name, as columns: accuracy per class, and the most confident mistakes, the worst first."""
    if isinstance(results.config.data, LinearData):
        return {}
    labels, predicted, names = results.dataset.test.targets, results.predicted, results.dataset.class_names
    probability = results.test.outputs.max(1)
    wrong = np.flatnonzero(labels != predicted)
    wrong = wrong[np.argsort(-probability[wrong], kind="stable")][:MOST_MISTAKES]
    mistakes = {
        "index": wrong.tolist(),
        "actual": [names[label] for label in labels[wrong]],
        "predicted": [names[label] for label in predicted[wrong]],
        results.unit: probability[wrong].astype(float).round(6).tolist(),
        f"{results.unit}_of_actual": results.test.outputs[wrong, labels[wrong]].astype(float).round(6).tolist(),
    }
    return {"per_class": per_class_table(labels, predicted, names), "mistakes": mistakes}


def per_class_table(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> dict[str, list[Any]]:
    """Return a table with a row for each class, as columns; `labels` and `predicted` are classes, int [n]."""
    examples = np.bincount(labels, minlength=len(names))
    errors = np.bincount(labels[labels != predicted], minlength=len(names))
    share = errors / np.maximum(examples, 1)
    return {
        "class": list(names),
        "examples": examples.tolist(),
        "errors": errors.tolist(),
        "accuracy": (1 - share).round(6).tolist(),
        "error_percent": (100 * share).round(4).tolist(),
    }


@span("predictions")
def predictions_csv(results: Results) -> str:
    """Return the prediction for every test example as CSV, in the order of the official test set."""
    import pandas as pd

    targets, outputs = results.dataset.test.targets, results.test.outputs
    columns, form = {"actual": targets.ravel(), "predicted": outputs.ravel()}, "%.7g"
    if not isinstance(results.config.data, LinearData):
        names, form = np.array(results.dataset.class_names), "%.6f"
        columns = {"actual": names[targets], "predicted": names[results.predicted], results.unit: outputs.max(1)}
    return pd.DataFrame(columns).rename_axis("index").to_csv(float_format=form)


def publish_results(run: TrackedRun, results: Results, metrics: Mapping[str, float], overrides: Sequence[str]) -> None:
    """Log the model of a run that has its final `metrics`, then its report and profile."""
    if results.config.tracking.log_model:
        outputs = np.zeros((1, *results.model.output_shape[1:]), np.float32)
        run.log_model(results.model, results.dataset.test.inputs[:1], outputs)
    publish_report(run, results, metrics, overrides)
    if results.config.report.profile:
        run.log_text(trace_page(), "profile/trace.html")
        run.log_text(trace_events(), "profile/trace.json")
        run.log_table(profile_table(), "tables/profile.json")


def publish_report(
    run: TrackedRun, results: Results, metrics: Mapping[str, float], overrides: Sequence[str]
) -> dict[str, Exception]:
    """Log the figures, tables, predictions and note of a run; return, and tell, why some are missing."""
    tables: dict[str, dict[str, list[Any]]] = {}
    with temporary_folder() as folder:
        failures = write_figures(results, folder)
        run.log_artifacts(folder, "figures")
    with leaving_out(failures, "tables"):
        tables = report_tables(results)
    for name, columns in tables.items():
        run.log_table(columns, f"tables/{name}.json")
    predictions = note = ""
    with leaving_out(failures, "predictions/test.csv"):
        predictions = predictions_csv(results)
    if predictions:
        run.log_text(predictions, "predictions/test.csv")
    with leaving_out(failures, "note"):
        note = run_note(results, metrics, overrides, run.run_id)
    if note:
        run.set_tags({NOTE_TAG: note})
    tell_failures(run, failures, next_commands(results.config, [], run.run_id)["evaluate"])
    return failures
