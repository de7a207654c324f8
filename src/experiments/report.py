"""What a run shows when it ends: metrics, figures, tables and predictions, from the model's outputs on the test set."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import figures
from experiments.config import Config, Linear
from experiments.data import Dataset
from experiments.training import Evaluation

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

MOST_MISTAKES = 100  # rows of the table of mistakes, the most confident first


@dataclass(frozen=True)
class Results:
    """All that a report is drawn from.

    Attributes:
        model: trained.
        history: metric -> one value per epoch.
        untrained: outputs for the training inputs before training, [n, 1]; regression only.
        test: the trained model on the whole official test split.
    """

    config: Config
    dataset: Dataset
    model: "keras.Model"
    history: Mapping[str, Sequence[float]]
    untrained: np.ndarray | None
    test: Evaluation

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each test example, int [n]."""
        return self.test.outputs.argmax(1)


def final_metrics(results: Results) -> dict[str, float]:
    """The metrics of the whole run: on the test set, of the best epoch, and what it cost."""
    metrics = {f"test_{name}": value for name, value in results.test.metrics.items()}
    if "test_accuracy" in metrics:
        wrong = np.count_nonzero(results.predicted != results.dataset.test.targets)
        metrics["test_error_percent"] = 100 * wrong / len(results.dataset.test.targets)
    history = results.history
    for name, better in (("val_accuracy", np.argmax), ("val_mean_absolute_error", np.argmin)):
        if name in history:
            best = int(better(history[name]))
            metrics |= {f"best_{name}": history[name][best], "best_epoch": best + 1}
    metrics["train_seconds"] = sum(history["epoch_seconds"])
    if results.untrained is not None and results.config.model.name == "neuron":
        weight, bias = (float(np.ravel(value)[0]) for value in results.model.get_weights())
        metrics |= {"learned_weight": weight, "learned_bias": bias}
    return metrics


def write_figures(results: Results, folder: Path) -> None:
    """Draw the figures that `report.figures` asks for, each as a PNG in `folder`."""
    for name, figure in _figures(results):
        figures.save(figure, folder / f"{name}.png")


def _figures(results: Results) -> Iterator[tuple[str, "Figure"]]:
    config, data, style = results.config, results.dataset, results.config.report.style
    if config.report.figures == "none":
        return
    classification = not isinstance(config.data, Linear)
    test, outputs, names = data.test, results.test.outputs, data.class_names
    yield "learning_curves", figures.learning_curves(results.history, style)
    if classification:
        yield "confusion_matrix", figures.confusion_matrix(test.targets, results.predicted, names, style)
    if config.report.figures == "light":
        return
    yield "network", figures.network_diagram(_boxes(results.model), style)
    if (activation := getattr(config.model, "activation", None)) and activation not in ("softmax", "glu"):
        yield "activation", figures.activation_functions(activation, _function(activation), style)
    if results.untrained is not None:
        metrics = final_metrics(results)
        if "learned_weight" in metrics and isinstance(config.data, Linear):
            after = results.model(data.train.inputs).numpy()
            facts = {"weight": metrics["learned_weight"], "bias": metrics["learned_bias"], "slope": config.data.slope}
            fit = figures.regression_fit(
                data.train.inputs, data.train.targets, results.untrained, after, **facts, style=style
            )
            yield "regression_fit", fit
    if not classification:
        return
    yield "predictions", figures.predictions_grid(test.inputs, test.targets, outputs, names, style)
    yield "samples", figures.samples_grid(data.train.inputs, data.train.targets, names, style)
    yield "mistakes", figures.worst_mistakes(test.inputs, test.targets, outputs, names, style)
    yield "classes", figures.per_class_accuracy(test.targets, results.predicted, names, style)
    yield "calibration", figures.calibration(test.targets, outputs, style)
    yield "flatten", figures.flatten(data.train.inputs[0], names[data.train.targets[0]], style)
    weights = _first_weights(results.model)
    if weights is not None and (weights.ndim == 4 or len(weights) == np.prod(config.data.shape)):
        yield "first_layer", figures.first_layer_weights(weights, tuple(config.data.shape), style)


def _boxes(model: "keras.Model") -> list[figures.LayerBox]:
    return [
        figures.LayerBox(
            layer.name, type(layer).__name__, tuple(layer.output.shape[1:]), layer.count_params(), _note(layer)
        )
        for layer in model.layers
    ]


def _note(layer: "keras.Layer") -> str:
    """What matters about a layer beside its shape."""
    if hasattr(layer, "rate"):
        return f"rate {layer.rate:g}"
    if getattr(layer, "activation", None) is not None:
        return str(layer.activation.__name__)
    return f"× {layer.scale:.4g}" if hasattr(layer, "scale") and isinstance(layer.scale, float) else ""


def _function(activation: str) -> Any:
    import keras

    return lambda x: np.asarray(getattr(keras.activations, activation)(x.astype(np.float32)))


def _first_weights(model: "keras.Model") -> np.ndarray | None:
    for layer in model.layers:
        if layer.weights:
            kernel = getattr(layer, "kernel", None)
            return None if kernel is None or len(kernel.shape) not in (2, 4) else kernel.numpy()
    return None


def tables(results: Results) -> dict[str, dict[str, list[Any]]]:
    """Tables by name, as columns: accuracy per class, and the most confident mistakes."""
    if isinstance(results.config.data, Linear):
        return {}
    labels, predicted, names = results.dataset.test.targets, results.predicted, results.dataset.class_names
    examples = np.bincount(labels, minlength=len(names))
    errors = np.bincount(labels[labels != predicted], minlength=len(names))
    share = errors / np.maximum(examples, 1)
    per_class = {
        "class": list(names),
        "examples": examples.tolist(),
        "errors": errors.tolist(),
        "accuracy": (1 - share).round(6).tolist(),
        "error_percent": (100 * share).round(4).tolist(),
    }
    probability = results.test.outputs.max(1)
    wrong = np.flatnonzero(labels != predicted)
    wrong = wrong[np.argsort(-probability[wrong], kind="stable")][:MOST_MISTAKES]
    mistakes = {
        "index": wrong.tolist(),
        "actual": [names[label] for label in labels[wrong]],
        "predicted": [names[label] for label in predicted[wrong]],
        "probability": probability[wrong].astype(float).round(6).tolist(),
        "probability_of_actual": results.test.outputs[wrong, labels[wrong]].astype(float).round(6).tolist(),
    }
    return {"per_class": per_class, "mistakes": mistakes}


def predictions(results: Results) -> str:
    """Every test example's prediction as CSV, in the order of the official test set."""
    import pandas as pd

    targets, outputs = results.dataset.test.targets, results.test.outputs
    if isinstance(results.config.data, Linear):
        columns = {"actual": targets.ravel(), "predicted": outputs.ravel()}
        return pd.DataFrame(columns).rename_axis("index").to_csv(float_format="%.7g")
    names = np.array(results.dataset.class_names)
    columns = {"actual": names[targets], "predicted": names[results.predicted], "probability": outputs.max(1)}
    return pd.DataFrame(columns).rename_axis("index").to_csv(float_format="%.6f")
