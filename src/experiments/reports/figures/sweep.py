"""Figures of a sweep: the effect of each parameter on the objective, and all settings as lines through their values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config.metrics import Mode
from experiments.formatting import shorten
from experiments.reports.figures.style import MARGIN, PAGE_WIDTH, Page, Style, by_number, text_width, value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Parameters = Mapping[str, Sequence[float | str | None]]  # name -> the value in each run [n], None where it has none

DECADES = 20  # an axis whose values span at least this factor is logarithmic
LONGEST_TICK = 6  # characters; a longer number is rounded
MOST_TICKS = 8  # values of a parameter that each have a tick; with more values, means are taken over bins
MEAN_BINS = 6  # at most, of at least four runs each
FEW = 8  # with fewer runs than this, none is an outlier
MISSING = -0.12  # place of runs without the parameter, on its axis from 0 to 1
APART = 0.09  # on that axis, between the labels of two ticks


@dataclass(frozen=True)
class Scale:
    """The places of values on an axis from 0 to 1: numbers in proportion or by their logarithm, names evenly spaced,
    and runs without a value below all others."""

    places: np.ndarray  # [n]
    ticks: list[tuple[float, str]]
    note: str = ""  # "logarithmic", or nothing
    ordered: bool = True  # whether there is anything between two values

    @classmethod
    def of(cls, values: Sequence[float | str | None]) -> Scale:
        if any(isinstance(value, str) for value in values):
            texts = [value_text(value) for value in values]
            names = sorted(set(texts), key=by_number)
            where = dict(zip(names, np.linspace(0, 1, len(names)) if len(names) > 1 else [0.5], strict=True))
            ticks = [(float(place), name) for name, place in where.items()]
            return cls(np.array([where[text] for text in texts]), ticks, ordered=False)
        numbers = np.array(values, dtype=float)
        missing = np.isnan(numbers)
        known = np.unique(numbers[np.isfinite(numbers)])
        low, high = (known[0], known[-1]) if len(known) else (0.0, 1.0)
        logarithmic = bool(low > 0 and high / low >= DECADES)

        def place(x: np.ndarray) -> np.ndarray:
            if low == high:
                return np.full(np.shape(x), 0.5)
            return np.asarray(np.log(x / low) / np.log(high / low) if logarithmic else (x - low) / (high - low))

        marks, labels = known, [text if len(text := f"{mark:g}") <= LONGEST_TICK else f"{mark:.2g}" for mark in known]
        crowded = len(labels) > MOST_TICKS or max(map(len, labels), default=0) > LONGEST_TICK
        if crowded or len(set(labels)) < len(labels):
            marks = _round_numbers(low, high, logarithmic)
            labels = [f"{mark:g}" for mark in marks]
        ticks = [(MISSING, "none")] if missing.any() else []
        ticks += zip(place(marks).tolist(), labels, strict=True)
        return cls(np.where(missing, MISSING, place(numbers)), ticks, "logarithmic" if logarithmic else "")


def parameter_effects(
    metric: str, parameters: Parameters, values: Sequence[float], mode: Mode, subtitle: str = "", style: Style = "light"
) -> Figure:
    """Draw a panel for each parameter: the metric of each run over its value, and a line through the means.

    A run that is far worse than the others, such as a diverged one, would squeeze them into a line: beyond Tukey's
    outer fence, three interquartile ranges from the quartile, it is a triangle at the edge, and is left out of means.
    The metric's `values` [n] are of the runs, and `mode` says which end of it is best.
    """
    y = np.asarray(values, dtype=float)
    low, high, beyond = _value_range(y, mode)
    columns = 1 if len(parameters) == 1 else 2
    rows = math.ceil(len(parameters) / columns)
    left, gap, below = 0.95, 0.35, 0.85
    width = (PAGE_WIDTH - left - MARGIN - (columns - 1) * gap) / columns
    height = 3.4 if columns == 1 else 2.3
    what = "each parameter" if len(parameters) > 1 else shorten(next(iter(parameters)), 40)
    page = Page(style, rows * (height + below), f"Effect of {what} on {metric}", subtitle)
    palette = page.palette
    for number, (name, given) in enumerate(parameters.items()):
        row, column = divmod(number, columns)
        bottom = (rows - 1 - row) * (height + below) + below - 0.1
        axes = page.add_axes(left + column * (width + gap), bottom, height, width, grid="y")
        scale = Scale.of(given)
        joined = scale.ordered & (scale.places >= 0)
        for part, has_line in ((~beyond & joined, True), (~beyond & ~joined, False)):
            lone = len(np.unique(scale.places[part])) == part.sum() <= MOST_TICKS
            if not part.any() or (lone and (len(parameters) > 1 or not has_line)):
                continue  # where each value has one run, the points already show the means
            at, means = _bin_means(scale.places[part], y[part])
            if has_line:
                axes.plot(at, means, color=palette.orange, linewidth=2, zorder=2)
            else:
                axes.hlines(means, at - 0.04, at + 0.04, color=palette.orange, linewidth=2.5, zorder=2)
        points: dict[str, Any] = {"color": palette.blue, "markersize": 5, "alpha": 0.9 if len(y) <= 30 else 0.6}
        axes.plot(scale.places[~beyond], y[~beyond], "o", zorder=3, **points)
        if beyond.any():
            edge, marker = (low, "v") if mode == "max" else (high, "^")
            at = scale.places[beyond]
            axes.plot(at, np.full(len(at), edge), marker, color=palette.blue, markersize=6, clip_on=False, zorder=4)
        axes.set_ylim(low, high)
        _set_value_ticks(axes, scale, width)
        note = f" ({scale.note})" if scale.note else ""
        axes.set_xlabel(_fit_text(name, width - text_width([note], 10)) + note)
        axes.locator_params(axis="y", nbins=6)
        if column == 0:
            axes.set_ylabel(metric)
        else:
            axes.tick_params(labelleft=False)
    _note_beyond(page, int(beyond.sum()), mode, ", left out of means")
    return page.figure


def parallel_coordinates(
    metric: str, parameters: Parameters, values: Sequence[float], mode: Mode, subtitle: str = "", style: Style = "light"
) -> Figure:
    """Draw each setting as a line from its value of each parameter to its metric.

    Better lines are darker and lie above worse ones; the best is orange.
    Arguments as `parameter_effects`.
    """
    from matplotlib.colors import LinearSegmentedColormap

    y = np.asarray(values, dtype=float)
    low, high, beyond = _value_range(y, mode)
    scales = [Scale.of(given) for given in parameters.values()]
    names = [*parameters, metric]
    last = len(names) - 1
    left, right = 0.35 + text_width([shorten(label, 14) for _, label in scales[0].ticks], 9), 0.95
    page = Page(style, 4.65, f"All settings, to their {metric}", subtitle)
    palette = page.palette
    axes = page.add_canvas(left, 1.0, 3.5, PAGE_WIDTH - left - right)
    bottom = MISSING - 0.03 if any((scale.places < 0).any() for scale in scales) else -0.02
    axes.set(xlim=(0, last), ylim=(bottom, 1.02))
    shade = LinearSegmentedColormap.from_list("metric", [palette.faint, palette.blue])
    ends = (np.clip(y, low, high) - low) / (high - low)
    goodness = 1 - ends if mode == "min" else ends
    paths = np.column_stack([*(scale.places for scale in scales), ends])
    # Of equals the first is drawn last, as the best: the table lists it first.
    *worse, best = (len(y) - 1 - np.argsort(goodness[::-1], kind="stable")).tolist()
    for i in worse:
        axes.plot(range(len(names)), paths[i], color=shade(goodness[i]), linewidth=1.4, alpha=0.85)
    axes.plot(range(len(names)), paths[best], color=palette.orange, linewidth=2.5)

    measured = [(float((mark - low) / (high - low)), f"{mark:g}") for mark in _round_numbers(low, high, False)]
    columns = [*((scale.ticks, scale.note) for scale in scales), (measured, "")]
    width = (PAGE_WIDTH - left - right) / max(1, last)
    staggered = len(names) > 5  # every second name is lower, so that each has twice the room
    box = {"facecolor": palette.background, "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
    for x, (name, (ticks, note)) in enumerate(zip(names, columns, strict=True)):
        axes.plot([x, x], [0, 1], color=palette.muted, linewidth=1, zorder=5, clip_on=False)
        side, align = (1, "left") if x == last else (-1, "right")
        options: dict[str, Any] = {"ha": align, "va": "center", "zorder": 6, "bbox": box}
        for place, label in _spread_out(ticks, 0.05):
            at = x + 0.01 * last * side
            axes.text(at, place, shorten(label, 14), color=palette.text, fontsize=9, **options)
        shift, align = {0: (-0.8 * left, "left"), last: (0.85, "right")}.get(x, (0.0, "center"))
        text = _fit_text(name, width * (2 if staggered else 1)) + (f"\n({note})" if note else "")
        look: dict[str, Any] = {"fontweight": "bold"} if x == last else {}
        look |= {"ha": align, "va": "top", "fontsize": 10 if len(names) <= 6 else 9}
        y_text = bottom - 0.04 - (0.11 if staggered and x % 2 else 0)
        axes.text(x + shift / width, y_text, text, color=palette.text, **look)
    _note_beyond(page, int(beyond.sum()), mode)
    return page.figure


def _value_range(y: np.ndarray, mode: Mode) -> tuple[float, float, np.ndarray]:
    """Return the least and greatest value to show, with a margin, and which values are too bad to be shown in place."""
    lower, upper = np.quantile(y, (0.25, 0.75))
    reach = 3 * (upper - lower)
    beyond = y < lower - reach if mode == "max" else y > upper + reach
    if len(y) < FEW or reach == 0:
        beyond = np.zeros(len(y), dtype=bool)
    low, high = float(y[~beyond].min()), float(y[~beyond].max())
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin, beyond


def _note_beyond(page: Page, number: int, mode: Mode, more: str = "") -> None:
    """Write how many values lie beyond the axis."""
    if number:
        text = f"{'▾' if mode == 'max' else '▴'} {number:,} far {'below' if mode == 'max' else 'above'} the axis{more}"
        options: dict[str, Any] = {"color": page.palette.muted, "fontsize": 9, "ha": "right", "va": "bottom"}
        page.figure.text(1 - MARGIN / PAGE_WIDTH, 0.01, text, **options)


def _bin_means(places: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return places and means there; with many places, over bins of equally many runs."""
    at = np.unique(places)
    if len(at) <= MOST_TICKS or len(at) < len(places) / 2:
        return at, np.array([y[places == place].mean() for place in at])
    parts = np.array_split(np.argsort(places, kind="stable"), min(MEAN_BINS, len(y) // 4))
    return np.array([places[part].mean() for part in parts]), np.array([y[part].mean() for part in parts])


def _set_value_ticks(axes: Axes, scale: Scale, width: float) -> None:
    """Set the ticks of a parameter's axis; labels are slanted if there is no room for them side by side."""
    ticks = _spread_out(scale.ticks, APART if len(scale.ticks) <= MOST_TICKS else 0.05)
    labels = [shorten(label, 16) for _, label in ticks]
    slanted = len(labels) * (text_width(labels, 10) + 0.1) > width
    look: dict[str, Any] = {"rotation": 25, "ha": "right", "fontsize": 8} if slanted else {"fontsize": 10}
    axes.set_xticks([place for place, _ in ticks], labels, **look)
    axes.set_xlim(min(-0.06, scale.places.min() - 0.06), 1.06)


def _spread_out(ticks: list[tuple[float, str]], distance: float) -> list[tuple[float, str]]:
    """Return the ticks without those too close to the one before; the last is always kept."""
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


def _fit_text(name: str, width: float) -> str:
    """Return a parameter's name in the given inches: only its last part if there is no room for all of it."""
    if text_width([name], 10) > width:
        name = name.rsplit(".", 1)[-1]
    return shorten(name, max(6, int(width / text_width(["x"], 10))))
