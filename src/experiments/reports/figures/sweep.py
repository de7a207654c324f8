"""Figures of a sweep: what each parameter does to the objective, and all settings as lines through their values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from experiments.formatting import shorten
from experiments.reports.figures.style import (
    MARGIN,
    PAGE_WIDTH,
    PALETTES,
    FigureValue,
    Style,
    add_axes,
    by_number,
    literal_text,
    new_page,
    text_width,
    value_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from experiments.reports.figures.style import Palette


DECADES = 20  # an axis whose values span at least this factor is logarithmic
LONGEST_TICK = 6  # characters; a number with more is rounded
MOST_TICKS = 8  # values of a parameter that are each given a tick; the means of more are taken in bins
MEAN_BINS = 6  # at most, of at least four runs each
FEW = 8  # runs, too few to call one an exception
MISSING = -0.12  # where runs without the parameter stand on its axis, which goes from 0 to 1
APART = 0.09  # on that axis, between the labels of two ticks


@dataclass(frozen=True)
class Scale:
    """Where the values of a parameter stand on an axis from 0 to 1: numbers in proportion, or by their logarithm,
    names at equal distances, and runs without a value below all others."""

    places: np.ndarray  # [n]
    ticks: list[tuple[float, str]]
    note: str = ""  # "logarithmic", or nothing
    ordered: bool = True  # whether what lies between two values means something

    @classmethod
    def of(cls, values: Sequence[FigureValue]) -> Scale:
        numbers = np.array([v if isinstance(v, float | int) else math.nan for v in values], dtype=float)
        if any(isinstance(value, str) for value in values):
            names = sorted({value_text(value) for value in values}, key=by_number)
            step = 1 / max(1, len(names) - 1)
            where = {name: i * step if len(names) > 1 else 0.5 for i, name in enumerate(names)}
            ticks = [(place, name) for name, place in where.items()]
            return cls(np.array([where[value_text(value)] for value in values]), ticks, ordered=False)
        known = np.unique(numbers[np.isfinite(numbers)])
        logarithmic = len(known) > 0 and known[0] > 0 and known[-1] / known[0] >= DECADES
        low, high = (known[0], known[-1]) if len(known) else (0.0, 1.0)

        def place(x: np.ndarray) -> np.ndarray:
            if low == high:
                return np.full(np.shape(x), 0.5)
            if logarithmic:
                return np.asarray(np.log(x / low) / np.log(high / low))
            return np.asarray((x - low) / (high - low))

        marks, labels = known, [_rounded(mark) for mark in known]
        if (
            len(set(labels)) < len(labels)
            or len(labels) > MOST_TICKS
            or max(map(len, labels), default=0) > LONGEST_TICK
        ):
            marks = _round_numbers(low, high, logarithmic)
            labels = [f"{mark:g}" for mark in marks]
        ticks = [(float(p), label) for p, label in zip(place(marks), labels, strict=True)]
        missing = np.isnan(numbers)
        if missing.any():
            ticks.insert(0, (MISSING, "none"))
        return cls(np.where(missing, MISSING, place(numbers)), ticks, "logarithmic" if logarithmic else "")


def parameter_effects(
    metric: str,
    parameters: Mapping[str, Sequence[FigureValue]],
    values: Sequence[float],
    mode: Literal["min", "max"],
    subtitle: str = "",
    style: Style = "light",
) -> Figure:
    """A panel for each parameter: the metric of each run over its value, and a line through the means there.

    A run that is far worse than the others (a diverged one) would press them into a line: beyond Tukey's outer fence,
    three interquartile ranges from the quartile, it is drawn as a triangle at the edge, counted, and in no mean.

    Args:
        parameters: name -> [n] values.
        values: [n] the metric of the runs.
        mode: which end of the metric is best.
    """
    palette = PALETTES[style]
    y = np.asarray(values, dtype=float)
    low, high, beyond = _value_range(y, mode)
    inside = ~beyond
    columns = 1 if len(parameters) == 1 else 2
    rows = math.ceil(len(parameters) / columns)
    left, gap, below = 0.95, 0.35, 0.85
    width = (PAGE_WIDTH - left - MARGIN - (columns - 1) * gap) / columns
    height = 3.4 if columns == 1 else 2.3
    what = "each parameter" if len(parameters) > 1 else shorten(next(iter(parameters)), 40)
    figure = new_page(palette, rows * (height + below), literal_text(f"Effect of {what} on {metric}"), subtitle)
    for number, (name, given) in enumerate(parameters.items()):
        row, column = divmod(number, columns)
        bottom = (rows - 1 - row) * (height + below) + below - 0.1
        axes = add_axes(figure, palette, left + column * (width + gap), bottom, width, height, grid="y")
        scale = Scale.of(given)
        joined = scale.ordered & (scale.places >= 0)
        for part in (inside & joined, inside & ~joined):
            if not part.any():
                continue
            lone = len(np.unique(scale.places[part])) == part.sum() <= MOST_TICKS
            if lone and (len(parameters) > 1 or not part[joined].any()):
                continue  # a run for each value says nothing of one parameter of several; names are not joined
            at, means = _bin_means(scale.places[part], y[part])
            if part[joined].any():
                axes.plot(at, means, color=palette.orange, linewidth=2, zorder=2)
            else:
                axes.hlines(means, at - 0.04, at + 0.04, color=palette.orange, linewidth=2.5, zorder=2)
        axes.plot(
            scale.places[inside], y[inside], "o", color=palette.blue, markersize=5, alpha=_opacity(len(y)), zorder=3
        )
        if beyond.any():
            edge, marker = (low, "v") if mode == "max" else (high, "^")
            at = scale.places[beyond]
            axes.plot(at, np.full(len(at), edge), marker, color=palette.blue, markersize=6, clip_on=False, zorder=4)
        axes.set_ylim(low, high)
        _ticks_below(axes, scale, width)
        axes.set_xlabel(literal_text(_titled(name, scale, width)))
        axes.locator_params(axis="y", nbins=6)
        if column == 0:
            axes.set_ylabel(literal_text(metric))
        else:
            axes.tick_params(labelleft=False)
    _count_beyond(figure, palette, int(beyond.sum()), mode, ", and in no mean")
    return figure


def parallel_coordinates(
    metric: str,
    parameters: Mapping[str, Sequence[FigureValue]],
    values: Sequence[float],
    mode: Literal["min", "max"],
    subtitle: str = "",
    style: Style = "light",
) -> Figure:
    """Each setting as a line through its values on an axis for each parameter, to its metric on the last one. The
    better, the darker; the best is orange, and better lines lie above worse ones.

    Args:
        parameters: name -> [n] values.
        values: [n] the metric of the settings.
        mode: which end of the metric is best.
    """
    from matplotlib.colors import LinearSegmentedColormap

    palette = PALETTES[style]
    y = np.asarray(values, dtype=float)
    low, high, beyond = _value_range(y, mode)
    scales = {name: Scale.of(given) for name, given in parameters.items()}
    names = [*parameters, metric]
    longest = [[shorten(label, 14) for _, label in scale.ticks] for scale in scales.values()]
    left = 0.35 + text_width(longest[0], 9)
    figure = new_page(palette, 4.65, f"All settings, to their {literal_text(metric)}", subtitle)
    axes = add_axes(figure, palette, left, 1.0, PAGE_WIDTH - left - 0.95, 3.5)
    axes.set_axis_off()
    axes.set_xlim(0, len(names) - 1)
    any_missing = any((scale.places < 0).any() for scale in scales.values())
    axes.set_ylim(MISSING - 0.03 if any_missing else -0.02, 1.02)
    shade = LinearSegmentedColormap.from_list("metric", [palette.faint, palette.blue])
    goodness = (np.clip(y, low, high) - low) / (high - low)
    ends = goodness.copy()
    if mode == "min":
        goodness = 1 - goodness
    paths = np.column_stack([*(scale.places for scale in scales.values()), ends])
    order = np.argsort(goodness[::-1], kind="stable")
    order = len(order) - 1 - order  # of equals the first is the best, as in the table
    for rank, i in enumerate(order, start=1):
        is_best = rank == len(order)
        colour = palette.orange if is_best else shade(goodness[i])
        axes.plot(
            range(len(names)), paths[i], color=colour, linewidth=2.5 if is_best else 1.4, alpha=1 if is_best else 0.85
        )
    measured = [(float((mark - low) / (high - low)), f"{mark:g}") for mark in _round_numbers(low, high, False)]
    columns = [*(scale.ticks for scale in scales.values()), measured]
    for x, (name, ticks) in enumerate(zip(names, columns, strict=True)):
        axes.plot([x, x], [0, 1], color=palette.muted, linewidth=1, zorder=5, clip_on=False)
        last = x == len(names) - 1
        for place, label in _apart(ticks, 0.05):
            box = {"facecolor": palette.background, "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
            axes.text(
                x + 0.02 * (len(names) - 1) * (1 if last else -1) / 2,
                place,
                literal_text(shorten(label, 14)),
                color=palette.text,
                fontsize=9,
                ha="left" if last else "right",
                va="center",
                zorder=6,
                bbox=box,
            )
        width = (PAGE_WIDTH - left - 0.95) / max(1, len(names) - 1)
        staggered = len(names) > 5  # every second name stands lower, and has twice the room
        note = "" if last or not scales[name].note else "\n(logarithmic)"
        align = "left" if x == 0 else "right" if last else "center"
        offset = -left * 0.8 / width if x == 0 else 0.85 / width if last else 0.0
        axes.text(
            x + offset,
            axes.get_ylim()[0] - 0.04 - (0.11 if staggered and x % 2 else 0),
            literal_text(_fit_text(name, width * (2 if staggered else 1))) + note,
            color=palette.text,
            fontsize=10 if len(names) <= 6 else 9,
            fontweight="bold" if last else "normal",
            ha=align,
            va="top",
        )
    _count_beyond(figure, palette, int(beyond.sum()), mode)
    return figure


def _value_range(y: np.ndarray, mode: Literal["min", "max"]) -> tuple[float, float, np.ndarray]:
    """The least and greatest value to show, with a margin, and which values are too bad to be shown in place."""
    lower, upper = np.quantile(y, (0.25, 0.75))
    reach = 3 * (upper - lower)
    beyond = y < lower - reach if mode == "max" else y > upper + reach
    if len(y) < FEW or reach == 0:
        beyond = np.zeros(len(y), dtype=bool)
    low, high = float(y[~beyond].min()), float(y[~beyond].max())
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin, beyond


def _count_beyond(figure: Figure, palette: Palette, number: int, mode: Literal["min", "max"], more: str = "") -> None:
    """Say how many values lie beyond the axis."""
    if number:
        mark, side = ("▾", "below") if mode == "max" else ("▴", "above")
        text = f"{mark} {number:,} far {side} the axis{more}"
        figure.text(1 - MARGIN / PAGE_WIDTH, 0.01, text, color=palette.muted, fontsize=9, ha="right", va="bottom")


def _bin_means(places: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line through the means: at each place, or in bins of equally many runs where there are many places."""
    at = np.unique(places)
    if len(at) <= MOST_TICKS or len(at) < len(places) / 2:
        return at, np.array([y[places == place].mean() for place in at])
    parts = np.array_split(np.argsort(places, kind="stable"), min(MEAN_BINS, len(y) // 4))
    return np.array([places[part].mean() for part in parts]), np.array([y[part].mean() for part in parts])


def _opacity(points: int) -> float:
    return 0.9 if points <= 30 else 0.6


def _ticks_below(axes: Axes, scale: Scale, width: float) -> None:
    """The ticks of a parameter's axis; labels that have no room side by side are slanted."""
    ticks = _apart(scale.ticks, APART if len(scale.ticks) <= MOST_TICKS else 0.05)
    labels = [shorten(label, 16) for _, label in ticks]
    slanted = len(labels) * (text_width(labels, 10) + 0.1) > width
    axes.set_xticks(
        [place for place, _ in ticks],
        [literal_text(label) for label in labels],
        rotation=25 if slanted else 0,
        ha="right" if slanted else "center",
        fontsize=8 if slanted else 10,
    )
    axes.set_xlim(min(-0.06, scale.places.min() - 0.06), 1.06)


def _apart(ticks: list[tuple[float, str]], distance: float) -> list[tuple[float, str]]:
    """The ticks less those too close to the one before; the last stays."""
    kept: list[tuple[float, str]] = []
    for tick in sorted(ticks):
        if not kept or tick[0] - kept[-1][0] >= distance:
            kept.append(tick)
        elif tick == max(ticks):
            kept[-1] = tick
    return kept


def _round_numbers(low: float, high: float, logarithmic: bool) -> np.ndarray:
    from matplotlib.ticker import LogLocator, MaxNLocator

    locator = LogLocator(subs=(1, 3), numticks=10) if logarithmic else MaxNLocator(6)
    marks = np.asarray(locator.tick_values(low, high))
    return marks[(marks >= low) & (marks <= high)]


def _titled(name: str, scale: Scale, width: float) -> str:
    note = f" ({scale.note})" if scale.note else ""
    return _fit_text(name, width - text_width([note], 10)) + note


def _fit_text(name: str, width: float) -> str:
    """A parameter's name in so many inches: its last part alone where the whole has no room."""
    if text_width([name], 10) > width:
        name = name.rsplit(".", 1)[-1]
    return shorten(name, max(6, int(width / text_width(["x"], 10))))


def _rounded(number: float) -> str:
    text = f"{number:g}"
    return text if len(text) <= LONGEST_TICK else f"{number:.2g}"
