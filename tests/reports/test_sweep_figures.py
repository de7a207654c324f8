"""The figures of a sweep, checked on their Matplotlib objects."""

import numpy as np
import pytest

from experiments.reports.figures.style import save_figure
from experiments.reports.figures.sweep import MISSING, Scale, parallel_coordinates, parameter_effects


def labels(scale):
    return [label for _, label in scale.ticks]


def test_numbers_are_placed_in_proportion_or_by_logarithm_over_decades():
    assert Scale.of([0.1, 0.2, 0.5]).places.tolist() == pytest.approx([0, 0.25, 1])
    scale = Scale.of([1e-4, 1e-3, 1e-2])
    assert scale.places.tolist() == pytest.approx([0, 0.5, 1])
    assert (scale.note, labels(scale)) == ("logarithmic", ["0.0001", "0.001", "0.01"])


def test_long_tick_labels_are_rounded_if_they_stay_distinct():
    assert labels(Scale.of([0.00392157, 1.0])) == ["0.0039", "1"]
    assert labels(Scale.of([0.10001, 0.10002, 0.5])) == ["0.16", "0.24", "0.32", "0.4", "0.48"]


def test_names_are_evenly_spaced_and_unordered():
    scale = Scale.of(["relu", "gelu", "relu", "tanh"])
    assert scale.places.tolist() == [0.5, 0, 0.5, 1]
    assert not scale.ordered


def test_runs_without_the_parameter_are_below_its_axis():
    scale = Scale.of([0.5, None, 0.9])
    assert scale.places.tolist() == [0, MISSING, 1]
    assert scale.ticks[0] == (MISSING, "none")
    assert labels(Scale.of(["[64]", None])) == ["none", "[64]"]


def test_a_single_value_is_in_the_middle():
    assert Scale.of([3.0, 3.0]).places.tolist() == [0.5, 0.5]


def test_each_parameter_has_a_panel_with_its_runs_and_means():
    figure = parameter_effects(
        "accuracy", {"a.dropout": [0.1, 0.1, 0.3], "a.name": ["x", "y", "y"]}, [0.8, 0.9, 0.7], "max"
    )
    first, second = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == ["a.dropout", "a.name"]
    means, points = first.lines
    assert means.get_ydata().tolist() == pytest.approx([0.85, 0.7])
    assert points.get_ydata().tolist() == [0.8, 0.9, 0.7]
    (bars,) = second.collections
    assert [segment[0][1] for segment in bars.get_segments()] == pytest.approx([0.8, 0.8])


def test_title_names_a_single_parameter_and_single_runs_have_no_mean():
    figure = parameter_effects("loss", {"optimizer.name": ["sgd", "adam"]}, [0.8, 0.9], "min")
    assert figure.texts[0].get_text() == "Effect of optimizer.name on loss"
    assert not figure.axes[0].collections
    several = parameter_effects("loss", {"a": [1.0, 2.0], "b": [1.0, 2.0]}, [0.8, 0.9], "min")
    assert several.texts[0].get_text() == "Effect of each parameter on loss"


@pytest.mark.parametrize(("mode", "bad", "sign"), [("max", 0.1, "▾ 1 far below"), ("min", 9.0, "▴ 1 far above")])
def test_a_diverged_run_is_marked_at_the_edge_and_leaves_the_axis_to_the_others(mode, bad, sign):
    values = [*np.linspace(0.90, 0.95, 9), bad]
    figure = parameter_effects("metric", {"rate": np.arange(10.0).tolist()}, values, mode)
    low, high = figure.axes[0].get_ylim()
    assert high - low < 0.06
    assert any(f"{sign} the axis, left out of means" in text.get_text() for text in figure.texts)


def test_parallel_coordinates_have_an_axis_per_parameter_and_the_best_on_top():
    given = {"a": [0.1, 0.2, 0.3], "b": ["x", "y", None]}
    figure = parallel_coordinates("loss", given, [3.0, 1.0, 2.0], "min")
    (axes,) = figure.axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert [round(line.get_ydata()[0], 2) for line in lines] == [0, 1, 0.5]  # worst first, so the best is on top
    assert lines[-1].get_color() != lines[0].get_color()
    texts = [text.get_text() for text in axes.texts]
    assert {"a", "b", "loss", "x", "y", "none"} <= set(texts)


def test_among_equal_settings_the_first_is_best_as_in_the_table():
    (axes,) = parallel_coordinates("accuracy", {"a": [0.1, 0.2, 0.4]}, [0.5, 0.9, 0.9], "max").axes
    lines = [line for line in axes.lines if line.get_linewidth() == 2.5]
    assert [round(line.get_ydata()[0], 2) for line in lines] == [0.33]


def test_runs_with_distinct_values_are_not_joined_by_a_line():
    figure = parameter_effects("loss", {"a": [0.123456789, 0.2, 0.3], "b": [1.0, 2.0, 3.0]}, [1.0, 3.0, 2.0], "min")
    lines = [line for axes in figure.axes for line in axes.lines if line.get_linestyle() == "-"]
    assert lines == []
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels
    assert all(len(label) <= 6 for label in labels)


@pytest.mark.parametrize("runs", [2, 3, 9, 50])
def test_any_number_of_runs_and_any_name_can_be_drawn(runs, tmp_path):
    rng = np.random.default_rng(runs)
    given = {
        "model.$x$_parameter_with_a_long_name": (10 ** rng.uniform(-5, -1, runs)).tolist(),
        "b": [[None, "[64, 32]", "$"][i % 3] for i in range(runs)],
        "c": [2.0] * runs,
    }
    values = rng.normal(0.9, 0.01, runs).tolist()
    for draw in (parameter_effects, parallel_coordinates):
        for style in ("light", "dark"):
            save_figure(draw("acc_$", given, values, "max", "subtitle", style), tmp_path / "figure.png")
