"""What a person sees: a real run and a real sweep, the server that scripts/ui.py starts, and a real browser."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import CLOSE_ASSISTANT, Browser, browser, missing
from conftest import PROJECT, command

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        bool(missing()),
        reason=f"not on this machine: {', '.join(missing())} (apt-get install chromium chromium-driver)",
    ),
]


@dataclass
class Page:
    browser: Browser
    table: str  # address of the runs table
    run_id: str
    sweep_id: str
    artifacts: Path

    def open_run(self, tab: str = "", run_id: str | None = None) -> None:
        table, _, query = self.table.partition("?")
        self.browser.open(f"{table}/{run_id or self.run_id}{tab}?{query}")

    def follow(self, text: str) -> None:
        """Open the target of the link with this text in this tab instead of a new one."""
        link = f"[...document.querySelectorAll('a')].find(link => link.innerText === {json.dumps(text)})"
        self.browser.open(self.browser.wait(f"const link = {link}; return link && link.href"))

    def columns(self) -> list[str]:
        """Return the columns of the runs table from left to right."""
        script = "[...document.querySelectorAll('[role=columnheader][col-id*=\"`\"]')]"
        script += ".sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x).map(e => e.innerText)"
        return [str(name) for name in self.browser.run(f"return {script}")]

    def column(self, name: str) -> list[str]:
        """Return the cells of a column of the runs table from top to bottom."""
        cells = f"[...document.querySelectorAll('[role=gridcell][col-id*=\"{name}\"]')]"
        cells += ".sort((a, b) => a.getBoundingClientRect().y - b.getBoundingClientRect().y).map(e => e.innerText)"
        return [str(text) for text in self.browser.wait(f"const cells = {cells}; return cells.length && cells")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    sweep = ("-m", "data=digits", "model.dropout=0.1,0.3", "seed=0,1", "training.epochs=1", "hydra.launcher.workers=1")
    for overrides in (sweep, ("data=digits", "model.dropout=0.3", "training.epochs=2")):
        done = command(*overrides, f"tracking.uri={uri}")
        assert done.returncode == 0, done.stderr
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("digits")
    run, *rest = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in rest if "sweep" in run.data.tags)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    serve = [sys.executable, "scripts/ui.py", "--uri", uri, "--port", str(port)]
    with subprocess.Popen(serve, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            table = server.stdout.readline().strip()
            with browser() as window:
                window.open(table)
                window.wait(CLOSE_ASSISTANT)
                artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
                yield Page(window, table, run.info.run_id, parent.info.run_id, artifacts)
        finally:
            server.send_signal(signal.SIGTERM)


def test_the_runs_table_shows_the_results_without_a_click(page: Page):
    page.browser.open(page.table)
    text = page.browser.wait_for_text(
        "digits dropout=0.3", "Metrics", "test_accuracy", "test_error_percent", "data.name"
    )
    assert "learned_weight" not in text
    logged = page.browser.wait(
        "const cell = document.querySelector('[role=gridcell][col-id*=\"test_error_percent\"]');"
        "return cell && cell.innerText"
    )
    assert 1 < float(logged.rstrip("….")) < 80


def test_the_run_page_begins_with_the_result_and_what_was_done(page: Page):
    page.open_run()
    text = page.browser.wait_for_text("Description", "Test accuracy", "Metrics (13)", "Parameters", "Logged models (1)")
    note = text.partition("Description")[2].partition("Show more")[0]
    assert "of 360 wrong" in note
    assert "mlp with 9,610 weights, trained on 1,287 examples of digits (150 held out for validation)" in note
    assert (
        "Differs from the defaults: data: mnist -> digits, model.dropout: 0.2 -> 0.3, training.epochs: 10 -> 2." in note
    )
    for metric in ("test_error_percent", "best_val_accuracy", "val_loss", "learning_rate", "examples_per_second"):
        assert metric in text
    for param in ("model.dropout", "data.name", "model.units"):
        assert param in text
    for tag in ("fingerprint", "data_digest", "git_dirty"):
        assert tag in text
    assert "digits (" in text.partition("Datasets")[2]


def test_the_note_opens_to_the_worst_classes_the_commands_and_the_figures(page: Page):
    page.open_run()
    page.browser.click("Show more")
    text = page.browser.wait_for_text("Worst classes:", "most often taken for", "# resume")
    assert "python scripts/compare.py" in text
    assert "**" not in text  # all Markdown is rendered
    assert "```" not in text
    widths = page.browser.wait(
        "const pictures = [...document.querySelectorAll('img[src^=get-artifact]')];"
        "return pictures.every(picture => picture.complete) && pictures.map(picture => picture.naturalWidth)"
    )
    assert widths == [902, 902, 902]


def test_every_figure_opens_in_the_artifacts_in_the_order_of_their_numbers(page: Page):
    files = sorted(file.name for file in (page.artifacts / "figures").iterdir())
    assert [int(name[:2]) for name in files] == list(range(1, 12))
    page.open_run(f"/artifacts/figures/{files[0]}")
    text = page.browser.wait_for_text(*files)
    places = [text.rindex(name) for name in files[1:]]
    assert places == sorted(places)
    for name in files:
        page.open_run(f"/artifacts/figures/{name}")
        page.browser.wait(
            "return [...document.querySelectorAll('img, canvas')].some(picture => picture.naturalWidth === 902)"
        )


def test_the_tables_and_the_predictions_open_as_tables(page: Page):
    shown = {
        "tables/per_class.json": ["examples", "error_percent"],
        "tables/mistakes.json": ["probability_of_actual"],
        "predictions/test.csv": ["Previewing", "probability"],
    }
    for path, texts in shown.items():
        page.open_run(f"/artifacts/{path}")
        page.browser.wait_for_text(path, *texts)


def test_the_metrics_are_charts(page: Page):
    page.open_run("/model-metrics")
    page.browser.wait_for_text("digits dropout=0.3 epochs=2 (accuracy)", "epochs=2 (learning_rate)", "Step")


# --- a sweep --------------------------------------------------------------------------------------------------------


def test_two_clicks_lead_from_the_printed_address_to_the_runs_of_a_sweep(page: Page):
    page.browser.open(page.table)
    page.browser.wait_for_text("dropout x seed")
    page.follow("dropout x seed")
    page.browser.wait_for_text("Best: ")
    page.follow("all runs")
    page.browser.wait_for_text("4 matching runs")  # and the table after that
    cells = "[...document.querySelectorAll('[role=gridcell][col-id*=\"best_val_accuracy\"]')]"
    page.browser.wait(f"return {cells}.filter(cell => cell.innerText).length === 4")
    assert page.columns()[:4] == ["Run Name", "model.dropout", "seed", "best_val_accuracy"]
    assert sorted(zip(page.column("model.dropout"), page.column("seed"), strict=True)) == [
        ("0.1", "0"), ("0.1", "1"), ("0.3", "0"), ("0.3", "1")
    ]  # fmt: skip
    accuracies = [float(text.rstrip("…")) for text in page.column("best_val_accuracy")]
    assert accuracies == sorted(accuracies, reverse=True)


def test_a_sweeps_charts_are_parallel_coordinates_and_a_scatter_for_each_parameter(page: Page):
    page.open_run(run_id=page.sweep_id)
    page.browser.wait_for_text("Best: ")
    page.follow("charts")
    page.browser.wait_for_text("Sweep", "Parallel Coordinates", "model.dropout vs. best_val_accuracy")
    cards = "[...document.querySelectorAll('[data-testid=experiment-view-compare-runs-card]')].slice(0, 2)"
    assert page.browser.wait(
        f"const counts = {cards}.map(card => card.querySelectorAll('.dimension, .scatterlayer .points path').length);"
        "return counts.every(Boolean) && counts"
    ) == [2, 4]  # axes: dropout and the objective; a point for each run


def test_the_compare_page_has_the_runs_side_by_side_with_parallel_coordinates_and_scatter(page: Page):
    page.open_run(run_id=page.sweep_id)
    page.browser.wait_for_text("Best: ")
    page.follow("runs side by side")
    text = page.browser.wait_for_text("Comparing 4 Runs from 1 Experiment", "Parallel Coordinates Plot", "Run details")
    assert "model.dropout" in text
    titles = "[...document.querySelectorAll('.parcoords .axis-title')].map(title => title.textContent)"
    axes = page.browser.wait(f"const titles = {titles}; return titles.length && titles")
    assert axes[:2] == ["model.dropout", "seed"]
    page.browser.run("[...document.querySelectorAll('[role=tab]')].find(tab => /Scatter/.test(tab.innerText)).focus()")
    page.browser.wait("const axis = document.querySelector('#x-axis-selector'); if (axis) axis.click(); return axis")
    page.browser.wait(
        "const option = [...document.querySelectorAll('[role=option]')].find(o => o.innerText === 'model.dropout');"
        "if (option) option.click(); return Boolean(option)"
    )
    page.browser.wait("return document.querySelector('.js-plotly-plot .xtitle')?.textContent === 'model.dropout'")


def test_the_page_of_a_sweep_has_the_winner_the_leaderboard_and_the_figures(page: Page):
    page.open_run(run_id=page.sweep_id)
    page.browser.click("Show more")
    text = page.browser.wait_for_text("Best: dropout=0.", "noise", "95 % CI", "run the best again", "best_run")
    assert "**" not in text
    widths = page.browser.wait(
        "const pictures = [...document.querySelectorAll('img[src^=get-artifact]')];"
        "return pictures.every(picture => picture.complete) && pictures.map(picture => picture.naturalWidth)"
    )
    assert widths == [902, 902]
    page.open_run("/artifacts/tables/leaderboard.json", page.sweep_id)
    page.browser.wait_for_text("tables/leaderboard.json", "best_val_accuracy_mean", "ci95_low", "p_value")


def test_a_childs_page_has_its_note_its_metrics_and_its_figures(page: Page):
    page.open_run(run_id=page.sweep_id)
    page.browser.wait_for_text("Best: ")
    page.follow("the best run")
    text = page.browser.wait_for_text("Test accuracy", "best_val_accuracy", "model.dropout", "Parent run")
    assert "Differs from the defaults: data: mnist -> digits" in text
    assert "model.dropout: 0.2 -> 0." in text
    page.browser.click("Show more")
    page.browser.wait("return document.querySelectorAll('img[src^=get-artifact]').length >= 2")
