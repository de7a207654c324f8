"""Figures of the images themselves: samples, predictions, the worst mistakes, and what Flatten does to an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from experiments.formatting import plural, shorten
from experiments.reports.figures.style import MARGIN, PAGE_WIDTH, Page, Style, percent_text, scaled, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


GRID_COLUMNS = 6
GRID_ROWS = 5
SAMPLES_PER_CLASS = 12
MOST_SAMPLED_CLASSES = 30
SAMPLE_PIXELS, JUDGED_PIXELS = 64, 150  # a side of an image in a figure, about: larger images are averaged


class JudgedImages(NamedTuple):
    """Images [n, height, width] or [n, height, width, 1 or 3] of any number type and range, and the model's outputs."""

    images: np.ndarray
    labels: np.ndarray  # the class of each, integers in [0, classes), [n]
    outputs: np.ndarray  # [n, classes]
    class_names: Sequence[str]
    unit: Literal["probability", "output"] = "probability"  # "output": of any size, of which the largest decides


def samples_grid(images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], style: Style = "light") -> Figure:
    """Draw the first images of each class, one class in a row, also of classes that do not occur; of many, the first.

    Arguments as JudgedImages.
    """
    labels = np.asarray(labels)
    names = [shorten(name, 20) for name in class_names[:MOST_SAMPLED_CLASSES]]
    rows = [np.flatnonzero(labels == index)[:SAMPLES_PER_CLASS] for index in range(len(names))]
    shown = _rgba(_shrunk(images[np.concatenate(rows)], SAMPLE_PIXELS))
    height, width = shown.shape[1:3]
    # Classes with fewer images than columns end in transparent tiles.
    tiles = np.zeros((len(names), SAMPLES_PER_CLASS, *shown.shape[1:]), shown.dtype)
    tiles[np.arange(SAMPLES_PER_CLASS) < np.array([[len(row)] for row in rows])] = shown
    gap = max(1, width // 14)
    grid = mosaic(tiles.reshape(-1, *shown.shape[1:]), SAMPLES_PER_CLASS, gap, gap)

    left = MARGIN + 0.15 + text_width(names, 11)
    body_width = PAGE_WIDTH - left - 0.2
    body = body_width * grid.shape[0] / grid.shape[1]
    counts = np.bincount(labels, minlength=len(class_names))
    some = f"the first {len(names)} of {len(class_names):,} classes" if len(names) < len(class_names) else "each class"
    note = f"the first {SAMPLES_PER_CLASS} of {some}; classes have {counts.min():,} to {counts.max():,} images"
    page = Page(style, body + 0.15, f"Samples of the {len(labels):,} training images", note)
    axes = page.add_canvas(left, 0.15, body, body_width)
    axes.imshow(grid, interpolation="nearest", aspect="auto")
    for row, name in enumerate(names):
        y = row * (height + gap) + (height - 1) / 2
        axes.text(-0.5 - gap, y, name, color=page.palette.text, fontsize=11, ha="right", va="center")
    return page.figure


def predictions_grid(judged: JudgedImages, style: Style = "light") -> Figure:
    """Draw the first images with the predicted class, its output and the actual class; mistakes in orange."""
    shown = np.arange(min(len(judged.images), GRID_COLUMNS * GRID_ROWS))
    wrong = int((judged.outputs[shown].argmax(axis=1) != judged.labels[shown]).sum())
    return _judged_grid(judged, shown, f"The first {len(shown)} test images: {wrong or 'none'} wrong", style)


def worst_mistakes(judged: JudgedImages, style: Style = "light") -> Figure:
    """Draw the mistakes of which the model was most confident, the worst first."""
    wrong = np.flatnonzero(judged.outputs.argmax(axis=1) != judged.labels)
    if not len(wrong):
        correct = f"all {plural(len(judged.images), 'test image')} predicted correctly"
        return Page(style, 0.1, "No mistakes", correct).figure
    confidence = judged.outputs[wrong].max(axis=1)
    shown = wrong[np.argsort(-confidence, kind="stable")][: GRID_COLUMNS * GRID_ROWS]
    return _judged_grid(judged, shown, f"The {len(shown)} most confident of {plural(len(wrong), 'mistake')}", style)


def _judged_grid(judged: JudgedImages, shown: np.ndarray, title: str, style: Style) -> Figure:
    names, unit, images = judged.class_names, judged.unit, _shrunk(judged.images[shown], JUDGED_PIXELS)
    height, width = images.shape[1:3]
    gap = max(1, width // 6)
    # Two lines of text need about a third of a column's width, whatever the number of pixels in it.
    label = int(np.ceil(0.36 * (width + gap)))
    grid = mosaic(_rgba(images), GRID_COLUMNS, label, gap)
    body_width = PAGE_WIDTH - MARGIN
    body = body_width * grid.shape[0] / grid.shape[1]
    page = Page(style, body + 0.05, title, f"below each: predicted class and its {unit}, actual class")
    axes = page.add_canvas(MARGIN, 0.05, body, body_width)
    axes.imshow(grid, interpolation="nearest", aspect="auto")
    for place, (actual, outputs) in enumerate(zip(judged.labels[shown], judged.outputs[shown], strict=True)):
        row, column = divmod(place, GRID_COLUMNS)
        x, y = column * (width + gap) - 0.5, row * (height + label) - 0.5
        predicted = int(outputs.argmax())
        value = float(outputs[predicted])
        # Softmax is never certain: a probability of 1 has been rounded to 32 bits.
        output = percent_text(min(value, 1 - 1e-9)) if unit == "probability" else f"{value:.2f}"
        text = f"{shorten(names[predicted], 11)}  {output}\nactual {shorten(names[actual], 11)}"
        color = page.palette.text if predicted == actual else page.palette.orange
        # On the baseline of the lower line, so that tall letters do not push the text down.
        y_text = y + height + 0.25 * (width + gap)
        axes.text(x, y_text, text, color=color, fontsize=9, va="baseline", linespacing=1.15)
        if predicted != actual:
            _frame(axes, x, y, width, height, color)
    return page.figure


def flatten_figure(image: np.ndarray, class_name: str, style: Style = "light") -> Figure:
    """Draw an image [height, width(, channels)], three of its rows end to end, and the vector of all rows, where the
    three are marked."""
    height, width, channels = (*image.shape, 1)[:3]
    length = width * channels
    values = scaled(image).reshape(height, length)
    middle = max(0, height // 2 - 1)
    rows = range(middle, min(middle + 3, height))
    step = f"{width} × row + column" if channels == 1 else f"({width} × row + column) × {channels} + channel"

    title = f"Flatten: {' × '.join(map(str, image.shape))} becomes {image.size:,} values"
    page = Page(style, 6.2, title, f"row after row: the place in the vector is {step}")
    palette = page.palette
    inner = PAGE_WIDTH - 2 * MARGIN
    picture_height = 3.4
    picture_width = min(picture_height * width / height, inner - 2.5)
    before = page.add_canvas(MARGIN, 6.1 - picture_height, picture_height, picture_width)
    before.imshow(_rgba(image[None])[0], interpolation="nearest", aspect="auto")
    part = page.add_canvas(MARGIN, 1.55, 0.55, inner, "These rows, one after the other")
    whole = page.add_canvas(MARGIN, 0.35, 0.55, inner, f"All {height} rows: what the next layer sees")
    for axes, vector in ((part, values[rows.start : rows.stop]), (whole, values)):
        axes.imshow(vector.reshape(1, -1), cmap="gray", vmin=0, vmax=1, aspect="auto")
    aside = 1.08 * width
    before.text(aside, -0.5, f"an image of class {class_name}", color=palette.text, fontsize=11, va="top")
    for place, (row, color) in enumerate(zip(rows, (palette.blue, palette.orange, palette.green), strict=False)):
        _frame(before, -0.5, row - 0.5, width, 1, color)
        _frame(part, place * length - 0.5, -0.5, length, 1, color)
        _frame(whole, row * length - 0.5, -0.5, length, 1, color)
        text = f"row {row}: values {row * length} to {(row + 1) * length - 1}"
        where = (width - 0.4, row), (aside, height * (0.5 + 0.1 * (place - 1)))
        line = {"arrowstyle": "-", "color": color, "relpos": (0, 0.5)}
        before.annotate(text, *where, color=color, fontsize=11, va="center", annotation_clip=False, arrowprops=line)
    return page.figure


def mosaic(tiles: np.ndarray, columns: int, gap_below: int, gap_right: int) -> np.ndarray:
    """Return tiles [n, height, width, 4] in rows of `columns` as one RGBA image; gaps, in pixels, are transparent.

    One image in one set of axes draws in a tenth of the time that axes for each tile take.
    """
    rows = -(-len(tiles) // columns)
    padded = np.pad(tiles, ((0, rows * columns - len(tiles)), (0, gap_below), (0, gap_right), (0, 0)))
    return np.vstack([np.hstack(row) for row in padded.reshape(rows, columns, *padded.shape[1:])])


def _shrunk(images: np.ndarray, side: int) -> np.ndarray:
    """Return images [n, height, width(, channels)] of which no side is twice as long, as means of whole pixels."""
    block = max(images.shape[1:3]) // side
    if block < 2:
        return images
    height, width = (max(1, length // block) for length in images.shape[1:3])
    down, across = min(block, images.shape[1]), min(block, images.shape[2])
    whole = images[:, : height * down, : width * across]
    return (
        whole.reshape(len(images), height, down, width, across, -1)
        .mean((2, 4))
        .reshape(len(images), height, width, *images.shape[3:])
    )


def _rgba(images: np.ndarray) -> np.ndarray:
    """Return images [n, height, width(, channels)] as opaque RGBA in [0, 1], brightness scaled over all of them."""
    images = scaled(images).reshape(*images.shape[:3], -1)
    colors = np.broadcast_to(images, (*images.shape[:3], 3))
    return np.concatenate([colors, np.ones_like(colors[..., :1])], axis=-1)


def _frame(axes: Axes, x: float, y: float, width: float, height: float, color: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=color, linewidth=2, clip_on=False))
