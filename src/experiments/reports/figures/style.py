"""What all figures share: the two palettes, the page with its heading, axes placed in inches, and the PNG."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Style = Literal["light", "dark"]
Grid = Literal["x", "y", "both"]

DPI = 110
PAGE_WIDTH = 8.2  # inches: 900 pixels, the width of the pane in which the MLflow UI shows an artifact
MARGIN = 0.3  # inches
HEADING = 0.8  # inches above the body for the title and the line below it

_missing_told = False  # that some characters have no font


@dataclass(frozen=True)
class Palette:
    """Colours that people with the common forms of colour blindness can tell apart, with enough contrast for text."""

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


class Page:
    """A figure in one of the styles: a heading, and `body` inches below it for axes.

    Axes are placed in inches from the lower left corner: tight_layout would draw everything twice to measure it.
    """

    def __init__(self, style: Style, body: float, title: str, subtitle: str = "") -> None:
        from matplotlib.figure import Figure

        self.palette = palette = PALETTES[style]
        height, left = body + HEADING, MARGIN / PAGE_WIDTH
        self.figure = Figure(figsize=(PAGE_WIDTH, height), dpi=DPI, facecolor=palette.background)
        self.figure.text(left, 1 - 0.17 / height, title, color=palette.text, fontsize=13, fontweight="bold", va="top")
        self.figure.text(left, 1 - 0.46 / height, subtitle, color=palette.muted, fontsize=10, va="top")

    def add_axes(
        self, left: float, bottom: float, height: float, width: float = 0.0, title: str = "", grid: Grid | None = None
    ) -> Axes:
        """Return new axes, by default up to the right margin; `grid` says which ticks have lines, behind the data."""
        palette, (page_width, page_height) = self.palette, self.figure.get_size_inches()
        width = width or PAGE_WIDTH - MARGIN - left
        place = (left / page_width, bottom / page_height, width / page_width, height / page_height)
        axes = self.figure.add_axes(place, facecolor=palette.background)
        axes.tick_params(colors=palette.muted, labelcolor=palette.text, labelsize=10)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=palette.text, fontsize=10)
        axes.set_title(title, loc="left", color=palette.text, fontsize=11)
        for side, spine in axes.spines.items():
            spine.set(color=palette.muted, visible=side in ("left", "bottom"))
        if grid:
            axes.grid(axis=grid, color=palette.faint, linewidth=0.8)
            axes.set_axisbelow(True)
        return axes

    def add_canvas(self, left: float, bottom: float, height: float, width: float, title: str = "") -> Axes:
        """Return new axes without ticks or frame, for images and drawings."""
        axes = self.add_axes(left, bottom, height, width, title=title)
        axes.set_axis_off()
        return axes

    def add_legend(self, owner: Axes | Figure, **options: Any) -> None:
        """Add a legend to axes or to the figure, in the colours of the page; options as Matplotlib's."""
        colours = {"facecolor": self.palette.background, "edgecolor": self.palette.faint}
        owner.legend(fontsize=10, labelcolor=self.palette.text, **colours, **options)

    def readable_colour(self, cell: np.ndarray) -> str:
        """Return the colour, of text or background, that stands out more from a cell's RGB."""
        from matplotlib.colors import to_rgb

        weights = np.array([0.2126, 0.7152, 0.0722])
        colours = (self.palette.text, self.palette.background)
        return max(colours, key=lambda colour: abs((to_rgb(colour) - cell) @ weights))


def text_width(texts: list[str], size: float) -> float:
    """Return the inches that the longest text takes at a font size in points, estimated on the generous side."""
    return max(map(len, texts), default=0) * size * 0.62 / 72


def value_text(value: float | str | None) -> str:
    """Return a parameter's value as a label; None is that of a run without it."""
    return "none" if value is None else value if isinstance(value, str) else f"{value:g}"


def by_number(value: float | str) -> tuple[int, float, str]:
    """Return the key that sorts values of a parameter: `none`, numbers by size, names."""
    try:
        return 1, float(value), ""
    except ValueError:
        return (0, 0, "") if value == "none" else (2, 0, str(value))


def percent_text(share: float, decimals: int = 1) -> str:
    """Return a share as a percentage that is never rounded to certainty: 0.99999 is ">99.9%", 0.00001 is "<0.1%"."""
    text, step = f"{share:.{decimals}%}", 10.0**-decimals
    if share < 1 and text == f"{1:.{decimals}%}":
        return f">{100 - step:.{decimals}f}%"
    if share > 0 and text == f"{0:.{decimals}%}":
        return f"<{step:.{decimals}f}%"
    return text


def scaled(images: np.ndarray) -> np.ndarray:
    """Return images of any number type and range as floats in [0, 1].

    Black is 0, or the least value if that is negative; white is the greatest value of all the images.
    """
    images = np.asarray(images, dtype=np.float32)
    low, high = min(0.0, float(images.min())), float(images.max())
    return (images - low) / ((high - low) or 1.0)


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write the figure as a PNG, about 900 pixels wide. Its texts are shown as they are, in fonts that have them."""
    from matplotlib.text import Text

    texts = figure.findobj(Text)
    fonts = _further_fonts("".join(sorted({character for text in texts for character in text.get_text()})))
    for text in texts:
        text.set(parse_math=False, usetex=False)  # names may have dollar signs
        if fonts:
            text.set_fontfamily([*text.get_fontfamily(), *fonts])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a line for each; see _tell_missing
        figure.savefig(path, format="png", dpi=DPI)


@cache
def _further_fonts(characters: str) -> list[str]:
    """Return installed fonts that have those characters which Matplotlib's own font lacks; tell which none has."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    own = get_font(findfont(FontProperties()))
    missing = {c for c in characters if not c.isspace() and not own.get_char_index(ord(c))}
    found: list[str] = []
    for font in fontManager.ttflist if missing else []:
        if font.name in found or font.name.startswith("Last Resort"):  # which has a box for every character
            continue
        try:
            face = get_font(font.fname)
            here = {c for c in missing if face.scalable and face.get_char_index(ord(c))}
        except (OSError, RuntimeError):  # it was removed, or is damaged
            continue
        if here:
            found.append(font.name)
            missing -= here
    if missing:
        _tell_missing(missing)
    return found


def _tell_missing(characters: set[str]) -> None:
    """Print once what the figures of this process show as boxes, and what to do."""
    global _missing_told
    import matplotlib

    if not _missing_told:
        _missing_told = True
        listed = ", ".join(map(repr, sorted(characters)[:10]))
        print(
            f"No font on this machine has {listed}: the figures show boxes instead. Install one that does, such as Noto"
            f" Sans CJK, and delete {matplotlib.get_cachedir()}/fontlist*.json, Matplotlib's list of fonts.",
            file=sys.stderr,
        )
