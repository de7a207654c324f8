"""Figures of the network: its layers, the activation it uses, and what its first layer has learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.formatting import plural, shorten
from experiments.reports.figures.images import mosaic
from experiments.reports.figures.style import MARGIN, PAGE_WIDTH, Page, Style, percent_text, text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SHOWN_LAYERS = 30
MOST_LANES = 4  # beside each other, of lines that lead past layers
SHOWN_UNITS = 64
UNIT_COLUMNS = 8

COMPARED_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(0, x),
    "tanh": np.tanh,
}
# Of the Keras functions of these names, with their default arguments.
FORMULAS = {
    "elu": "x if x > 0, else eˣ − 1",
    "exponential": "eˣ",
    "gelu": "x Φ(x)",
    "leaky_relu": "max(0.2 x, x)",
    "linear": "x",
    "mish": "x tanh(ln(1 + eˣ))",
    "relu": "max(0, x)",
    "relu6": "min(max(0, x), 6)",
    "sigmoid": "1 / (1 + e⁻ˣ)",
    "silu": "x / (1 + e⁻ˣ)",
    "softplus": "ln(1 + eˣ)",
    "softsign": "x / (1 + |x|)",
    "swish": "x / (1 + e⁻ˣ)",
    "tanh": "(eˣ − e⁻ˣ) / (eˣ + e⁻ˣ)",
}


class LayerBox(NamedTuple):
    """One layer in the diagram."""

    name: str  # such as "dense_1"
    kind: str  # its class, such as "Dense"
    output_shape: tuple[int | None, ...]  # of one example
    parameters: int  # weights, trained or not
    note: str = ""  # such as "relu" or "rate 0.2"
    inputs: tuple[str, ...] = ()  # names of the layers that it receives the outputs of; none: of the one before it


def fold_layers(layers: Sequence[LayerBox]) -> list[LayerBox]:
    """Return one box for the layers of each size of the image, if there are too many layers to show.

    A larger image between two of one size, as from padding, is of that size too.
    """
    if len(layers) <= SHOWN_LAYERS:
        return list(layers)
    stages, smallest = list[list[LayerBox]](), float("inf")
    for layer in layers:
        if (pixels := _pixels(layer)) < smallest:
            stages.append([])
            smallest = pixels
        stages[-1].append(layer)
    return [_fold_stage(stage) if len(stage) > 1 else stage[0]._replace(inputs=()) for stage in stages]


def _pixels(layer: LayerBox) -> int:
    shape = [size or 1 for size in layer.output_shape]
    return prod(shape[:-1] if len(shape) > 2 else shape if len(shape) == 2 else [1])


def _fold_stage(stage: Sequence[LayerBox]) -> LayerBox:
    note = ", ".join(f"{count} {kind}" for kind, count in Counter(layer.kind for layer in stage).most_common())
    smallest = min(map(_pixels, stage))
    shape = next(layer.output_shape for layer in reversed(stage) if _pixels(layer) == smallest)
    return LayerBox("", plural(len(stage), "layer"), shape, sum(layer.parameters for layer in stage), note)


def network_diagram(layers: Sequence[LayerBox], style: Style = "light") -> Figure:
    """Draw the layers from input to output with the shapes between them, and where the parameters are.

    Lines at the left lead past layers, as shortcuts do. Many layers are folded, see fold_layers.
    """
    from matplotlib.patches import Rectangle

    number, layers = len(layers), fold_layers(layers)
    box_height, pitch = 0.42, 0.74
    body = pitch * len(layers) + 0.3
    total = sum(layer.parameters for layer in layers)
    largest = max(layer.parameters for layer in layers)
    title = f"Network: {plural(number, 'layer')}, {plural(total, 'parameter')}"
    page = Page(style, body, title, "along the arrows: the shape of one example; on the right: parameters")
    palette = page.palette
    axes = page.add_canvas(0, 0, body, PAGE_WIDTH)
    axes.set(xlim=(0, PAGE_WIDTH), ylim=(0, body))
    left, box_width, bar_left, bar_width = MARGIN, 5.0, 5.5, 0.9
    middle = left + box_width / 2

    lanes, side_by_side = _branches(layers)

    def write(x: float, y: float, text: str, fontsize: float = 10, **options: Any) -> None:
        axes.text(x, y, text, fontsize=fontsize, va="center_baseline", **{"color": palette.text, **options})

    for place, layer in enumerate(layers):
        top = body - 0.05 - place * pitch
        centre, lower = top - box_height / 2, top - box_height
        color = palette.blue if layer.parameters else palette.muted
        axes.add_patch(Rectangle((left, lower), box_width, box_height, fill=False, edgecolor=color, linewidth=1.5))
        write(left + 0.12, centre, shorten(layer.kind, 22), 11, fontweight="bold")
        name = shorten(layer.name, 21)
        indent = 2.35 if name else 1.15  # a folded box has no name, and more to say
        room = box_width - indent - 0.25 - text_width([name], 9)
        write(left + indent, centre, shorten(layer.note, int(room / text_width(["0"], 10))))
        write(left + box_width - 0.12, centre, name, 9, ha="right", color=palette.muted)
        bottom = top - pitch if place < len(layers) - 1 else top - pitch + 0.05
        arrow = {"arrowstyle": "-|>", "color": palette.muted, "shrinkA": 0, "shrinkB": 0}
        if place not in side_by_side:
            axes.annotate("", (middle, bottom), (middle, lower), arrowprops=arrow)
        shape = " × ".join("?" if size is None else f"{size:,}" for size in layer.output_shape) or "1"
        write(middle + 0.15, top - (box_height + pitch) / 2, shape)
        if layer.parameters:
            length = bar_width * layer.parameters / largest
            axes.add_patch(Rectangle((bar_left, centre - 0.09), length, 0.18, color=palette.blue))
            text = f"{layer.parameters:,} ({percent_text(layer.parameters / total)})"
            write(bar_left + length + 0.08, centre, text)
    for first, last, lane in lanes:
        x = left - 0.07 * (lane + 1)
        start, end = (body - 0.05 - place * pitch - box_height / 2 for place in (first, last))
        axes.plot([left, x, x], [start - 0.06, start - 0.06, end + 0.06], color=palette.muted, linewidth=1)
        axes.annotate("", (left, end + 0.06), (x, end + 0.06), arrowprops={**arrow, "mutation_scale": 7})
    return page.figure


def _branches(layers: Sequence[LayerBox]) -> tuple[list[tuple[int, int, int]], set[int]]:
    """Return the lines past layers (from, to, lane at the left), and the places that do not lead to the next one.

    Lines that overlap are in different lanes, as far as there is room.
    """
    places = {layer.name: place for place, layer in enumerate(layers)}
    lines, apart = [], set()
    for place, layer in enumerate(layers):
        before = sorted(places[name] for name in layer.inputs if name in places)
        lines += [(first, place) for first in before if first < place - 1]
        if layer.inputs and place and place - 1 not in before:
            apart.add(place - 1)
    drawn: list[tuple[int, int, int]] = []
    for first, last in sorted(lines, key=lambda line: line[1] - line[0]):
        taken = {lane for start, end, lane in drawn if start < last and first < end}
        drawn.append((first, last, min(set(range(MOST_LANES)) - taken, default=MOST_LANES - 1)))
    return drawn, apart


def activation_functions(name: str, function: Callable[[np.ndarray], np.ndarray], style: Style = "light") -> Figure:
    """Draw the network's activation, a function of arrays [n], in bold, beside sigmoid, ReLU and tanh."""
    x = np.linspace(-2, 2, 301)
    page = Page(style, 4.9, f"Activation: {name}", "in bold, beside the usual ones")
    palette = page.palette
    axes = page.add_axes(0.8, 0.6, 4.2, grid="both")
    axes.axhline(0, color=palette.muted, linewidth=1)
    axes.axvline(0, color=palette.muted, linewidth=1)
    chosen = np.asarray(function(x))
    axes.plot(x, chosen, color=palette.blue, linewidth=4, label=_activation_label(name))
    others = [other for other in COMPARED_ACTIVATIONS if other != name]
    looks = ((palette.orange, (5, 1.5)), (palette.green, (2, 1.5)), (palette.text, (5, 1.5, 1, 1.5)))
    for other, (color, dashes) in zip(others, looks, strict=False):
        y, label = COMPARED_ACTIVATIONS[other](x), _activation_label(other)
        axes.plot(x, y, color=color, linewidth=1.8, dashes=dashes, label=label)
    # Room for the usual ones, and little more for one that grows beyond them, such as the exponential.
    low, high = float(np.nanmin(chosen)), float(np.nanmax(chosen))
    axes.set(xlim=(-2, 2), ylim=(min(-1.2, max(low, -3) - 0.1), max(2.1, min(high, 4))), xlabel="x", ylabel="output")
    page.add_legend(axes, loc="upper left")
    return page.figure


