"""Figures of a search: how the best value improved from trial to trial, and which parameters it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.config.metrics import Mode
from experiments.formatting import plural, shorten
from experiments.reports.figures.style import Page, Style, percent_text, text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure


UNRANKED = {"PRUNED": "pruned", "DIVERGED": "diverged", "FAIL": "failed"}  # trials without a value, in words


def search_history(
    metric: str, values: Sequence[float | None], status: Sequence[str], mode: Mode, style: Style = "light"
) -> Figure:
    """Draw the objective of each trial, None if not complete, and the best so far.

    The status of a trial is COMPLETE, PRUNED, DIVERGED, FAIL or RUNNING.
    """
    counts = {word: list(status).count(state) for state, word in UNRANKED.items()}
    facts = [plural(len(values), "trial"), *(f"{number:,} {name}" for name, number in counts.items() if number)]
    page = Page(style, 4.4, f"{metric} of each trial", ", ".join(facts))
    palette = page.palette
    axes = page.add_axes(0.95, 0.6, 3.6, grid="y")
    y = np.array([np.nan if value is None else value for value in values], dtype=float)
    x, complete = np.arange(len(y)), np.isfinite(y)
    if complete.any():
        best = (np.fmax if mode == "max" else np.fmin).accumulate(y)
        axes.step(x, best, where="post", color=palette.green, linewidth=1.8, label="best so far")
        axes.plot(x[complete], y[complete], "o", color=palette.blue, markersize=5, label="complete")
    # These trials have no comparable value, so they are marked on the axis.
    looks = (("|", palette.muted), ("^", palette.orange), ("x", palette.orange))
    for (state, label), (marker, colour) in zip(UNRANKED.items(), looks, strict=True):
        if at := [number for number, of_trial in enumerate(status) if of_trial == state]:
            transform = axes.get_xaxis_transform()
            axes.plot(at, [0.02] * len(at), marker, color=colour, label=label, transform=transform, markersize=7)
    axes.set(xlabel="trial", ylabel=metric)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlim(-0.5, max(len(y) - 0.5, 0.5))
    page.add_legend(axes, loc="best")
    return page.figure


def parameter_importances(metric: str, shares: Mapping[str, float], trials: int, style: Style = "light") -> Figure:
    """Draw how much the objective depends on each parameter, the most important on top.

    The shares (PED-ANOVA, Watanabe et al. 2023, over this number of complete trials) sum to 1.
    """
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    names = [shorten(name, 40) for name, _ in ranked]
    height = max(1.0, 0.36 * len(ranked))
    subtitle = f"PED-ANOVA over {plural(trials, 'complete trial')}; with few trials the shares are rough"
    page = Page(style, height + 0.8, f"What {metric} depends on", subtitle)
    axes = page.add_axes(0.4 + text_width(names, 10), 0.6, height, grid="x")
    bars = axes.barh(range(len(ranked)), [share for _, share in ranked], color=page.palette.blue, height=0.6)
    labels = [percent_text(share, 0) for _, share in ranked]
    axes.bar_label(bars, labels, padding=4, color=page.palette.text, fontsize=10)
    axes.set(xlim=(0, 1.08), ylim=(len(ranked) - 0.5, -0.5), xlabel="share of the importance")
    axes.set_yticks(range(len(ranked)), names)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter("{x:.0%}")
    return page.figure
