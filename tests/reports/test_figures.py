"""The figures: the data drawn, the words and numbers beside it, and the files."""

import subprocess
import sys
import time

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.text import Text

from experiments.formatting import shorten
from experiments.reports.figures.evaluation import (
    calibration,
    confusion_matrix,
    expected_calibration_error,
    per_class_accuracy,
)
from experiments.reports.figures.images import (
    JudgedImages,
    flatten_figure,
    mosaic,
    predictions_grid,
    samples_grid,
    worst_mistakes,
)
from experiments.reports.figures.network import (
    LayerBox,
    activation_functions,
    first_layer_weights,
    fold_layers,
    network_diagram,
)
from experiments.reports.figures.style import PALETTES, percent_text, save_figure, scaled
from experiments.reports.figures.training import learning_curves, regression_fit

ORANGE = PALETTES["light"].orange
FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
HISTORY = {
    "loss": [0.5, 0.3, 0.2],
    "accuracy": [0.8, 0.9, 0.95],
    "val_loss": [0.4, 0.2, 0.3],
    "val_accuracy": [0.85, 0.93, 0.93],
    "learning_rate": [0.001, 0.001, 0.001],
}


MARKUP = ["$_$", "{x}", r"$\\alpha$", r"\\frac{1}"]  # of Matplotlib
NO_FONT = "\U0010fffd"  # for private use


def heading(figure):
    return [text.get_text() for text in figure.texts]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def frames(axes):
    """Return the number of coloured frames around images."""
    return sum(not patch.get_fill() for patch in axes.patches)


def one_hot(classes, count=3, certainty=1.0):
    rest = (1 - certainty) / (count - 1)
    return np.where(np.eye(count, dtype=bool)[classes], certainty, rest)


# --- texts of users --------------------------------------------------------------------------------------------------


def test_names_are_never_markup_even_where_the_user_prefers_tex(tmp_path):
    with matplotlib.rc_context({"text.usetex": True}):
        figure = confusion_matrix(np.arange(4), np.zeros(4, int), MARKUP)
        save_figure(figure, tmp_path / "names.png")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == MARKUP
    assert imread(tmp_path / "names.png").shape[1] == 902


def test_characters_come_from_a_font_that_has_them_or_are_told_once(tmp_path):
    """In a process of its own, as the line is printed once in a process."""
    script = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "from experiments.reports.figures.evaluation import confusion_matrix\n"
        "from experiments.reports.figures.style import save_figure\n"
        "for names in sys.argv[2:]:\n"
        "    save_figure(confusion_matrix([0, 1], [0, 1], list(names)), sys.argv[1])\n"
    )

    def draw(*names):
        line = [sys.executable, "-c", script, str(tmp_path / "drawn.png"), *names]
        return subprocess.run(line, capture_output=True, text=True, check=True).stderr

    assert draw("a\u2314") == ""  # which DejaVu Sans lacks, and DejaVu Sans Mono, also shipped with Matplotlib, has
    told = draw(f"a{NO_FONT}", f"b{NO_FONT}")
    assert told.startswith("No font on this machine has ")
    assert told.count("\n") == 1


# --- all figures -----------------------------------------------------------------------------------------------------


def every_figure(style):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    labels = np.arange(40) % 10
    probabilities = random.dirichlet(np.ones(10), 40)
    predicted = probabilities.argmax(axis=1)
    x = np.linspace(-1, 1, 5)
    return {
        "learning_curves": learning_curves(HISTORY, style),
        "confusion_matrix": confusion_matrix(labels, predicted, FASHION, style),
        "predictions_grid": predictions_grid(JudgedImages(images, labels, probabilities, FASHION), style),
        "samples_grid": samples_grid(images, labels, FASHION, style),
        "worst_mistakes": worst_mistakes(JudgedImages(images, labels, probabilities, FASHION), style),
        "per_class_accuracy": per_class_accuracy(labels, predicted, FASHION, style),
        "calibration": calibration(labels, probabilities, style),
        "network_diagram": network_diagram([LayerBox("dense", "Dense", (10,), 650, "softmax")], style),
        "activation_functions": activation_functions("tanh", np.tanh, style),
        "flatten": flatten_figure(images[0], "Coat", style),
        "first_layer_weights": first_layer_weights(random.normal(size=(64, 12)), (8, 8), style),
        "regression_fit": regression_fit(np.stack([x, 3 * x]), 0 * x, 3 * x, 3, np.array([3, 0]), style),
    }


