"""What all figures share: the two palettes, the page with its heading, axes placed in inches, and the PNG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Style = Literal["light", "dark"]
FigureValue = float | str | None  # of a parameter; None where a run does not have it

DPI = 110
PAGE_WIDTH = 8.2  # inches: 900 pixels, the width of the pane in which the MLflow UI shows an artifact
MARGIN = 0.3  # inches
HEADING = 0.8  # inches above the body for the title and the line below it


@dataclass(frozen=True)
class Palette:
    """Colours that the common forms of colour blindness keep apart, with enough contrast for text."""

    background: str
    text: str
    muted: str  # secondary text and axes
    faint: str  # grid lines and the outlines of what carries no data
    blue: str
    orange: str  # in every figure about predictions: what is wrong
    green: str


PALETTES: dict[Style, Palette] = {
    "light": Palette("#ffffff", "#1f2328", "#59636e", "#d5dbe1", "#0072b2", "#c04a00", "#007a5a"),
    "dark": Palette("#11171c", "#e8ecf0", "#a3adb8", "#3a444e", "#56b4e9", "#f0a020", "#2fc79b"),
}


def new_page(palette: Palette, body: float, title: str, subtitle: str = "") -> Figure:
    """An empty figure: a heading, and `body` inches below it for axes (see `add_axes`)."""
    from matplotlib.figure import Figure

    height = body + HEADING
    figure = Figure(figsize=(PAGE_WIDTH, height), dpi=DPI, facecolor=palette.background)
    left = MARGIN / PAGE_WIDTH
    figure.text(left, 1 - 0.17 / height, title, color=palette.text, fontsize=13, fontweight="bold", va="top")
    figure.text(left, 1 - 0.46 / height, subtitle, color=palette.muted, fontsize=10, va="top")
    return figure


def add_axes(
    figure: Figure,
    palette: Palette,
    left: float,
    bottom: float,
    width: float,
    height: float,
    *,
    title: str = "",
    grid: Literal["x", "y", "both"] | None = None,
) -> Axes:
    """Axes at a place given in inches from the lower left corner, in the palette's colours.

    Args:
        grid: Which ticks have grid lines, behind the data.
    """
    # Places are given rather than found by tight_layout, which draws everything once more to measure it.
    total_width, total_height = figure.get_size_inches()
    axes = figure.add_axes(
        (left / total_width, bottom / total_height, width / total_width, height / total_height),
        facecolor=palette.background,
    )
    axes.tick_params(colors=palette.muted, labelcolor=palette.text, labelsize=10)
    axes.xaxis.label.set(color=palette.text, fontsize=10)
    axes.yaxis.label.set(color=palette.text, fontsize=10)
    axes.set_title(title, loc="left", color=palette.text, fontsize=11)
    for side, spine in axes.spines.items():
        spine.set_color(palette.muted)
        spine.set_visible(side in ("left", "bottom"))
    if grid:
        axes.grid(axis=grid, color=palette.faint, linewidth=0.8)
        axes.set_axisbelow(True)
    return axes


def add_canvas(
    figure: Figure, palette: Palette, left: float, bottom: float, width: float, height: float, title: str = ""
) -> Axes:
    """Axes without ticks and frame, as `add_axes`, for images and drawings."""
    axes = add_axes(figure, palette, left, bottom, width, height, title=title)
    axes.set_axis_off()
    return axes


def add_legend(owner: Axes | Figure, palette: Palette, **options: Any) -> None:
    """The legend of axes or of a figure in the palette's colours; options as Matplotlib's."""
    owner.legend(fontsize=10, labelcolor=palette.text, facecolor=palette.background, edgecolor=palette.faint, **options)


def text_width(texts: list[str], size: float) -> float:
    """Inches that the longest text takes at a font size in points, estimated on the generous side."""
    return max(map(len, texts), default=0) * size * 0.62 / 72


def literal_text(text: str) -> str:
    """The text as it is: Matplotlib sets what stands between dollar signs as mathematics."""
    return text.replace("$", r"\$")


def value_text(value: FigureValue) -> str:
    return "none" if value is None else value if isinstance(value, str) else f"{value:g}"


def by_number(value: float | str) -> tuple[int, float, str]:
    """The key that sorts values of a parameter: `none`, numbers by their size, names."""
    try:
        return 1, float(value), ""
    except ValueError:
        return (0, 0, "") if value == "none" else (2, 0, str(value))


def percent_text(share: float, decimals: int = 1) -> str:
    """A share as a percentage that rounding never turns into a certainty: 0.99999 is ">99.9%", 0.00001 "<0.1%"."""
    text, step = f"{share:.{decimals}%}", 10.0**-decimals
    if share < 1 and text == f"{1:.{decimals}%}":
        return f">{100 - step:.{decimals}f}%"
    if share > 0 and text == f"{0:.{decimals}%}":
        return f"<{step:.{decimals}f}%"
    return text


def scaled(images: np.ndarray) -> np.ndarray:
    """Images of any number type and range as float in [0, 1]: black is 0 (or the least value, if negative), white the
    greatest value among them all."""
    images = np.asarray(images, dtype=np.float32)
    low, high = min(0.0, float(images.min())), float(images.max())
    return (images - low) / ((high - low) or 1.0)


def readable_colour(palette: Palette, cell: np.ndarray) -> str:
    """Of the text's and the background's colour the one that stands out more from a cell's RGB."""
    from matplotlib.colors import to_rgb

    weights = np.array([0.2126, 0.7152, 0.0722])
    distances = {color: abs((to_rgb(color) - cell) @ weights) for color in (palette.text, palette.background)}
    return max(distances, key=distances.__getitem__)


def save_figure(figure: Figure, path: Path | str) -> None:
    """Writes the figure as a PNG, about 900 pixels wide."""
    figure.savefig(path, format="png", dpi=DPI)
