"""Every figure of a run's report, drawn from plain arrays: each function returns a Matplotlib figure.

Matplotlib is imported when the first figure is drawn, never with this package, and pyplot with its global state not
at all.
"""

from experiments.reports.figures.evaluation import (
    calibration,
    confusion_matrix,
    expected_calibration_error,
    per_class_accuracy,
)
from experiments.reports.figures.images import flatten_figure, predictions_grid, samples_grid, worst_mistakes
from experiments.reports.figures.network import LayerBox, activation_functions, first_layer_weights, network_diagram
from experiments.reports.figures.style import Style, save_figure
from experiments.reports.figures.training import learning_curves, regression_fit

__all__ = [
    "LayerBox",
    "Style",
    "activation_functions",
    "calibration",
    "confusion_matrix",
    "expected_calibration_error",
    "first_layer_weights",
    "flatten_figure",
    "learning_curves",
    "network_diagram",
    "per_class_accuracy",
    "predictions_grid",
    "regression_fit",
    "samples_grid",
    "save_figure",
    "worst_mistakes",
]