@pytest.mark.parametrize("style", ["light", "dark"])
def test_every_figure_is_an_opaque_900_pixel_png_in_the_colours_of_its_style(tmp_path, style):
    for name, figure in every_figure(style).items():
        path = tmp_path / f"{name}.png"
        save_figure(figure, path)
        pixels = imread(path)
        height, width = pixels.shape[:2]
        assert width == 902, name
        assert 80 < height < 1400, name
        assert 3_000 < path.stat().st_size < 400_000, name
        assert (pixels[..., 3] == 1).all(), name
        np.testing.assert_allclose(pixels[0, 0, :3], to_rgb(PALETTES[style].background), atol=0.01, err_msg=name)


def test_text_is_at_least_9_points_and_stays_on_the_page():
    for name, figure in every_figure("light").items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        drawn, page = figure.get_tightbbox(canvas.get_renderer()), figure.bbox_inches
        assert min(drawn.x0, drawn.y0) >= 0, name
        assert drawn.x1 <= page.x1, name
        assert drawn.y1 <= page.y1, name
        assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 9, name


def test_matplotlib_is_imported_with_the_first_figure_and_pyplot_never():
    code = (
        "import sys; from experiments.reports.figures import style, training; assert 'matplotlib' not in sys.modules;"
        "style.save_figure(training.learning_curves({'loss': [1.0]}), sys.argv[1]);"
        "assert 'matplotlib' in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, "/dev/null"], check=True)


def test_figures_of_ten_thousand_predictions_are_drawn_quickly(tmp_path):
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 10_000)
    predicted = np.where(random.random(10_000) < 0.97, labels, random.integers(0, 10, 10_000))
    save_figure(learning_curves(HISTORY), tmp_path / "warm.png")  # not the import and the fonts
    start = time.process_time()
    save_figure(learning_curves(HISTORY), tmp_path / "curves.png")
    save_figure(confusion_matrix(labels, predicted, FASHION), tmp_path / "confusion.png")
    assert time.process_time() - start < 1.5  # 0.25 s measured; a shared machine may be slow


# --- learning curves -------------------------------------------------------------------------------------------------


def test_learning_curves_show_each_metric_from_epoch_one():
    loss, accuracy = learning_curves(HISTORY).axes
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        lines = {line.get_label(): line for line in axes.lines}
        for label, values in (("training", HISTORY[name]), ("validation", HISTORY[f"val_{name}"])):
            assert list(lines[label].get_xdata()) == [1, 2, 3]
            assert list(lines[label].get_ydata()) == values


def test_learning_curves_mark_the_first_epoch_with_the_highest_validation_accuracy():
    figure = learning_curves(HISTORY)
    assert heading(figure) == ["Learning curves over 3 epochs", "best epoch 2: validation accuracy 93.00%"]
    for axes, value in zip(figure.axes, (0.2, 0.93), strict=True):
        mark = next(line for line in axes.lines if line.get_label() == "best epoch: 2")
        assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([2], [value])


def test_learning_curves_of_a_regression_mark_the_lowest_absolute_validation_error():
    figure = learning_curves(
        {"loss": [4, 1], "mean_absolute_error": [2, 1], "val_loss": [3, 2], "val_mean_absolute_error": [1.5, 1.6]}
    )
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss", "Mean absolute error"]
    assert heading(figure)[1] == "best epoch 1: validation mean absolute error 1.5"  # as the metric best_epoch


def test_without_validation_no_epoch_is_marked_best():
    figure = learning_curves({"loss": [0.5, 0.25], "accuracy": [0.8, 0.9]})
    assert heading(figure)[1] == "no validation; training loss 0.25 in the last epoch"
    assert [[line.get_label() for line in axes.lines] for axes in figure.axes] == [["training"], ["training"]]


def test_without_another_metric_the_lowest_validation_loss_is_best():
    figure = learning_curves({"loss": [4, 1], "val_loss": [3, 2]})
    assert heading(figure)[1] == "best epoch 2: validation loss 2"


def test_best_epoch_ignores_nan():
    figure = learning_curves({"loss": [1.0, np.nan], "val_loss": [0.5, np.nan], "val_accuracy": [0.9, np.nan]})
    assert heading(figure)[1] == "best epoch 1: validation accuracy 90.00%"


