"""Figures of how good the predictions are: by class, by pair of classes, and against the model's own confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.formatting import plural, shorten
from experiments.reports.figures.style import MARGIN, PAGE_WIDTH, Page, Style, percent_text, text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure


CALIBRATION_BINS = 15
MOST_NAMED, MOST_COUNTED = 64, 40  # classes of a confusion matrix with a name, and with numbers in its cells
MOST_BARS = 40  # classes with a bar


def confusion_matrix(
    labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str], style: Style = "light"
) -> Figure:
    """Draw how often each class (row) was taken for each class (column), as counts; empty cells are zero.

    The colour of a mistake is its share of the row relative to the largest such share, so that mistakes show however
    rare they are; the diagonal has a colour of its own. Labels and predicted classes are integers in [0, classes), [n].
    """
    names = [shorten(name, 16) for name in class_names]
    classes = len(names)
    counts = np.bincount(np.asarray(labels, int) * classes + np.asarray(predicted, int), minlength=classes**2)
    counts = counts.reshape(classes, classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(classes, dtype=bool)
    mistakes = np.where(diagonal, 0, counts)
    actual, taken_for = divmod(int(mistakes.argmax()), classes)
    errors, total = int(mistakes.sum()), int(counts.sum())
    most = f"most frequent: {names[actual]} taken for {names[taken_for]}, {plural(int(mistakes.max()), 'time')}"
    most = f"{most}; orange: share of the actual class" if errors else "no mistakes"

    step = -(-classes // MOST_NAMED)  # every so manieth class has its name
    size = min(10.0, 360 * step / classes)
    room = text_width(names, size)
    left, slanted = 0.75 + room, room > 0.5
    angle = 35 if size == 10 else 90
    bottom = 0.65 + ((0.5 if angle == 35 else 1.0) * room if slanted else 0)
    side = min(PAGE_WIDTH - left - MARGIN, 6.0, 1.3 * classes)
    title = f"Confusion matrix: {percent_text(1 - errors / total, 2)} of {total:,} correct, {plural(errors, 'error')}"
    page = Page(style, bottom + side, title, most)
    palette = page.palette
    axes = page.add_axes(left, bottom, side, side)
    largest = shares[~diagonal].max(initial=0) or 1.0
    cells = np.where(
        diagonal[..., None],
        _blend(palette.background, palette.blue, 0.4 * shares),
        _blend(palette.background, palette.orange, 0.9 * np.sqrt(np.minimum(shares / largest, 1))),
    )
    axes.imshow(cells)
    options: dict[str, Any] = {"fontsize": min(12.0, 110 / classes), "ha": "center", "va": "center_baseline"}
    for row, column in np.argwhere(counts) if classes <= MOST_COUNTED else ():
        color = page.readable_colour(cells[row, column])
        axes.text(column, row, f"{counts[row, column]:,}", color=color, **options)
    slant: dict[str, Any] = {"rotation": angle, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    if angle == 90:
        slant["va"] = "center"
    axes.set_xticks(range(0, classes, step), names[::step], fontsize=size, **slant)
    axes.set_yticks(range(0, classes, step), names[::step], fontsize=size)
    if step == 1:
        axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=palette.faint, linewidth=0.8)
    axes.tick_params(length=0, which="both")
    axes.set(xlabel="predicted", ylabel="actual")
    axes.spines[:].set_visible(False)
    return page.figure


def per_class_accuracy(
    labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str], style: Style = "light"
) -> Figure:
    """Draw the error of each class in percent, in class order, with the counts; arguments as `confusion_matrix`.

    Of more than MOST_BARS classes, those with the largest error are drawn.

    Errors are drawn rather than accuracies, because accuracies near 100% can be told apart only on an axis that does
    not begin at zero, where the lengths of bars mislead.
    """
    names = [shorten(name, 20) for name in class_names]
    labels, predicted = np.asarray(labels, int), np.asarray(predicted, int)
    totals = np.bincount(labels, minlength=len(names))
    errors = np.bincount(labels[labels != predicted], minlength=len(names))
    rates = 100 * errors / np.maximum(totals, 1)
    overall = 100 * errors.sum() / totals.sum()
    about = ""
    if len(names) > MOST_BARS:
        about = f"; the {MOST_BARS} of {len(names):,} classes with the largest error"
        worst = np.sort(np.argsort(-rates, kind="stable")[:MOST_BARS])
        names, rates, errors_of, totals = [names[label] for label in worst], rates[worst], errors[worst], totals[worst]
    else:
        errors_of = errors

    height = 0.1 + 0.36 * len(names)
    accuracy = f"accuracy {percent_text(1 - overall / 100, 2)}: {plural(int(errors.sum()), 'error')} in {len(labels):,}"
    page = Page(style, height + 0.9, f"Error per class: {overall:.2f}% overall", accuracy + about)
    palette = page.palette
    axes = page.add_axes(0.45 + text_width(names, 10), 0.65, height, grid="x")
    axes.barh(range(len(names)), rates, height=0.66, color=palette.blue)
    limit = max(rates.max(), overall) or 1.0
    # The patch keeps lines from crossing the text.
    patch = {"facecolor": palette.background, "edgecolor": "none", "pad": 1.5}
    options: dict[str, Any] = {"color": palette.text, "fontsize": 10, "va": "center_baseline", "bbox": patch}
    for position, (rate, wrong, total) in enumerate(zip(rates, errors_of, totals, strict=True)):
        text = f"{rate:.1f}%  ({wrong:,} of {total:,})" if total else "no examples"
        axes.text(rate + 0.012 * limit, position, text, **options)
    axes.axvline(overall, color=palette.orange, linewidth=1.5, dashes=(4, 1.5), zorder=0.9)
    axes.text(overall, -0.68, f"overall {overall:.2f}%", color=palette.orange, fontsize=10, ha="center", va="bottom")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(0, 1.32 * limit), ylim=(len(names) - 0.4, -0.6), xlabel="error, percent of the class")
    axes.tick_params(axis="y", length=0)
    return page.figure


def calibration(labels: np.ndarray, probabilities: np.ndarray, style: Style = "light") -> Figure:
    """Draw accuracy against confidence, and how many predictions have each level of confidence.

    Each point is one of 15 equal bins of confidence (the probability of the predicted class), with a 95% Wilson
    interval of its accuracy; the counts below are on a logarithmic scale. Probabilities are [n, classes], labels [n].
    """
    counts, confidence, accuracy = _calibration_bins(labels, probabilities)
    used = counts > 0
    mean_confidence, mean_accuracy = (np.average(values, weights=counts) for values in (confidence, accuracy))
    title = f"Calibration: expected calibration error {expected_calibration_error(labels, probabilities):.2%}"
    means = f"mean confidence {percent_text(mean_confidence, 2)}, accuracy {percent_text(mean_accuracy, 2)}"
    page = Page(style, 6.0, title, f"{means}, {counts.sum():,} images")
    palette = page.palette
    axes = page.add_axes(1.15, 2.15, 3.75, grid="both")
    axes.plot([0, 1], [0, 1], color=palette.muted, dashes=(4, 1.5), label="perfectly calibrated")
    low, high = _wilson_interval(accuracy[used], counts[used])
    axes.vlines(confidence[used], low, high, color=palette.blue, linewidth=1.5, label="95% interval")
    points: dict[str, Any] = {"color": palette.blue, "markersize": 7, "clip_on": False, "label": "images of one bin"}
    axes.plot(confidence[used], accuracy[used], "o", **points)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), ylabel="accuracy")
    axes.tick_params(labelbottom=False)
    page.add_legend(axes, loc="upper left")

    histogram = page.add_axes(1.15, 0.6, 1.3, grid="y")
    middles = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    histogram.bar(middles, counts, width=0.9 / CALIBRATION_BINS, color=palette.blue)
    # From half an image up, so that a bin with one image has a bar.
    histogram.set_yscale("log")
    histogram.yaxis.set_major_formatter("{x:,.0f}")
    histogram.set(xlim=(0, 1.01), ylim=(0.5, 2 * counts.max()), xlabel="confidence", ylabel="images\n(log scale)")
    histogram.minorticks_off()
    return page.figure


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean distance between confidence and accuracy over 15 equal bins of confidence, weighted by counts.

    As in Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3; arguments
    as `calibration`. 0 is perfect, the worst is 1.
    """
    counts, confidence, accuracy = _calibration_bins(labels, probabilities)
    return float(np.average(np.abs(accuracy - confidence), weights=counts))


def _calibration_bins(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return count, mean confidence and accuracy of each bin ((m - 1) / 15, m / 15], each [15]; 0 for an empty bin."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    # Probabilities in 32 bits may add up to slightly more than 1.
    position = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    counts, sums, hits = (np.bincount(position, w, minlength=CALIBRATION_BINS) for w in (None, confidence, right))
    return counts, sums / np.maximum(counts, 1), hits / np.maximum(counts, 1)


def _wilson_interval(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z = 1.96  # 95%
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return centre - half, centre + half


def _blend(background: str, ink: str, strength: np.ndarray) -> np.ndarray:
    """Return two colours mixed by strength [...] in [0, 1], as RGB [..., 3]."""
    from matplotlib.colors import to_rgb

    paper = np.array(to_rgb(background))
    return paper + strength[..., None] * (np.array(to_rgb(ink)) - paper)
