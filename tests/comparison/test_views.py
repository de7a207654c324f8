"""A comparison as a table, as CSV, as JSON and as a figure."""

import csv
import io
import json
from itertools import product

import pytest
from run_records import a_run, over_seeds, text_of

from experiments.comparison.comparison import ComparisonError, compare_runs
from experiments.comparison.views import comparison_csv, comparison_figure, comparison_json, comparison_table
from experiments.reports.figures.style import save_figure


def test_table_shows_values_differences_and_unfinished_states():
    runs = [
        a_run(0xA << 124, {"seed": "0"}, {"test_accuracy": 0.9785, "test_loss": 0.07}, name="first"),
        a_run(0xB << 124, {"seed": "1"}, {"test_accuracy": 0.975, "test_loss": 0.06}, name="x" * 50),
        a_run(0xC << 124, {"seed": "2"}, status="FAILED", name="[red]\x1b[31m"),
    ]
    assert text_of(compare_runs(runs)) == [
        f"run       {'name':40}  status    seed  test_accuracy     test_loss",
        f"a0000000  {'first':40}  FINISHED  0     0.9785    (best)  0.07 (+0.01)",
        f"b0000000  {'x' * 39}…  FINISHED  1      0.975 (-0.0035)  0.06  (best)",
        f"c0000000  {'[red]�[31m':40}  FAILED    2          -               -",
    ]


def test_group_shows_its_mean_to_the_decimals_that_its_spread_justifies():
    lines = text_of(compare_runs(over_seeds(_0=[0.971, 0.974], _1=[0.95]), group_by="seed"))
    assert lines == [
        "model.dropout  n  test_accuracy",
        "0              2  0.9725 ± 0.0021   (best)",
        "1              1             0.95 (-0.022)",
    ]


def test_metrics_without_room_on_the_terminal_are_left_out_and_named():
    runs = [a_run(i, {"seed": str(i)}, {"test_accuracy": 0.5, "b_loss": 0.5, "c_loss": 0.5}) for i in range(9)]
    comparison = compare_runs(runs)
    assert comparison_table(comparison, 200)[1] == []
    assert comparison_table(comparison, 80)[1] == ["c_loss"]
    assert comparison_table(comparison, 20)[1] == ["b_loss", "c_loss"]


def test_two_runs_that_are_too_wide_are_shown_side_by_side():
    runs = [a_run(i, {f"parameter.{n}": str(i) for n in range(9)}, {"loss": i + 1.0}) for i in range(2)]
    lines = text_of(compare_runs(runs), width=90)
    assert lines[0].split() == ["run", *(run.run_id for run in runs)]
    assert ["parameter.8", "0", "1"] in [line.split() for line in lines]
    assert lines[-1].split() == ["loss", "1", "(best)", "2", "(+1)"]


def test_csv_has_a_line_for_each_run_with_all_metrics():
    runs = [
        a_run(1, {"loss": "mse", "seed": "0"}, {"loss": 0.5}, {"git_commit": "abc", "data_digest": "d"}),
        a_run(2, {"loss": "mae", "seed": "0"}, {"loss": 0.25}, status="KILLED"),
    ]
    rows = list(csv.DictReader(io.StringIO(comparison_csv(compare_runs(runs)))))
    assert rows[0] == {
        "run_id": runs[1].run_id, "name": "run-2", "status": "KILLED", "params.loss": "mae", "git_commit": "",
        "git_dirty": "false", "data_digest": "", "loss": "0.25", "loss_difference": "0.0",
    }  # fmt: skip
    assert (rows[1]["params.loss"], rows[1]["loss_difference"], rows[1]["git_commit"]) == ("mse", "0.25", "abc")


def test_csv_of_groups_has_mean_std_and_n():
    text = comparison_csv(compare_runs(over_seeds(_0=[0.5, 0.75], _1=[0.25]), group_by="seed"))
    first, second = csv.DictReader(io.StringIO(text))
    assert first["n"] == "2"
    assert first["run_ids"] == f"{0:032x} {1:032x}"
    assert (first["model.dropout"], first["test_accuracy_mean"], first["test_accuracy_n"]) == ("0", "0.625", "2")
    assert (second["test_accuracy_std"], second["test_accuracy_difference"]) == ("", "-0.375")