@pytest.mark.parametrize(
    ("rates", "scale"),
    [([0.1, 0.1, 0.1], None), ([0.1, 0.09, 0.08], "linear"), ([0.1, 0.01, 0.001], "log"), ([0.0, 0.1, 0.2], "linear")],
)
def test_learning_rate_has_a_panel_only_if_it_varies(rates, scale):
    axes = learning_curves(HISTORY | {"learning_rate": rates}).axes
    if scale is None:
        assert len(axes) == 2
    else:
        assert list(axes[2].lines[0].get_ydata()) == rates
        assert axes[2].get_yscale() == scale


def test_markers_are_drawn_for_few_epochs_only():
    one = learning_curves({"loss": [0.5], "accuracy": [0.9]})
    many = learning_curves({"loss": [0.5] * 200, "accuracy": [0.9] * 200})
    assert heading(one)[0] == "Learning curves over 1 epoch"
    assert one.axes[0].lines[0].get_marker() == "o"
    assert many.axes[0].lines[0].get_marker() == "None"


@pytest.mark.parametrize("epochs", [1, 2, 10, 200])
def test_epoch_ticks_are_whole_numbers_within_training(epochs):
    axes = learning_curves({"loss": [0.5] * epochs}).axes[0]
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == int(tick) and 1 <= tick <= epochs for tick in ticks)


# --- regression ------------------------------------------------------------------------------------------------------


def test_regression_fit_shows_examples_both_predictions_and_the_true_line():
    x = np.array([[1.0], [-1.0], [0.0]])
    figure = regression_fit(np.stack([x, 3 * x + 0.5])[..., 0], -x, 2.5 * x - 0.25, 3, np.array([2.5, -0.25]))
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines}
    assert lines == {
        "examples": ([1, -1, 0], [3.5, -2.5, 0.5]),
        "prediction before training": ([-1, 0, 1], [1, 0, -1]),
        "prediction after training": ([-1, 0, 1], [-2.75, -0.25, 2.25]),
        "without noise: y = 3 x": ([-1, 1], [-3, 3]),
    }
    assert heading(figure) == ["Single neuron: y = 2.5 x − 0.25 after training", "3 examples drawn around y = 3 x"]


# --- confusion matrix and error per class ----------------------------------------------------------------------------


def test_confusion_matrix_has_counts_with_actual_classes_in_rows():
    figure = confusion_matrix(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 1, 1, 1]), ["cat", "dog"])
    axes = figure.axes[0]
    # Places are (column, row), and zeros are left out.
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "1", (1, 0): "2", (1, 1): "2"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "actual")
    assert heading(figure)[0] == "Confusion matrix: 60.00% of 5 correct, 2 errors"
    assert heading(figure)[1].startswith("most frequent: cat taken for dog, 2 times")


def test_a_rare_mistake_stands_out_beside_a_thousand_correct_predictions():
    labels = np.array([0] * 1000 + [1] * 1000)
    predicted = labels.copy()
    predicted[0] = 1
    cells = confusion_matrix(labels, predicted, ["cat", "dog"]).axes[0].images[0].get_array()
    assert np.abs(cells[0, 1] - to_rgb(ORANGE)).max() < 0.2
    np.testing.assert_allclose(cells[1, 0], [1, 1, 1])


def test_confusion_matrix_without_mistakes_has_only_the_diagonal():
    figure = confusion_matrix(np.arange(10), np.arange(10), FASHION)
    assert [text.get_position() for text in figure.axes[0].texts] == [(i, i) for i in range(10)]
    assert heading(figure) == ["Confusion matrix: 100.00% of 10 correct, 0 errors", "no mistakes"]


def test_one_error_among_thousands_is_not_rounded_to_100_percent():
    labels = np.zeros(60_000, int)
    predicted = labels.copy()
    predicted[7] = 1
    title = heading(confusion_matrix(labels, predicted, ["cat", "dog"]))[0]
    assert title == "Confusion matrix: >99.99% of 60,000 correct, 1 error"


def test_error_per_class_starts_at_zero_and_shows_counts():
    labels, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    figure = per_class_accuracy(labels, predicted, ["cat", "dog", "eel"])
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [25, 0, 0]
    assert axes.get_xlim()[0] == 0
    assert texts(axes) == ["25.0%  (1 of 4)", "0.0%  (0 of 2)", "no examples", "overall 16.67%"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "eel"]
    assert heading(figure) == ["Error per class: 16.67% overall", "accuracy 83.33%: 1 error in 6"]


