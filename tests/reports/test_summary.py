"""The summary that a run prints."""

import io

import pytest
from test_report import classified

from experiments.reports.report import final_metrics
from experiments.reports.summary import metrics_table, print_summary
from experiments.tracking.run import TrackedRun


@pytest.fixture
def run():
    """A run in a store whose address has a password."""
    from mlflow import MlflowClient
    from mlflow.entities import Run, RunData, RunInfo

    uri = "http://bob:s3cret@example.org"
    info = RunInfo("1234abcd", "0", "bob", "FINISHED", 0, 0, "active", run_name="a run")
    return TrackedRun(MlflowClient(uri), uri, Run(info, RunData()))


def test_summary_shows_metrics_run_and_next_commands_in_line(run, capsys):
    metrics = {"test_accuracy": 0.8778, "test_error_percent": 12.22, "test_loss": 0.4321, "best_epoch": 10}
    print_summary(classified(), metrics | {"best_val_accuracy": 0.9, "train_seconds": 1.25}, run)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "",
        "test_accuracy       87.78%",
        "test_error_percent  12.22%",
        "test_loss            0.4321",
        "best_val_accuracy   90.00%",
        "best_epoch          10",
        "train_seconds        1.2 s",
        "",
        "Run a run (1234abcd) in http://example.org",
        "",
        "Next:",
        "  python scripts/reproduce.py 1234abcd  # reproduce",
        "  python scripts/compare.py             # compare",
        "  make ui                               # browse",
    ]


def test_the_name_of_a_run_is_shown_as_it_is(run, capsys):
    for name, shown in ((":smile: [red]x[/red]", ":smile: [red]x[/red]"), ("\x1b[31mred", "�[31mred")):
        run.name = name
        print_summary(classified(), {"test_loss": 0.4321}, run)
        assert f"\nRun {shown} (1234abcd) in" in capsys.readouterr().out


def test_decimal_points_are_in_line_whatever_the_sign_and_unit():
    from rich.console import Console

    console = Console(file=io.StringIO())
    console.print(metrics_table({"a": "-0.5", "b": "100.00%", "c": "7", "d": "1.5 s", "e": "nan"}))
    lines = console.file.getvalue().splitlines()
    assert [line.rstrip() for line in lines] == ["a   -0.5", "b  100.00%", "c    7", "d    1.5 s", "e  nan"]


def test_password_in_the_address_of_the_store_is_not_printed(run, capsys):
    print_summary(classified(), final_metrics(classified()), run)
    assert "s3cret" not in capsys.readouterr().out
