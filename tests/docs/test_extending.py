"""docs/extending.md works: its files are written into a folder, and its commands run with it."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT, command
from own_code import loaded
from stores import files, made, runs

from experiments.config.composition import compose_job

PAGE = (PROJECT / "docs" / "extending.md").read_text()
FILES = re.findall(r"^`my-project/(\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^python run\.py --code my-project (.*)$", PAGE, re.MULTILINE)
LINES_ALLOWED = 15  # of a function, with what is above and below it in its file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extending") / "my-project"
    folder.mkdir()
    for name, text in FILES:
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(("name", "text"), FILES, ids=[name for name, _ in FILES])
def test_each_extension_takes_at_most_15_lines(name: str, text: str) -> None:
    assert len([line for line in text.splitlines() if line.strip()]) <= LINES_ALLOWED, name


def test_every_command_of_the_page_is_composed(folder: Path) -> None:
    with loaded(folder):
        for line in COMMANDS:
            compose_job(shlex.split(line))


@pytest.mark.slow
def test_the_runs_of_the_page_have_the_extensions(folder: Path, uri: str) -> None:
    small = ["training.epochs=2", "training.threads=1", "tracking.log_model=false"]
    with loaded(folder):
        for line in COMMANDS:
            drawn = [] if "report.figures" in line else ["report.figures=none"]
            made(uri, *small, *drawn, *shlex.split(line))
    recorded: list[Any] = runs(uri)
    assert {run.info.status for run in recorded} == {"FINISHED"}
    params = [run.data.params for run in recorded]
    assert {"allconv", "noisy"} <= {of["model.name"] for of in params}
    assert "flipped" in {of["data.name"] for of in params}
    assert "ngd" in {of["optimizer.name"] for of in params}
    assert any(0 <= run.data.metrics.get("best_val_worst_accuracy", -1) <= 1 for run in recorded)
    losses = [run.data.metrics["test_loss"] for run in recorded]
    assert len(set(losses)) >= len(losses) - 3, "the loss and the augmentation change what is learned"
    assert "figures/50_confidence.png" in files(uri, recorded[-1].info.run_id, "figures")


def test_the_page_passes_ruff(folder: Path) -> None:
    import subprocess
    import sys

    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run([ruff, "check", "--select", "E,F,B,UP", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_mistake_with_own_code_is_told_in_one_line(folder: Path) -> None:
    done = command("--code", str(folder), "model=allconv", "model.filter=[8]", "data=digits")
    assert done.returncode == 2
    assert "did you mean 'model.filters'?" in done.stderr
