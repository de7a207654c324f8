"""Figures of a search: how the best value went on from trial to trial, and which parameters it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from experiments.formatting import plural, shorten
from experiments.reports.figures.style import (
    MARGIN,
    PAGE_WIDTH,
    PALETTES,
    Style,
    add_axes,
    add_legend,
    new_page,
    percent_text,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def search_history(
    metric: str,
    values: Sequence[float | None],
    status: Sequence[str],
    mode: Literal["max", "min"],
    style: Style = "light",
) -> Figure:
    """The objective of each trial, and the best up to it.

    Args:
        values: [n] of the objective; None for a trial that was not complete.
        status: [n] COMPLETE, PRUNED, FAIL or RUNNING.
    """
    palette = PALETTES[style]
    counts = {"pruned": list(status).count("PRUNED"), "failed": list(status).count("FAIL")}
    told = [plural(len(values), "trial"), *(f"{number:,} {name}" for name, number in counts.items() if number)]
    figure = new_page(palette, 4.4, f"{metric} of each trial", ", ".join(told))
    axes = add_axes(figure, palette, 0.95, 0.6, PAGE_WIDTH - 0.95 - MARGIN, 3.6, grid="y")
    y = np.array([np.nan if value is None else value for value in values], dtype=float)
    x, complete = np.arange(len(y)), np.isfinite(y)
    if complete.any():
        best = (np.fmax if mode == "max" else np.fmin).accumulate(y)
        axes.step(x, best, where="post", color=palette.green, linewidth=1.8, label="best so far")
        axes.plot(x[complete], y[complete], "o", color=palette.blue, markersize=5, label="complete")
    # These have no value of the same kind, so they stand on the axis.
    marks = (("PRUNED", "pruned", "|", palette.muted), ("FAIL", "failed", "x", palette.orange))
    for word, label, marker, colour in marks:
        if at := [number for number, state in enumerate(status) if state == word]:
            transform = axes.get_xaxis_transform()
            axes.plot(at, [0.02] * len(at), marker, color=colour, label=label, transform=transform, markersize=7)
    axes.set(xlabel="trial", ylabel=metric)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlim(-0.5, max(len(y) - 0.5, 0.5))
    add_legend(axes, palette, loc="best")
    return figure


def parameter_importances(metric: str, shares: Mapping[str, float], trials: int, style: Style = "light") -> Figure:
    """How much the objective depends on each parameter, the most important on top.

    Args:
        shares: parameter -> importance (PED-ANOVA, Watanabe et al. 2023); they sum to 1.
        trials: how many trials were complete.
    """
    palette = PALETTES[style]
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    names = [shorten(name, 40) for name, _ in ranked]
    height = max(1.0, 0.36 * len(ranked))
    left = 0.4 + text_width(names, 10)
    subtitle = f"PED-ANOVA over {plural(trials, 'complete trial')}; with few trials the shares are rough"
    figure = new_page(palette, height + 0.8, f"What {metric} depends on", subtitle)
    axes = add_axes(figure, palette, left, 0.6, PAGE_WIDTH - left - MARGIN, height, grid="x")
    places, ticks = np.arange(len(ranked)), np.linspace(0, 1, 6)
    axes.barh(places, [share for _, share in ranked], color=palette.blue, height=0.6)
    for place, (_, share) in enumerate(ranked):
        axes.text(share + 0.01, place, percent_text(share, 0), color=palette.text, fontsize=10, va="center")
    axes.set_yticks(places, names)
    axes.set_ylim(len(ranked) - 0.5, -0.5)
    axes.set_xlim(0, 1.08)
    axes.set_xticks(ticks, [f"{tick:.0%}" for tick in ticks])
    axes.set_xlabel("share of the importance")
    return figure
