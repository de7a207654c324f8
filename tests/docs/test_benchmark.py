"""The benchmark as a command: what it writes, and what it says without MNIST. Never how long a thing took."""

import json
from math import isfinite
from pathlib import Path

import pytest
from conftest import PROJECT, command

BENCHMARK = "scripts/benchmark.py"


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """Variables under which MNIST is found neither in a folder of the user's nor in the cache of Keras."""
    if (PROJECT / "data" / "mnist").exists():
        pytest.skip("MNIST lies in data/mnist of the project, where it is always found")
    return {"EXPERIMENTS_DATA_DIR": str(tmp_path), "KERAS_HOME": str(tmp_path)}


@pytest.mark.slow
def test_startup_is_measured_side_by_side_also_without_mnist_and_written_as_json(
    tmp_path: Path, nowhere: dict[str, str]
) -> None:
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


def test_figures_that_need_mnist_say_so_without_it(nowhere: dict[str, str]) -> None:
    done = command("startup", "report", "--quick", script=BENCHMARK, **nowhere)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "The figures other than startup need MNIST, which is not on this machine. `python run.py` downloads it; or set"
        " EXPERIMENTS_DATA_DIR=FOLDER, the folder that holds it in mnist/.\n"
    )


def test_an_unknown_figure_is_refused_with_the_choices() -> None:
    done = command("startupp", script=BENCHMARK)
    assert done.returncode == 2
    expected = "unknown figure 'startupp'. Choices: startup, walkthrough, epoch, report, logging, compile"
    assert expected in done.stderr