def test_first_class_is_on_top():
    low, high = per_class_accuracy(np.array([0, 1]), np.array([0, 0]), ["cat", "dog"]).axes[0].get_ylim()
    assert low > high


def test_error_per_class_without_errors_has_bars_of_length_zero():
    axes = per_class_accuracy(np.array([0, 1]), np.array([0, 1]), ["cat", "dog"]).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0, 0]
    assert axes.get_xlim()[1] > 0


# --- calibration -----------------------------------------------------------------------------------------------------


def test_expected_calibration_error_equals_a_hand_calculation():
    # Bins of 1/15: 0.95 and 0.97 share the last, (0.933, 1]; 0.62 is alone in (0.6, 0.667].
    probabilities = np.array([[0.95, 0.05], [0.03, 0.97], [0.62, 0.38]])
    labels = np.array([0, 0, 0])  # right, wrong, right
    expected = 2 / 3 * abs(0.5 - 0.96) + 1 / 3 * abs(1 - 0.62)
    assert expected_calibration_error(labels, probabilities) == pytest.approx(expected)


def test_expected_calibration_error_ranges_from_zero_to_one():
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    assert expected_calibration_error(np.array([0, 0]), probabilities) == 0
    assert expected_calibration_error(np.array([1, 1]), probabilities) == 1


def test_a_confidence_slightly_over_one_falls_into_the_last_bin():
    assert expected_calibration_error(np.array([0]), np.array([[1.0000001, 0.0]])) == pytest.approx(0, abs=1e-6)


def test_calibration_shows_accuracy_over_mean_confidence_and_counts_per_bin():
    probabilities = np.array([[0.95, 0.05], [0.03, 0.97], [0.62, 0.38]])
    figure = calibration(np.array([0, 0, 0]), probabilities)
    reliability, histogram = figure.axes
    points = next(line for line in reliability.lines if line.get_label() == "images of one bin")
    np.testing.assert_allclose(points.get_xdata(), [0.62, 0.96])
    np.testing.assert_allclose(points.get_ydata(), [1, 0.5])
    assert [bar.get_height() for bar in histogram.patches] == [0] * 9 + [1] + [0] * 4 + [2]
    assert "log" in histogram.get_ylabel()
    assert heading(figure) == [
        "Calibration: expected calibration error 43.33%",
        "mean confidence 84.67%, accuracy 66.67%, 3 images",
    ]


def test_calibration_interval_is_wide_for_two_images():
    # Wilson's interval for 1 of 2 is 0.095 to 0.905.
    figure = calibration(np.array([0, 0]), np.array([[0.95, 0.05], [0.03, 0.97]]))
    (segment,) = figure.axes[0].collections[0].get_segments()
    np.testing.assert_allclose(segment[:, 1], [0.0945, 0.9055], atol=1e-3)


# --- grids of images -------------------------------------------------------------------------------------------------


def test_mosaic_places_tiles_in_rows_with_transparent_gaps():
    tiles = np.ones((3, 1, 1, 4)) * np.array([1, 2, 3])[:, None, None, None]
    assert mosaic(tiles, 2, 1, 1)[..., 3].tolist() == [[1, 0, 2, 0], [0] * 4, [3, 0, 0, 0], [0] * 4]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (np.array([0, 128, 255], np.uint8), [0, 128 / 255, 1]),
        (np.array([0.0, 8.0, 16.0]), [0, 0.5, 1]),
        (np.array([-1.0, 0.0, 1.0]), [0, 0.5, 1]),
        (np.zeros(3), [0, 0, 0]),
    ],
)
def test_images_of_any_range_are_scaled_from_black_to_white(images, expected):
    np.testing.assert_allclose(scaled(images), expected, rtol=1e-6)


def test_predictions_grid_names_classes_and_probability_and_frames_mistakes():
    images = np.full((2, 4, 4), 255, np.uint8)
    probabilities = np.array([[1.0, 0.0], [0.25, 0.75]])  # the 1 was rounded to 32 bits
    figure = predictions_grid(JudgedImages(images, np.array([0, 0]), probabilities, ["cat", "dog"]))
    axes = figure.axes[0]
    assert texts(axes) == ["cat  >99.9%\nactual cat", "dog  75.0%\nactual cat"]
    assert [text.get_color() == ORANGE for text in axes.texts] == [False, True]
    assert frames(axes) == 1
    assert heading(figure)[0] == "The first 2 test images: 1 wrong"


