"""Figures of how training went: the curves over the epochs, and the line that a single neuron found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config.metrics import all_metrics, metric_names
from experiments.formatting import plural
from experiments.reports.figures.style import MARGIN, PAGE_WIDTH, Page, Palette, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 3  # side by side
ROW_HEIGHT = 3.5  # of panels, in inches


def learning_curves(history: Mapping[str, Sequence[float]], style: Style = "light") -> Figure:
    """Draw the metrics over the epochs, and the learning rate if it varies; NaN leaves a gap.

    The best epoch, the first with the highest `val_accuracy` (without it, the lowest `val_mean_absolute_error` or
    `val_loss`), is marked, if there is validation.
    """
    from matplotlib.ticker import PercentFormatter

    known = set(history) & set(metric_names("", "val_"))
    logged = [metric for metric in all_metrics() if {metric.name, f"val_{metric.name}"} & known]
    metrics = sorted(logged, key=lambda metric: metric.name != "loss")
    epochs = len(history["loss"])
    rates = history.get("learning_rate", ())
    varies = len(set(rates)) > 1
    best, result = _best_epoch(history)

    rate_height = 1.8 if varies else 0.0
    rows, columns = -(-len(metrics) // MOST_PANELS), min(len(metrics), MOST_PANELS)
    body = 3.85 + ROW_HEIGHT * (rows - 1) + rate_height
    page = Page(style, body, f"Learning curves over {plural(epochs, 'epoch')}", result)
    palette = page.palette
    left, between = 0.8, 0.95
    width = (PAGE_WIDTH - left - MARGIN - between * (columns - 1)) / columns
    for position, metric in enumerate(metrics):
        name = metric.name
        row, column = divmod(position, MOST_PANELS)
        bottom = 0.6 + rate_height + ROW_HEIGHT * (rows - 1 - row)
        place = (left + column * (width + between), bottom, 2.65, width)
        axes = page.add_axes(*place, title=metric.title, grid="y")
        _epoch_axis(axes, epochs)
        if name in history:
            _curve(axes, history[name], "training", color=palette.blue)
        if f"val_{name}" in history:
            _curve(axes, history[f"val_{name}"], "validation", color=palette.orange, dashes=(4, 1.5))
            if best is not None:
                _mark_best(axes, palette, best, history[f"val_{name}"][best])
        if metric.whole:
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=metric.whole))
    # One legend above the panels, as inside them it would hide points.
    size = page.figure.get_size_inches()
    handles, labels = page.figure.axes[0].get_legend_handles_labels()
    anchor = ((left - 0.1) / size[0], (body + 0.08) / size[1])
    options: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": anchor, "ncols": 3, "frameon": False}
    page.add_legend(page.figure, handles=handles, labels=labels, **options)
    if varies:
        axes = page.add_axes(left, 0.6, 0.95, title="Learning rate", grid="y")
        _epoch_axis(axes, epochs)
        _curve(axes, rates, "learning rate", color=palette.green)
        if min(rates) > 0 and max(rates) / min(rates) > 20:
            axes.set_yscale("log")
            axes.minorticks_off()
        else:
            axes.set_ylim(0, 1.1 * max(rates))
        axes.yaxis.set_major_formatter("{x:g}")
    return page.figure


def regression_fit(
    points: np.ndarray, before: np.ndarray, after: np.ndarray, slope: float, learned: np.ndarray, style: Style = "light"
) -> Figure:
    """Draw the examples of a regression with one input, and the predictions before and after training.

    Args:
        points: Inputs and targets, [2, n].
        before, after: Predictions at the inputs, of the untrained and the trained model, [n] or [n, 1].
        slope: Of the line y = slope * x from which the targets were drawn, noise aside.
        learned: Weight and bias, [2].
    """
    (x, y), (weight, bias) = points, learned
    before, after = np.ravel(before), np.ravel(after)
    order = np.argsort(x)
    title = f"Single neuron: y = {weight:.4g} x {'−' if bias < 0 else '+'} {abs(bias):.4g} after training"
    page = Page(style, 4.6, title, f"{plural(len(x), 'example')} drawn around y = {slope:g} x")
    palette = page.palette
    axes = page.add_axes(0.9, 0.6, 3.9, grid="both")
    axes.plot(x, y, "o", color=palette.muted, markersize=4, alpha=0.55, markeredgewidth=0, label="examples")
    axes.plot(x[order], before[order], color=palette.orange, dashes=(4, 1.5), label="prediction before training")
    axes.plot(x[order], after[order], color=palette.blue, linewidth=2.5, label="prediction after training")
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, slope * ends, color=palette.text, dashes=(1, 2), label=f"without noise: y = {slope:g} x")
    axes.set(xlabel="x", ylabel="y")
    page.add_legend(axes)
    return page.figure


def _best_epoch(history: Mapping[str, Sequence[float]]) -> tuple[int | None, str]:
    """Return the index of the best epoch by validation, None without a finite validation metric, and a subtitle."""
    validated = [metric for metric in all_metrics() if "val_" in metric.prefixes]
    for metric in sorted(validated, key=lambda metric: "best_val_" not in metric.prefixes):
        values = np.asarray(history.get(f"val_{metric.name}", ()), dtype=float)
        if np.isfinite(values).any():
            best = int((np.nanargmax if metric.direction == "max" else np.nanargmin)(values))
            shown = f"{metric.title.lower()} {metric.shown.format(values[best])}"
            return best, f"best epoch {best + 1}: validation {shown}"
    return None, f"no validation; training loss {history['loss'][-1]:.4g} in the last epoch"


def _epoch_axis(axes: Axes, epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlim(0.5, epochs + 0.5)  # no room for a tick at 0, which is not an epoch


def _curve(axes: Axes, values: Sequence[float], label: str, **options: Any) -> None:
    # With few points each has a marker: one epoch has no line at all.
    marker = "o" if len(values) <= 30 else None
    axes.plot(range(1, len(values) + 1), values, label=label, marker=marker, markersize=4, linewidth=1.8, **options)


def _mark_best(axes: Axes, palette: Palette, best: int, value: float) -> None:
    axes.axvline(best + 1, color=palette.muted, linewidth=1, dashes=(1, 2))
    options: dict[str, Any] = {"markersize": 10, "markerfacecolor": "none", "markeredgecolor": palette.text}
    axes.plot([best + 1], [value], "o", label=f"best epoch: {best + 1}", **options)
