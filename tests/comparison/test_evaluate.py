"""Evaluating the model of a run again: real runs on the digits, and the command as a user runs it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT, command
from mnist_files import idx
from stores import artifact, made, runs

from experiments.comparison.evaluate import evaluate_run
from experiments.errors import ConfigError, UserError
from experiments.tracking.run import open_run
from experiments.tracking.store import connect_store

SMALL = ["data=digits", "training.epochs=2", "report.figures=none"]
PREFIX = "evaluation_digits"


def evaluate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return command(*arguments, script="scripts/evaluate.py", **environment)


def own_images(folder: Path, classes: int = 10) -> list[str]:
    """Write files of 30 random images the size of digits, and return the overrides that read them."""
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 17, (30, 8, 8), np.uint8)
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(30, dtype=np.uint8) % classes))
    counts = ["data.train_examples=30", "data.test_examples=30", "data.checksums=null"]
    return ["data=mnist", f"data.path={folder}", *counts, "data.shape=[8,8]", "data.pixel_max=16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The tracking URI of a store with a run on the digits, with a penalty in its loss, and the run's id."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    return uri, made(uri, *SMALL, "model.kernel_regularizer={l2: {l2: 0.001}}").info.run_id


def test_evaluate_help_loads_no_heavy_module() -> None:
    script = (
        "import atexit, runpy, sys; sys.argv = ['evaluate.py', '--help'];"
        "heavy = ('tensorflow', 'keras', 'mlflow', 'pandas');"
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr));"
        "runpy.run_path('scripts/evaluate.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert "data=fashion_mnist" in done.stdout


@pytest.mark.parametrize(
    "override", ["model.dropout=0.3", "data.mean=0.5", "data.padding=2", "data.limit=100", "data.augmentation.shift=1"]
)
def test_overrides_may_change_only_the_test_set(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluate_run("1234", ["data=digits", override])
    assert str(caught.value) == (
        f"{override!r} does not concern the test set; everything else, including preprocessing, stays as in the run."
        " Expected: data=NAME, or data.KEY=VALUE with one of path, checksums, train_examples, test_examples, shape,"
        " classes, class_names, pixel_max, size, fit, color, test_fraction, split_seed, split, slope, noise"
    )


@pytest.mark.slow
def test_evaluation_on_the_own_test_set_repeats_the_test_metrics(run: tuple[str, str]) -> None:
    uri, run_id = run
    (before,) = runs(uri)
    done = evaluate(run_id[:12], "--uri", uri)
    assert done.returncode == 0, done.stderr
    (after,) = runs(uri)
    assert (after.info.status, after.info.start_time) == ("FINISHED", before.info.start_time)
    assert after.info.end_time == before.info.end_time
    assert after.data.params == before.data.params

    metrics = after.data.metrics
    assert metrics[f"{PREFIX}_accuracy"] == before.data.metrics["test_accuracy"]
    assert metrics[f"{PREFIX}_error_percent"] == before.data.metrics["test_error_percent"]
    assert metrics[f"{PREFIX}_loss"] == pytest.approx(before.data.metrics["test_loss"], abs=1e-6)
    assert 0 < metrics[f"{PREFIX}_expected_calibration_error"] < 1
    assert artifact(uri, run_id, f"tables/{PREFIX}.json") == artifact(uri, run_id, "tables/per_class.json")
    shown = {table["path"] for table in json.loads(after.data.tags["mlflow.loggedArtifacts"])}
    assert {f"tables/{PREFIX}.json", "tables/per_class.json"} <= shown
    assert len(after.inputs.dataset_inputs) == 1

    lines = [line.split() for line in done.stdout.splitlines()]
    assert [f"{PREFIX}_accuracy", f"{metrics[f'{PREFIX}_accuracy']:.2%}"] in lines
    assert ["class", "examples", "errors", "accuracy", "error_percent"] in lines
    assert f"python scripts/compare.py --uri {uri}" in done.stderr


@pytest.mark.slow
def test_evaluation_on_own_files_is_added_under_their_digest(run: tuple[str, str], tmp_path: Path) -> None:
    uri, run_id = run
    own = own_images(tmp_path / "ten")
    done = evaluate(run_id, "--uri", uri, *own)
    assert (done.returncode, done.stdout.splitlines()[1].rstrip().endswith("%")) == (0, True), done.stdout
    (first,) = runs(uri)
    (error,) = (name for name in first.data.metrics if name.endswith("_error_percent") and "mnist" in name)
    assert first.data.metrics[error] > 50
    assert error == f"evaluation_mnist_{first.inputs.dataset_inputs[1].dataset.digest[:8]}_error_percent"
    assert [i.dataset.name for i in first.inputs.dataset_inputs] == ["digits", "mnist"]

    one_class = own_images(tmp_path / "one", classes=1)
    assert evaluate(run_id, *one_class, "--uri", uri).returncode == 0
    (second,) = runs(uri)
    prefix = f"evaluation_mnist_{second.inputs.dataset_inputs[2].dataset.digest[:8]}"
    table = json.loads(artifact(uri, run_id, f"tables/{prefix}.json"))
    assert [row[1] for row in table["data"]] == [30, *[0] * 9]
    wrong = sum(row[2] for row in table["data"])
    assert second.data.metrics[f"{prefix}_error_percent"] == 100 * wrong / 30
    assert second.data.metrics[error] == first.data.metrics[error]

    split = ["data.checksums=null", "data.train_examples=1000", "data.test_examples=797"]
    (accuracy,) = [key for key in evaluate_run(run_id, split, uri).metrics if key.endswith("_accuracy")]
    assert re.fullmatch(f"{PREFIX}_[0-9a-f]{{8}}_accuracy", accuracy)
    assert second.info.status == "FINISHED"


@pytest.mark.slow
def test_data_that_is_missing_or_does_not_fit_is_refused_in_one_line(run: tuple[str, str], tmp_path: Path) -> None:
    uri, run_id = run
    takes = "images of 8 x 8 pixels from 0 to 16 in 10 classes"
    for overrides, message in [
        (["data=mnist"], f"which takes {takes}: these are images of 28 x 28 pixels from 0 to 255 in 10 classes."),
        (["data=linear"], f"which takes {takes}: these are single numbers to predict a number."),
        (["data.classes=2", "data.class_names=[a,b]"], ": these are images of 8 x 8 pixels from 0 to 16 in 2 cl"),
        (["data.test_examples=10"], "expected images (10, 8, 8) (data.test_examples and data.shape)"),
        (["data=digit"], "data=digit is not a choice (did you mean 'digits'?)"),
        ([*own_images(tmp_path / "own"), f"data.path={tmp_path}/none"], f"{tmp_path}/none does not exist"),
    ]:
        with pytest.raises(UserError) as refused:
            evaluate_run(run_id, overrides, uri)
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)
    done = evaluate(run_id, "data=digit", "--uri", uri)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.slow
def test_run_that_is_unknown_or_has_no_model_is_refused_in_one_line(uri: str) -> None:
    connect_store(uri)
    unknown = evaluate("0" * 32, "--uri", uri)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert unknown.stderr.startswith(f"There is no run '{'0' * 32}' in {uri}.")

    with open_run(uri, "another", None, {}, {}) as without:
        pass
    done = evaluate(without.run_id, "--uri", uri)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"Run {without.run_id} in {uri} has no model: runs log it at the end, unless tracking.log_model=false.\n"
    )


@pytest.mark.slow
def test_evaluation_of_a_regression_has_no_classes(uri: str) -> None:
    run_id = made(uri, "experiment=single_neuron", "training.epochs=2", "report.figures=none").info.run_id
    done = evaluate(run_id, MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0, done.stderr
    assert "class" not in done.stdout
    exact = evaluate_run(run_id, ["data.noise=0"], uri).metrics
    (after,) = runs(uri)
    prefix = f"evaluation_linear_{after.inputs.dataset_inputs[1].dataset.digest[:8]}"
    assert exact.keys() == {f"{prefix}_loss", f"{prefix}_mean_absolute_error"}
    assert {name for name in after.data.metrics if name.startswith("evaluation")} == {
        "evaluation_linear_loss",
        "evaluation_linear_mean_absolute_error",
        *exact,
    }
    for name in ("loss", "mean_absolute_error"):
        assert after.data.metrics[f"evaluation_linear_{name}"] == pytest.approx(
            after.data.metrics[f"test_{name}"], abs=1e-6
        )