def first_layer_weights(weights: np.ndarray, image_shape: tuple[int, ...], style: Style = "light") -> Figure:
    """Draw the weights of each of the first 64 units of the first layer, their mean over input channels, as an image.

    They are of a dense layer on flattened images of `image_shape`, [inputs, units], or the kernels of a convolution,
    [height, width, channels, units].
    """
    from matplotlib import colormaps

    units = weights.shape[-1]
    if weights.ndim == 2:
        weights = weights.reshape(*image_shape, units)
    if weights.ndim == 4:
        weights = weights.mean(axis=2)
    shown = np.moveaxis(weights, -1, 0)[:SHOWN_UNITS]
    # One weight in 500 may lie beyond the scale: an extreme one would make all others pale.
    limit = float(np.quantile(np.abs(shown), 0.998)) or 1.0
    colors = colormaps["RdBu_r"]
    tiles = mosaic(colors((shown / limit + 1) / 2), UNIT_COLUMNS, *[max(1, shown.shape[2] // 14)] * 2)

    body_width = PAGE_WIDTH - 2 * MARGIN
    body = body_width * tiles.shape[0] / tiles.shape[1]
    some = f"the first {SHOWN_UNITS} of {units:,} units" if units > SHOWN_UNITS else plural(units, "unit")
    page = Page(style, body + 0.75, f"Weights of the first layer: {some}", "one image per unit, all on one scale")
    axes = page.add_canvas(MARGIN, 0.75, body, body_width)
    axes.imshow(tiles, interpolation="nearest", aspect="auto")
    scale = page.add_axes(MARGIN + 1.5, 0.4, 0.15, body_width - 3)
    scale.imshow(colors(np.linspace(0, 1, 256))[None], extent=(-limit, limit, 0, 1), aspect="auto")
    scale.set_yticks([])
    scale.set_xticks([-limit, 0, limit], [f"≤ −{limit:.2g}", "0", f"≥ {limit:.2g}"])
    scale.spines[:].set_visible(False)
    return page.figure


def _activation_label(name: str) -> str:
    return f"{name}: {FORMULAS[name]}" if name in FORMULAS else name
