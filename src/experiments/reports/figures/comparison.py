"""Figures that compare runs: a metric over one parameter or two, and for each run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from experiments.formatting import shorten
from experiments.reports.figures.style import (
    MARGIN,
    PAGE_WIDTH,
    PALETTES,
    Style,
    add_axes,
    add_legend,
    by_number,
    literal_text,
    new_page,
    readable_colour,
    text_width,
    value_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MOST_LINES = 6  # that colour and dashes can tell apart
MOST_RANKED = 40  # runs in one figure


def over_parameter(
    metric: str,
    parameter: str,
    x: Sequence[float | str],
    mean: Sequence[float],
    std: Sequence[float],
    lines: Sequence[float | str] | None = None,
    lines_title: str = "",
    subtitle: str = "",
) -> Figure:
    """A metric over a parameter: a point for each run or group with its spread, and a line through the means at each
    value of the parameter.

    Args:
        x, mean, std: [n] the parameter, the metric and its standard deviation (0 for none).
        lines: [n] which line the point belongs to, of at most `LINES`; None for one line.
        lines_title: the parameter that tells the lines apart.
    """
    palette = PALETTES["light"]
    title = f"{metric} over {parameter}" + (f", for each {lines_title}" if lines_title else "")
    figure = new_page(palette, 4.4, literal_text(title), subtitle)
    axes = add_axes(figure, palette, 0.95, 0.6, PAGE_WIDTH - 0.95 - MARGIN, 3.6, grid="y")
    places, means, spreads = (np.asarray(values, dtype=float) for values in (x, mean, std))
    names = np.asarray([""] * len(x) if lines is None else [value_text(line) for line in lines])
    colours = (palette.blue, palette.orange, palette.green)
    for number, name in enumerate(sorted(set(names), key=by_number)):
        here = names == name
        colour = colours[number % 3]
        at = np.unique(places[here])
        line = [means[here & (places == place)].mean() for place in at]
        dashes: dict[str, Any] = {"dashes": (4, 1.5)} if number >= 3 else {}
        axes.plot(at, line, color=colour, linewidth=2, label=literal_text(shorten(name, 30)), **dashes)
        axes.errorbar(places[here], means[here], spreads[here], color=colour, fmt="o", markersize=5, capsize=3)
    if lines is not None:
        add_legend(axes, palette)
    _number_axis(axes, places)
    axes.set(xlabel=literal_text(parameter), ylabel=literal_text(metric))
    return figure


def heat_map(
    metric: str,
    x_parameter: str,
    x: Sequence[float | str],
    y_parameter: str,
    y: Sequence[float | str],
    mean: Sequence[float],
    mode: Literal["min", "max"],
    subtitle: str = "",
    style: Style = "light",
) -> Figure:
    """A metric over two parameters as a grid of colours with the numbers in it; the best has a frame. Several runs in
    one cell are averaged, and a cell without runs is empty.

    Args:
        x, y, mean: [n] the parameters and the metric.
        mode: which end of the metric is best, and has the strongest colour.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    palette = PALETTES[style]
    columns, rows = sorted(set(x), key=by_number), sorted(set(y), key=by_number)
    values = np.full((len(rows), len(columns)), np.nan)
    at = np.array([(rows.index(b), columns.index(a)) for a, b in zip(x, y, strict=True)])
    for row, column in {tuple(place) for place in at.tolist()}:
        values[row, column] = np.mean(np.asarray(mean)[(at == (row, column)).all(axis=1)])
    height = max(2.0, 0.42 * len(rows))
    labels = [[literal_text(shorten(value_text(value), 20)) for value in side] for side in (columns, rows)]
    left = 0.75 + text_width(labels[1], 10)
    figure = new_page(
        palette,
        height + 0.9,
        f"{literal_text(metric)} over {literal_text(x_parameter)} and {literal_text(y_parameter)}",
        subtitle,
    )
    axes = add_axes(figure, palette, left, 0.65, PAGE_WIDTH - left - MARGIN, height)
    colours = LinearSegmentedColormap.from_list("metric", [palette.background, palette.blue])
    image = axes.imshow(values, aspect="auto", origin="lower", cmap=colours if mode == "max" else colours.reversed())
    cells = image.to_rgba(values)[..., :3]
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(
                column,
                row,
                f"{value:.4g}",
                color=readable_colour(palette, cells[row, column]),
                fontsize=9 if len(columns) <= 12 else 6,
                ha="center",
                va="center",
            )
    best = np.nanargmax(values) if mode == "max" else np.nanargmin(values)
    row, column = np.unravel_index(best, values.shape)
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=palette.orange, linewidth=2.5))
    axes.set_xticks(range(len(columns)), labels[0], rotation=45 if len(columns) > 10 else 0)
    axes.set_yticks(range(len(rows)), labels[1])
    axes.set(xlabel=literal_text(x_parameter), ylabel=literal_text(y_parameter))
    return figure


def ranking(
    metric: str,
    labels: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    subtitle: str = "",
    style: Style = "light",
) -> Figure:
    """A metric for each run or group, the first on top; the first `RANKED` of them.

    Args:
        labels, mean, std: [n] names, the metric and its standard deviation (0 for none).
    """
    palette = PALETTES[style]
    shown = min(len(labels), MOST_RANKED)
    if shown < len(labels):
        subtitle = f"the best {shown} of {subtitle}"
    names = [literal_text(shorten(label, 44)) for label in labels[:shown]]
    height = max(1.2, 0.24 * shown)
    left = 0.4 + text_width(names, 9)
    figure = new_page(palette, height + 0.8, literal_text(metric), subtitle)
    axes = add_axes(figure, palette, left, 0.6, PAGE_WIDTH - left - MARGIN, height, grid="both")
    places = np.arange(shown)
    axes.errorbar(
        list(mean)[:shown], places, xerr=list(std)[:shown], fmt="o", color=palette.blue, markersize=5, capsize=3
    )
    axes.set_yticks(places, names, fontsize=9)
    axes.set_ylim(shown - 0.5, -0.5)
    axes.set_xlabel(literal_text(metric))
    axes.locator_params(axis="x", nbins=6)
    return figure


def _number_axis(axes: Axes, x: np.ndarray) -> None:
    """Logarithmic where the values span orders of magnitude, with the values themselves as ticks if they are few."""
    places = np.unique(x)
    logarithmic = places[0] > 0 and places[-1] / places[0] >= 20
    if logarithmic:
        axes.set_xscale("log")
        axes.minorticks_off()
    if len(places) <= 8:
        axes.set_xticks(places)
    axes.xaxis.set_major_formatter("{x:g}")
