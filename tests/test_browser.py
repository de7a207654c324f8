"""What a person sees: a real run, MLflow's real server as scripts/ui.py starts it, and a real browser."""

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
    pytest.mark.slow,
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
    artifacts: Path

    def open_run(self, tab: str = "") -> None:
        table, _, query = self.table.partition("?")
        self.browser.open(f"{table}/{self.run_id}{tab}?{query}")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    done = command("data=digits", "model.dropout=0.3", "training.epochs=2", f"tracking.uri={uri}")
    assert done.returncode == 0, done.stderr
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("digits")
    (run,) = client.search_runs([experiment.experiment_id])
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
                yield Page(window, table, run.info.run_id, Path(run.info.artifact_uri.removeprefix("file://")))
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
    assert "**" not in text  # nothing of the Markdown is left unrendered
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
