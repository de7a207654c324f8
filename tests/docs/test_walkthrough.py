"""docs/walkthrough.md and its notebook work.

Every single run of the page and every cell is made on little data, with the pictures and lines below it. Of sweeps only
the configs are composed; commands on SWEEP_ID are covered by the tests of compare.py.
"""

import ast
import json
import math
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import PROJECT
from stores import files, runs

from experiments.config.composition import compose_job
from experiments.config.sweep_composition import compose_sweep

SCRIPT = runpy.run_path(str(PROJECT / "scripts" / "walkthrough.py"))
PAGE = PROJECT / "docs" / "walkthrough.md"
NOTEBOOK = PROJECT / "docs" / "walkthrough.ipynb"
STEPS = SCRIPT["steps"](PAGE.read_text())
LARGEST, LARGEST_TOGETHER = 120_000, 1_500_000  # bytes
SHRUNK = ["data.limit=1200", "data.validation=100", "training.epochs=2", "training.threads=1"]
SHRUNK_NEURON = ["training.epochs=2", "training.threads=1"]
FIGURES_OF_A_SWEEP = {"figures/02_effects.png", "figures/03_heat_map.png"}  # the latter over two parameters


def shrunk(overrides: list[str]) -> list[str]:
    return [*overrides, *(SHRUNK_NEURON if "experiment=single_neuron" in overrides else SHRUNK)]


def run_script(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PROJECT / words[0]), run_name="__main__")
    assert ended.value.code == 0


@pytest.mark.slow
def test_every_command_makes_the_pictures_and_lines_below_it(
    uri: str,
    tmp_path: Path,
    mnist: Path,
    tensorflow: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from experiments.experiment import run_experiment

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run_id = ""
    drawn: dict[bool, set[str]] = {}  # the figures of a network's run, and of a single neuron's
    for step in STEPS:
        line = step.command.replace("RUN_ID", run_id).replace("outputs", str(tmp_path))
        words = shlex.split(line)[1:]
        if "SWEEP_ID" in words:  # tests/comparison has sweeps
            assert set(step.pictures.values()) <= set(shlex.split(step.command)), step.command
            continue
        made: set[str] = set()
        if words[0] == "run.py" and "--cfg" not in words:
            is_sweep, is_neuron = words[1:2] == ["-m"], "experiment=single_neuron" in words
            overrides = shrunk(words[1 + is_sweep :])
            if is_neuron in drawn:
                overrides.append("report.figures=none")
            if is_sweep:  # tests/sweeps runs some
                assert compose_sweep(overrides).jobs
                assert set(step.pictures.values()) <= FIGURES_OF_A_SWEEP, step.command
                continue
            run_id = run_experiment(compose_job(overrides), overrides)
            made = drawn.setdefault(is_neuron, files(uri, run_id, "figures"))
            printed = capsys.readouterr().out
        elif words[0].startswith("scripts/"):
            run_script(words, monkeypatch)
            printed = capsys.readouterr().out
        else:
            environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
            done = subprocess.run(
                [sys.executable, *words], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, done.stderr
            printed = done.stdout
        SCRIPT["renewed"](step.printed, printed)
        assert set(step.pictures.values()) <= made, step.command
    assert {run.info.status for run in runs(uri)} == {"FINISHED"}


def test_the_pictures_are_small_and_on_the_page() -> None:
    named = {path for step in STEPS for path in step.pictures}
    there = set((PAGE.parent / "images" / "walkthrough").iterdir())
    assert {path.name for path in there - named} == {"seven.png", "unsure.png"}  # inputs, drawn by hand
    assert named <= there
    assert max(path.stat().st_size for path in there) < LARGEST
    assert sum(path.stat().st_size for path in there) < LARGEST_TOGETHER


def test_a_step_is_a_command_with_its_lines_and_pictures() -> None:
    block = "```bash\npython a.py  # says why\npython b.py \\\n    c=d\n```\n"
    text = block + '```text\none  1\n───\n```\n![x](images/x.png "f/1.png")'
    first, second = SCRIPT["steps"](text)
    assert first == ("python a.py", [], {})
    assert second == ("python b.py c=d", ["one  1", "───"], {PAGE.parent / "images" / "x.png": "f/1.png"})


def test_a_printed_line_is_replaced_by_the_next_one_with_its_first_word() -> None:
    output = "two   5\n one   7 \none   8\n"
    assert SCRIPT["renewed"](["one  1", "───", "one  2"], output) == [" one   7", "───", "one   8"]
    with pytest.raises(ValueError, match="No further line begins with 'two'"):
        SCRIPT["renewed"](["one  1", "two  1"], output)


def test_the_notebooks_imports_exist() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and "experiments" in str(node.module)]
    ours: dict[str, Any] = {}
    exec(compile(ast.Module(list(imports), []), str(NOTEBOOK), "exec"), ours)  # loads nothing heavy
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = ours.get(node.value.id)
            assert not isinstance(module, ModuleType) or hasattr(module, node.attr), f"no {node.value.id}.{node.attr}"


def test_the_page_counts_the_weights_of_the_first_dense_layer() -> None:
    config = compose_job(["experiment=walkthrough"])
    (units,) = config.model.units
    pixels = math.prod(config.data.shape)
    said = f"{pixels} × {units} weights and {units} biases, {pixels * units + units:,} numbers"
    assert said in " ".join(PAGE.read_text().split())


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(uri: str, mnist: Path, tensorflow: None) -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    namespace: dict[str, Any] = {"__name__": "__main__"}
    given = 'always = ["tracking.experiment=notebook"]'
    first, *_ = cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    source = "".join(first["source"])
    assert source.count(given) == 1
    first["source"] = source.replace(given, f"always = {[*SHRUNK, f'tracking.uri={uri}']}")
    for cell in cells:
        assert (cell["outputs"], cell["execution_count"]) == ([], None), "outputs are not kept in the repository"
        execute("".join(cell["source"]), namespace)


def execute(source: str, namespace: dict[str, Any]) -> None:
    """Run a cell, and draw what it ends in, as Jupyter does."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), namespace)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), namespace)
        if hasattr(value, "_repr_png_"):
            assert value._repr_png_().startswith(b"\x89PNG")
