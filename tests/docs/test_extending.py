"""docs/extending.md works: its blocks are applied to a copy of the project, and its runs are made there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT
from stores import files, runs

SECTIONS = re.split(r"^## ", (PROJECT / "docs" / "extending.md").read_text(), flags=re.MULTILINE)[1:]
BLOCK = re.compile(r"(?:^([^\n`]*)`([^\n`]+)`:\n\n)?```(\w+)\n(.*?)```", re.DOTALL | re.MULTILINE)
LINES_ALLOWED = 25

# All commands in one process, so that TensorFlow is loaded once.
RUN_ALL = """
import json, sys
from experiments.config.composition import compose_job
from experiments.experiment import run_experiment

for overrides in json.loads(sys.argv[1]):
    config = compose_job(overrides)
    run_experiment(config, overrides)
"""


def apply(where: str, path: Path, kind: str, text: str) -> None:
    """Change a file as the line above its block says."""
    if "new file" in where:
        assert not path.exists(), path
        path.write_text(text)
    elif kind == "diff":
        old = "".join(line[1:] + "\n" for line in text.splitlines() if not line.startswith("+"))
        new = "".join(line[1:] + "\n" for line in text.splitlines() if not line.startswith("-"))
        assert path.read_text().count(old) == 1, f"{path} must have exactly one place like\n{old}"
        path.write_text(path.read_text().replace(old, new))
    else:
        assert "end of" in where, where
        path.write_text(f"{path.read_text()}\n\n{text}")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Copy the project, apply every block, make every run; return the copy and the URI of the store."""
    copy = tmp_path_factory.mktemp("project")
    for part in ("src", "conf", "scripts", "docs"):
        shutil.copytree(PROJECT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "requirements.lock", "run.py"):
        shutil.copy(PROJECT / file, copy)
    commands = []
    for section in SECTIONS:
        for where, path, kind, text in BLOCK.findall(section):
            if kind == "bash":
                commands += re.findall(r"^python run\.py (.*)$", text, re.MULTILINE)
            else:
                apply(where, copy / path, kind, text)
    uri = f"sqlite:///{copy}/store/mlflow.db"
    small = ["training.epochs=3", "training.threads=1", f"tracking.uri={uri}", "tracking.log_model=false"]
    figures = ["report.figures=none"] * (len(commands) - 1) + ["report.figures=full"]  # the last section adds a figure
    jobs = [[*line.split(), *small, drawn] for line, drawn in zip(commands, figures, strict=True)]
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps(jobs)],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy / "src")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return copy, uri


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.partition("\n")[0])
def test_each_extension_takes_fewer_than_25_lines(section: str) -> None:
    blocks = [text for _, _, kind, text in BLOCK.findall(section) if kind != "bash"]
    assert 0 < sum(len(text.splitlines()) for text in blocks) < LINES_ALLOWED  # including empty lines


@pytest.mark.slow
def test_the_runs_have_the_extensions(extended: tuple[Path, str]) -> None:
    _, uri = extended
    made: list[Any] = runs(uri)
    assert {run.info.status for run in made} == {"FINISHED"}
    params = [(run.data.params["model.name"], run.data.params["data.name"]) for run in made]
    assert {("allconv", "digits"), ("mlp", "flipped")} <= set(params)
    assert "ngd" in {run.data.params["optimizer.name"] for run in made}
    for run in made:
        assert 0 < run.data.metrics["test_worst_accuracy"] <= 1
    assert 0 < made[-1].data.metrics["best_val_worst_accuracy"] <= 1
    assert "figures/12_confidence.png" in files(uri, made[-1].info.run_id, "figures")
    flipped, upright = (made[params.index(("mlp", name))] for name in ("flipped", "digits"))
    assert flipped.data.tags["data_digest"] != upright.data.tags["data_digest"]


@pytest.mark.slow
def test_the_reference_lists_the_extensions(extended: tuple[Path, str]) -> None:
    copy, _ = extended
    script = [sys.executable, "scripts/reference.py"]
    subprocess.run(script, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy / "src")}, check=True)
    page = (copy / "docs" / "reference.md").read_text()
    for choice in ("model=allconv", "data=flipped", "optimizer=ngd"):
        assert f"### {choice}\n" in page


@pytest.mark.slow
def test_the_extended_code_passes_ruff(extended: tuple[Path, str]) -> None:
    copy, _ = extended
    ruff = Path(sys.executable).with_name("ruff")
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run([ruff, *check, "src"], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