def test_predictions_grid_shows_at_most_thirty_images():
    images, labels = np.ones((50, 4, 4)), np.zeros(50, int)
    axes = predictions_grid(JudgedImages(images, labels, one_hot(labels), FASHION[:3])).axes[0]
    assert len(axes.texts) == 30
    assert axes.images[0].get_array()[..., 3].sum() == 30 * 16


@pytest.mark.parametrize("shape", [(5, 4, 4), (5, 4, 4, 1)])
def test_grey_images_may_have_a_channel_axis(shape):
    labels = np.zeros(5, int)
    axes = predictions_grid(JudgedImages(np.full(shape, 9), labels, one_hot(labels), FASHION[:3])).axes[0]
    assert axes.images[0].get_array()[0, 0].tolist() == [1, 1, 1, 1]


def test_colour_images_keep_their_colours():
    images = np.zeros((1, 4, 4, 3), np.uint8)
    images[..., 0] = 255
    labels = np.array([0])
    for figure in (
        predictions_grid(JudgedImages(images, labels, one_hot(labels), FASHION[:3])),
        samples_grid(images, labels, FASHION[:3]),
        flatten_figure(images[0], "red"),
    ):
        assert figure.axes[0].images[0].get_array()[0, 0].tolist() == [1, 0, 0, 1]


def test_worst_mistakes_are_sorted_by_confidence():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.01, 0.99], [0.00001, 0.99999]])
    images = np.ones((4, 4, 4))
    figure = worst_mistakes(JudgedImages(images, np.array([0, 0, 0, 0]), probabilities, ["cat", "dog"]))
    assert texts(figure.axes[0]) == ["dog  >99.9%\nactual cat", "dog  99.0%\nactual cat", "dog  60.0%\nactual cat"]
    assert heading(figure)[0] == "The 3 most confident of 3 mistakes"


def test_worst_mistakes_says_if_there_are_none():
    labels = np.array([0, 1])
    figure = worst_mistakes(JudgedImages(np.ones((2, 4, 4)), labels, one_hot(labels), FASHION[:3]))
    assert figure.axes == []
    assert heading(figure) == ["No mistakes", "all 2 test images predicted correctly"]


def test_samples_grid_has_a_row_for_each_class_even_if_rare_or_missing():
    images = np.arange(1, 17).repeat(4).reshape(16, 2, 2)
    labels = np.array([0] * 14 + [1] + [0])
    figure = samples_grid(images, labels, ["cat", "dog", "eel"])
    axes = figure.axes[0]
    pixels = axes.images[0].get_array()[::3, ::3]  # the upper left pixel of each tile: 2 pixels and a gap of 1
    assert texts(axes) == ["cat", "dog", "eel"]
    assert pixels[..., 3].sum(axis=1).tolist() == [12, 1, 0]
    np.testing.assert_allclose(pixels[0, :, 0], np.arange(1, 13) / 15, rtol=1e-6)
    assert heading(figure)[1] == "the first 12 of each class; classes have 0 to 15 images"


def test_flatten_marks_the_same_three_rows_in_image_and_vector():
    figure = flatten_figure(np.arange(784).reshape(28, 28), "7")
    before, part, whole = figure.axes
    assert heading(figure) == [
        "Flatten: 28 × 28 becomes 784 values",
        "row after row: the place in the vector is 28 × row + column",
    ]
    assert texts(before) == [
        "an image of class 7",
        "row 13: values 364 to 391",
        "row 14: values 392 to 419",
        "row 15: values 420 to 447",
    ]
    np.testing.assert_allclose(whole.images[0].get_array()[0] * 783, np.arange(784), atol=1e-3)
    np.testing.assert_allclose(part.images[0].get_array()[0] * 783, np.arange(364, 448), atol=1e-3)
    assert [patch.get_x() + 0.5 for patch in whole.patches] == [364, 392, 420]
    assert [patch.get_y() + 0.5 for patch in before.patches] == [13, 14, 15]