def test_json_is_strict_and_has_numbers():
    runs = [
        a_run(1, {"rate": "0.01", "code": "007", "name": "x"}, {"loss": float("nan"), "accuracy": 0.5}),
        a_run(2, {"rate": "0.1", "code": "008", "name": "y"}, {"loss": float("inf"), "accuracy": 1.0}),
    ]
    tree = json.loads(comparison_json(compare_runs(runs)), parse_constant=pytest.fail)
    assert (tree["metric"], tree["mode"], tree["differing_params"]) == ("accuracy", "max", ["rate", "code", "name"])
    assert tree["runs"][0]["params"] == {"rate": 0.1, "code": "008", "name": "y"}
    assert tree["runs"][0]["metrics"] == {"accuracy": 1.0, "loss": None}
    assert tree["runs"][1]["difference"]["accuracy"] == -0.5
    assert tree["data_differs"] is False


def test_json_of_groups_has_mean_std_and_n():
    tree = json.loads(comparison_json(compare_runs(over_seeds(_0=[0.5, 0.75]), group_by="seed")))
    (group,) = tree["groups"]
    assert (group["n"], group["run_ids"]) == (2, [f"{0:032x}", f"{1:032x}"])
    assert group["metrics"]["test_accuracy"] == {"mean": 0.625, "std": pytest.approx(0.1767767), "n": 2}


def grid(**params):
    return [
        a_run(i, dict(zip(params, values, strict=True)), {"test_accuracy": 0.9 + i / 1000})
        for i, values in enumerate(product(*params.values()))
    ]


def title_and_axes(comparison):
    figure = comparison_figure(comparison)
    (axes,) = figure.axes
    return figure.texts[0].get_text(), axes


def test_numeric_parameter_is_the_axis_logarithmic_over_orders_of_magnitude():
    rates = ("0.0001", "0.001", "0.01")
    title, axes = title_and_axes(compare_runs(grid(rate=rates, seed=("0", "1")), group_by="seed"))
    assert (title, axes.get_xlabel(), axes.get_xscale()) == ("test_accuracy over rate", "rate", "log")
    assert axes.lines[0].get_xdata().tolist() == [0.0001, 0.001, 0.01]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([0.9005, 0.9025, 0.9045])


def test_two_numeric_parameters_are_a_heat_map_with_the_best_framed():
    title, axes = title_and_axes(compare_runs(grid(units=("[32]", "[64]", "[128]"), dropout=("0.0", "0.5"))))
    assert title == "test_accuracy over units and dropout"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["32", "64", "128"]
    assert axes.images[0].get_array().ravel().tolist() == pytest.approx([0.9, 0.902, 0.904, 0.901, 0.903, 0.905])
    assert axes.patches[0].get_xy() == (1.5, 0.5)


def test_numeric_and_named_parameters_give_a_line_for_each_name():
    title, axes = title_and_axes(compare_runs(grid(optimizer=("adam", "sgd"), dropout=("0.0", "0.5"))))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["adam", "sgd"]
    assert (title, axes.get_xlabel()) == ("test_accuracy over dropout, for each optimizer", "dropout")


def test_many_runs_are_ranked_by_name_with_dollar_signs_as_they_are(tmp_path):
    many = [
        a_run(i, {"a": str(i), "b": str(i * i), "c": "x" * i}, {"loss": float(i)}, name=rf"$\run{i}") for i in range(50)
    ]
    figure = comparison_figure(compare_runs(many))
    assert figure.texts[1].get_text() == "the best 40 of 50 runs"
    assert figure.axes[0].get_yticklabels()[0].get_text() == r"$\run0"
    save_figure(figure, tmp_path / "plot.png")


def test_without_metrics_there_is_nothing_to_plot():
    with pytest.raises(ComparisonError, match="no run has a metric"):
        comparison_figure(compare_runs([a_run(1)]))
