"""The benchmark as a command: what it writes, and what it reports without MNIST, but never how long anything took."""

import json
from math import isfinite
from pathlib import Path

import pytest
from conftest import PROJECT, command

BENCHMARK = "scripts/benchmark.py"


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """Return variables that hide MNIST in the user's folder and in the Keras cache."""
    if (PROJECT / "data" / "mnist").exists():
        pytest.skip("MNIST is in data/mnist of the project, where it is always found")
    return {"EXPERIMENTS_DATA_DIR": str(tmp_path), "KERAS_HOME": str(tmp_path)}


@pytest.mark.slow
def test_startup_needs_no_mnist_and_is_written_as_json(tmp_path: Path, nowhere: dict[str, str]) -> None:
    file = tmp_path / "startup.json"
    done = command("startup", "--quick", "--json", str(file), script=BENCHMARK, **nowhere)
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    assert (result["quick"], result["repeats"]) == (True, 1)
    assert result["machine"].keys() >= {"processor", "cores", "python", "tensorflow", "keras", "git_commit"}
    assert [(row["figure"], row["measured"], row["against"]) for row in result["figures"]] == [
        ("startup", our, their)
        for our in ("python run.py --help", "python run.py model.droput=0.3")
        for their in ('python -c "import hydra"', 'python -c "import tensorflow"')
    ]
    for row in result["figures"]:
        assert len(row["samples"]) == len(row["references"]) == 1
        assert isfinite(row["ratio"])
        assert row["ratio"] > 0
        assert row["measured"] in done.stdout


def test_other_figures_are_refused_without_mnist(nowhere: dict[str, str]) -> None:
    done = command("startup", "report", "--quick", script=BENCHMARK, **nowhere)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "The figures other than startup and images need MNIST, which is not on this machine. `python run.py` downloads"
        " it; or set EXPERIMENTS_DATA_DIR=FOLDER, the folder that holds it in mnist/.\n"
    )


def test_an_unknown_figure_is_refused_with_the_choices() -> None:
    done = command("startupp", script=BENCHMARK)
    assert done.returncode == 2
    expected = "unknown figure 'startupp'. Choices: startup, walkthrough, epoch, images, report, logging, compile"
    assert expected in done.stderr