def test_flatten_counts_the_channels_of_a_colour_image():
    figure = flatten_figure(np.ones((4, 4, 3)), "cat")
    assert heading(figure)[0] == "Flatten: 4 × 4 × 3 becomes 48 values"
    assert heading(figure)[1].endswith("(4 × row + column) × 3 + channel")
    assert "row 1: values 12 to 23" in texts(figure.axes[0])


# --- the network -----------------------------------------------------------------------------------------------------


def test_network_diagram_shows_kinds_notes_shapes_and_parameters():
    figure = network_diagram(
        [
            LayerBox("flatten", "Flatten", (784,), 0),
            LayerBox("dense", "Dense", (128,), 100480, "relu"),
            LayerBox("conv", "Conv2D", (26, 26, 32), 0),
            LayerBox("any", "Resizing", (None, 3), 0),
            LayerBox("dense_1", "Dense", (10,), 1290, "softmax"),
        ]
    )
    shown = texts(figure.axes[0])
    for text in (
        "Flatten",
        "784",
        "relu",
        "128",
        "100,480 (98.7%)",
        "26 × 26 × 32",
        "? × 3",
        "1,290 (1.3%)",
        "dense_1",
    ):
        assert text in shown
    assert heading(figure)[0] == "Network: 5 layers, 101,770 parameters"


def test_network_diagram_leads_shortcuts_past_the_layers_at_the_left():
    figure = network_diagram(
        [
            LayerBox("first", "Dense", (4,), 20),
            LayerBox("inner", "Dense", (4,), 20, "", ("first",)),
            LayerBox("projected", "Dense", (4,), 16, "", ("first",)),
            LayerBox("add", "Add", (4,), 0, "", ("projected", "inner")),
            LayerBox("last", "Dense", (2,), 10, "", ("add",)),
        ]
    )
    (axes,) = figure.axes
    shortcuts = [line.get_xdata() for line in axes.lines]
    assert len(shortcuts) == 2  # from the first layer to the projection, and from the inner layer to the sum
    assert len({min(xs) for xs in shortcuts}) == 2  # in lanes of their own, as they overlap
    assert all(min(xs) > 0 for xs in shortcuts)
    straight = [arrow for arrow in axes.texts if hasattr(arrow, "xyann") and arrow.xyann[0] > 1]
    assert len(straight) == 4  # all but that from the inner layer to the projection, which is no connection


def test_network_diagram_folds_many_layers_by_the_size_of_the_image():
    block = [LayerBox("c", "Conv2D", (8, 8, 4), 100), LayerBox("n", "BatchNormalization", (8, 8, 4), 16)]
    padding = LayerBox("p", "ZeroPadding2D", (9, 9, 4), 0)
    half = [LayerBox("h", "Conv2D", (4, 4, 8), 200), LayerBox("r", "ReLU", (4, 4, 8), 0)]
    head = LayerBox("output", "Dense", (10,), 90, "softmax")
    folded = fold_layers([LayerBox("s", "Rescaling", (8, 8), 0), *block * 10, padding, *half * 6, head])
    assert folded == [
        LayerBox("", "22 layers", (8, 8, 4), 1160, "10 Conv2D, 10 BatchNormalization, 1 Rescaling, 1 ZeroPadding2D"),
        LayerBox("", "12 layers", (4, 4, 8), 1200, "6 Conv2D, 6 ReLU"),
        head,
    ]
    assert heading(network_diagram([*block * 20, head]))[0] == "Network: 41 layers, 2,410 parameters"
    assert fold_layers(block * 10) == block * 10


def test_network_diagram_bars_are_in_proportion_to_parameters():
    figure = network_diagram(
        [LayerBox("a", "Dense", (4,), 400), LayerBox("b", "Dropout", (4,), 0), LayerBox("c", "Dense", (1,), 100)]
    )
    first, second = (patch.get_width() for patch in figure.axes[0].patches if patch.get_fill())
    assert first == pytest.approx(4 * second)


def test_network_diagram_may_have_no_parameters():
    assert heading(network_diagram([LayerBox("f", "Flatten", (4,), 0)]))[0] == "Network: 1 layer, 0 parameters"


def test_network_diagram_grows_with_the_layers():
    layer = LayerBox("dense", "Dense", (8,), 72, "relu")
    assert network_diagram([layer] * 15).get_figheight() > 2 * network_diagram([layer] * 4).get_figheight()


