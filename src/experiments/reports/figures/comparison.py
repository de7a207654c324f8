"""Figures that compare runs: a metric over one parameter or two, and for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config.metrics import Mode
from experiments.formatting import shorten
from experiments.reports.figures.style import Page, Style, by_number, text_width, value_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Values = Sequence[float] | Sequence[float | str]  # one for each run or group

MOST_LINES = 6  # that colour and dashes can tell apart
MOST_RANKED = 40  # runs in one figure


def over_parameter(metric: str, parameters: Mapping[str, Values], mean: Values, std: Values, subtitle: str) -> Figure:
    """Draw a metric over a parameter: a point with its spread for each run or group, and a line through the means.

    Args:
        parameters: name -> [n] values, of the axis and, if there are two, of the lines, at most `MOST_LINES` of them.
        mean, std: [n] the metric and its standard deviation (0 for none).
    """
    (parameter, x), *others = parameters.items()
    title = f"{metric} over {parameter}" + "".join(f", for each {name}" for name, _ in others)
    page = Page("light", 4.4, title, subtitle)
    axes = page.add_axes(0.95, 0.6, 3.6, grid="y")
    places, means, spreads = (np.asarray(values, dtype=float) for values in (x, mean, std))
    names = np.asarray([value_text(line) for line in others[0][1]] if others else [""] * len(x))
    colours = (page.palette.blue, page.palette.orange, page.palette.green)
    for number, name in enumerate(sorted(set(names), key=by_number)):
        here = names == name
        colour = colours[number % 3]
        at = np.unique(places[here])
        line = [means[here & (places == place)].mean() for place in at]
        dashes: dict[str, Any] = {"dashes": (4, 1.5)} if number >= 3 else {}
        axes.plot(at, line, color=colour, linewidth=2, label=shorten(name, 30), **dashes)
        axes.errorbar(places[here], means[here], spreads[here], color=colour, fmt="o", markersize=5, capsize=3)
    if others:
        page.add_legend(axes)
    ticks = np.unique(places)
    if ticks[0] > 0 and ticks[-1] / ticks[0] >= 20:
        axes.set_xscale("log")
        axes.minorticks_off()
    if len(ticks) <= 8:
        axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel=parameter, ylabel=metric)
    return page.figure


def heat_map(
    metric: str, parameters: Mapping[str, Values], mean: Values, mode: Mode, subtitle: str = "", style: Style = "light"
) -> Figure:
    """Draw a metric over two parameters as a grid of colours with the numbers in it; the best has a frame.

    Several runs in one cell are averaged, and a cell without runs is empty.

    Args:
        parameters: name -> [n] values, across and upwards.
        mean: [n] the metric.
        mode: which end of the metric is best, and has the strongest colour.
    """
    import pandas as pd
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    (x_parameter, x), (y_parameter, y) = parameters.items()
    cells = pd.Series(list(mean), index=[list(y), list(x)]).groupby(level=[0, 1]).mean().unstack()
    rows, columns = sorted(cells.index, key=by_number), sorted(cells.columns, key=by_number)
    values = cells.loc[rows, columns].to_numpy()
    height = max(2.0, 0.42 * len(rows))
    labels = [[shorten(value_text(value), 20) for value in side] for side in (columns, rows)]
    page = Page(style, height + 0.9, f"{metric} over {x_parameter} and {y_parameter}", subtitle)
    palette = page.palette
    axes = page.add_axes(0.75 + text_width(labels[1], 10), 0.65, height)
    colours = LinearSegmentedColormap.from_list("metric", [palette.background, palette.blue])
    image = axes.imshow(values, aspect="auto", origin="lower", cmap=colours if mode == "max" else colours.reversed())
    shades = image.to_rgba(values)[..., :3]
    size = 9 if len(columns) <= 12 else 6
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = page.readable_colour(shades[row, column])
            axes.text(column, row, f"{value:.4g}", color=colour, fontsize=size, ha="center", va="center")
    best = np.nanargmax(values) if mode == "max" else np.nanargmin(values)
    row, column = np.unravel_index(best, values.shape)
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=palette.orange, linewidth=2.5))
    axes.set_xticks(range(len(columns)), labels[0], rotation=45 if len(columns) > 10 else 0)
    axes.set_yticks(range(len(rows)), labels[1])
    axes.set(xlabel=x_parameter, ylabel=y_parameter)
    return page.figure


def ranking(
    metric: str, labels: Sequence[str], mean: Values, std: Values, subtitle: str = "", style: Style = "light"
) -> Figure:
    """Draw a metric and its standard deviation (0 for none) for the first `MOST_RANKED` runs or groups, the first on
    top; labels, mean and std are [n]."""
    shown = min(len(labels), MOST_RANKED)
    if shown < len(labels):
        subtitle = f"the best {shown} of {subtitle}"
    names = [shorten(label, 44) for label in labels[:shown]]
    height = max(1.2, 0.24 * shown)
    page = Page(style, height + 0.8, metric, subtitle)
    axes = page.add_axes(0.4 + text_width(names, 9), 0.6, height, grid="both")
    options: dict[str, Any] = {"fmt": "o", "color": page.palette.blue, "markersize": 5, "capsize": 3}
    axes.errorbar(list(mean)[:shown], np.arange(shown), xerr=list(std)[:shown], **options)
    axes.set_yticks(range(shown), names, fontsize=9)
    axes.set_ylim(shown - 0.5, -0.5)
    axes.set_xlabel(metric)
    axes.locator_params(axis="x", nbins=6)
    return page.figure
