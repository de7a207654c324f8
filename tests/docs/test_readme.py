"""The README is enforced: its commands are run, and its outputs compared."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT, command
from mnist_files import idx
from own_data import own_pictures
from stores import runs

from experiments.config.composition import compose_job

README = (PROJECT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
LINES = [line.partition(" #")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
RUNS = [line for line in LINES if re.match(r"python run\.py(?! -|.*=RUN_ID|.* distribution=)", line)]
OTHERS = [line for line in LINES if line and line not in RUNS]
SWEEPS = [line for line in OTHERS if "run.py -m " in line and "optuna" not in line]
SHRINK = "data.limit={} data.validation={} training.epochs={} training.threads=1 report.figures=light"


def arguments(line: str) -> list[str]:
    # shlex leaves brackets alone, as a shell does when no file matches.
    return shlex.split(line)[2:]


def shrunk(line: str, uri: str, folder: Path) -> list[str]:
    """Return the overrides of a command, on little data and in the store of this test."""
    limit = SHRINK.format(400, 100, 2).split()
    if "debug=overfit" in line:
        limit = SHRINK.split()[3:]  # it trains on one batch
    if "single_neuron" in line:
        limit = ["training.epochs=2"]
    if "data=images" in line:
        line, limit = line.replace("FOLDER", str(own_pictures())), SHRINK.split()[2:]
        limit[0] = "training.epochs=2"
    if "fashion_mnist" in line:
        for prefix, count in (("train", 400), ("t10k", 40)):
            images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)
            (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
            (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8) % 10))
        limit += [f"data.path={folder}", "data.train_examples=400", "data.test_examples=40", "data.checksums=null"]
    return [*arguments(line), *limit, f"tracking.uri={uri}"]


@pytest.mark.slow
@pytest.mark.parametrize("line", RUNS)
def test_a_run_of_the_readme_finishes(line: str, uri: str, tmp_path: Path, mnist: Path) -> None:
    overrides = shrunk(line, uri, tmp_path)
    from experiments.experiment import run_experiment

    config = compose_job(overrides)
    run_experiment(config, overrides)
    (run,) = runs(uri)
    assert run.info.status == "FINISHED"


def test_every_other_command_has_a_test() -> None:
    known = {
        "make run": "Makefile",
        'make run ARGS="model.dropout=0.3"': "Makefile",
        "make ui": "Makefile",
        "python run.py resume=RUN_ID": "tests/reproduction/test_resume.py",
        "python run.py model.continue=RUN_ID training.epochs=20": "tests/reproduction/test_continue.py",
        "python run.py experiment=walkthrough_batch64 model.weights=RUN_ID": "tests/end_to_end/test_debug.py",
        "python run.py --help": "tests/test_cli.py",
        "python run.py --cfg job model=cnn": "tests/test_cli.py",
        'eval "$(python run.py -sc install=bash)"': "tests/test_cli.py",
        "python run.py distribution=mirrored distribution.devices=2": "tests/training/test_distribution.py",
        "python run.py distribution=multi_worker distribution.workers=2": "tests/training/test_distribution.py",
        **dict.fromkeys(SWEEPS, "tests/docs/test_readme.py"),
        "python run.py -m hydra/sweeper=optuna 'model.dropout=interval(0,0.5)'"
        " 'optimizer.learning_rate=tag(log,interval(1e-4,1e-2))'": "tests/sweeps/test_search_runs.py",
        "python run.py -m hydra/sweeper=optuna search=mlp hydra.sweeper.n_trials=50 hydra.sweeper.pruner=median": (
            "tests/sweeps/test_search.py"
        ),
        "python scripts/reproduce.py RUN_ID": "tests/reproduction/test_rerun.py",
        "python scripts/reproduce.py RUN_ID --export FILE": "tests/reproduction/test_bundle.py",
        "python scripts/reproduce.py walkthrough": "tests/reproduction/test_published.py",
        "python scripts/predict.py RUN_ID IMAGE...": "tests/comparison/test_predict.py",
        "python scripts/compare.py": "tests/comparison/test_comparison.py",
        "python scripts/compare.py --group-by seed": "tests/comparison/test_comparison.py",
        "python scripts/ui.py --sweep RUN_ID": "tests/tracking/test_ui.py",
        "python scripts/delete.py RUN_ID": "tests/tracking/test_deletion.py",
        "python scripts/evaluate.py RUN_ID": "tests/comparison/test_evaluate.py",
        "mlflow models serve -m runs:/RUN_ID/model --env-manager local": "tests/docs/test_from_run_to_use.py",
        "python scripts/export.py RUN_ID --format onnx": "tests/docs/test_from_run_to_use.py",
        "python scripts/promote.py SWEEP_ID --name digits --alias champion": "tests/sweeps/test_promotion.py",
        "python scripts/benchmark.py startup walkthrough": "tests/docs/test_benchmark.py",
        "pip install .": "tests/commands/test_installed.py",
        "experiments --help": "tests/commands/test_tool.py",
        "experiments run data=digits": "tests/commands/test_installed.py",
        "experiments sweep data=digits seed=0,1": "tests/commands/test_tool.py",
        "experiments new my-project": "tests/commands/test_installed.py",
        'eval "$(experiments run -sc install=bash)"': "tests/commands/test_tool.py",
        "python scripts/gpu_check.py": "tests/docs/test_gpu_check.py",
    }
    assert set(OTHERS) == set(known)
    for path in known.values():
        assert (PROJECT / path).exists()


@pytest.mark.parametrize(("line", "runs"), list(zip(SWEEPS, (6, 6, 5), strict=True)))
def test_a_sweep_of_the_readme_plans_its_runs(line: str, runs: int, new_uri: str, mnist: Path) -> None:
    done = command(
        *arguments(line), *SHRINK.format(200, 50, 1).split(), "sweep.dry_run=true", f"tracking.uri={new_uri}"
    )
    assert done.returncode == 0, done.stderr
    assert f"Sweep of {runs} runs in experiment mnist" in done.stdout


def test_the_outputs_in_the_readme_are_real() -> None:
    (session,) = [text for kind, text in BLOCKS if kind == "console"]
    for part in session.strip().split("$ ")[1:]:
        line, _, expected = part.partition("\n")
        assert command(*arguments(line)).stderr.strip() == expected.strip()


def test_the_yaml_in_the_readme_composes(tmp_path: Path) -> None:
    (text,) = [text for kind, text in BLOCKS if kind == "yaml"]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "own.yaml").write_text(text)
    config = compose_job(["model=own"], config_dir=str(tmp_path))
    from experiments.runtime import start_tensorflow
    from experiments.training.networks import build_network

    start_tensorflow(1)
    assert build_network(config).output_shape == (None, 10)