def test_chosen_activation_is_bold_beside_the_three_usual_ones():
    lines = activation_functions("softplus", lambda x: np.log1p(np.exp(x))).axes[0].lines
    curves = {line.get_label().split(":")[0]: line for line in lines if not line.get_label().startswith("_")}
    assert list(curves) == ["softplus", "sigmoid", "relu", "tanh"]
    assert curves["softplus"].get_label() == "softplus: ln(1 + eˣ)"
    assert curves["softplus"].get_linewidth() > curves["relu"].get_linewidth()
    x = curves["relu"].get_xdata()
    np.testing.assert_allclose(curves["softplus"].get_ydata(), np.log1p(np.exp(x)))
    np.testing.assert_allclose(curves["relu"].get_ydata(), np.clip(x, 0, None))
    np.testing.assert_allclose(curves["sigmoid"].get_ydata(), 0.5 * (1 + np.tanh(x / 2)))


def test_a_usual_activation_is_drawn_once():
    axes = activation_functions("relu", lambda x: np.maximum(x, 0)).axes[0]
    assert [text.get_text().split(":")[0] for text in axes.get_legend().texts] == ["relu", "sigmoid", "tanh"]


def test_unknown_activation_has_no_formula_and_a_steep_one_leaves_the_others_visible():
    axes = activation_functions("steep", lambda x: 1000 * x).axes[0]
    assert axes.get_legend().texts[0].get_text() == "steep"
    assert axes.get_ylim() == pytest.approx((-3.1, 4))


def test_first_layer_weights_share_a_scale_symmetric_about_zero():
    weights = np.zeros((4, 3))
    weights[:, 0], weights[:, 1] = 0.5, -0.5
    figure = first_layer_weights(weights, (2, 2))
    grid, scale = figure.axes
    red, blue, white = (grid.images[0].get_array()[0, 3 * unit, :3] for unit in range(3))
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert white.min() > 0.95
    assert [tick.get_text() for tick in scale.get_xticklabels()] == ["≤ −0.5", "0", "≥ 0.5"]
    assert heading(figure)[0] == "Weights of the first layer: 3 units"


def test_first_layer_weights_show_at_most_64_units():
    figure = first_layer_weights(np.ones((16, 100)), (4, 4))
    assert figure.axes[0].images[0].get_array()[..., 3].sum() == 64 * 16
    assert heading(figure)[0] == "Weights of the first layer: the first 64 of 100 units"


def test_first_layer_weights_may_be_kernels_or_of_colour_images():
    kernels = first_layer_weights(np.ones((3, 3, 2, 5)), (28, 28, 2))
    dense = first_layer_weights(np.ones((4 * 4 * 3, 5)), (4, 4, 3))
    assert kernels.axes[0].images[0].get_array()[..., 3].sum() == 5 * 9
    assert dense.axes[0].images[0].get_array()[..., 3].sum() == 5 * 16


def test_first_layer_weights_must_fit_the_image():
    with pytest.raises(ValueError, match="cannot reshape"):
        first_layer_weights(np.ones((5, 2)), (2, 2))


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.5, "50.0%"), (1.0, "100.0%"), (0.0, "0.0%"), (0.99999, ">99.9%"), (0.00001, "<0.1%"), (0.9994, "99.9%")],
)
def test_percent_is_never_rounded_to_certainty(share, text):
    assert percent_text(share) == text


def test_shorten_keeps_text_that_fits():
    assert (shorten("Ankle boot", 10), shorten("Ankle boots", 10)) == ("Ankle boot", "Ankle boo…")


def test_figures_of_many_classes_and_large_images_stay_readable_and_small() -> None:
    classes = 200
    labels = np.arange(2 * classes) % classes
    names = [f"class {label}" for label in range(classes)]
    photos = np.random.default_rng(0).integers(0, 256, (2 * classes, 224, 200, 3)).astype(np.uint8)
    matrix = confusion_matrix(labels, np.roll(labels, 1), names).axes[0]
    assert [text.get_text() for text in matrix.get_yticklabels()] == names[::4]
    bars = per_class_accuracy(labels, np.where(labels < 60, labels, 0), names)
    assert len(bars.axes[0].patches) == 40
    assert {text.get_text() for text in bars.axes[0].get_yticklabels()} <= set(names[60:])
    samples = samples_grid(photos, labels, names)
    assert samples.get_size_inches()[1] < 20
    shown = np.asarray(samples.axes[0].get_images()[0].get_array())
    assert shown.shape[0] < 30 * 90
