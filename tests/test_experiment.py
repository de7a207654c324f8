"""Whole runs, as real processes on a part of the real data: what they record in MLflow, and how they end."""

import ast
import inspect
import io
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PROJECT, SHRUNK, command, start
from mnist_files import idx
from stores import artifact, files, history, made, runs

from experiments.config.composition import compose_job
from experiments.errors import NotFiniteError, StoreError
from experiments.experiment import run_experiment
from experiments.reproduction.original_run import find_original_run
from experiments.tracking.store import connect_store
from experiments.training.checkpoints import CHECKPOINT_FOLDER

DIGITS = ["data=digits", "training.epochs=2"]
PER_EPOCH = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "epoch_seconds", "examples_per_second")
FINAL = {"test_loss", "test_accuracy", "test_error_percent", "best_val_accuracy", "best_epoch", "train_seconds"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, mnist: Path) -> tuple[str, Any, str]:
    """One run of the default config on a part of the real MNIST: the store, the run, and what was printed."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    done = command(*SHRUNK, "model.dropout=0.3", f"tracking.uri={uri}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return uri, runs(uri)[0], done.stdout


@pytest.mark.slow
def test_run_logs_its_config_as_params(finished: tuple[str, Any, str]) -> None:
    _, run, _ = finished
    params = run.data.params
    expected = {
        "seed": "0",
        "data.name": "mnist",
        "data.validation": "200",
        "model.name": "mlp",
        "model.units": "[128]",
        "model.dropout": "0.3",
        "optimizer.name": "adam",
        "optimizer.learning_rate": "0.001",
        "schedule.name": "constant",
        "training.epochs": "2",
        "training.batch_size": "32",
        "training.threads": "1",
    }
    assert {key: params[key] for key in expected} == expected
    assert run.info.run_name == "limit=1200 validation=200 epochs=2 dropout=0.3"
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_run_logs_metrics_of_every_epoch_and_final_metrics(finished: tuple[str, Any, str]) -> None:
    uri, run, printed = finished
    assert set(run.data.metrics) == {*PER_EPOCH, *FINAL}
    client = connect_store(uri)
    for name in PER_EPOCH:
        assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == [1, 2]
    assert run.data.metrics["test_accuracy"] > 0.7
    accuracy = run.data.metrics["test_accuracy"]
    assert run.data.metrics["test_error_percent"] == pytest.approx(100 * (1 - accuracy), abs=1e-4)
    assert f"{accuracy:.2%}" in printed


@pytest.mark.slow
def test_run_records_code_data_config_and_environment(finished: tuple[str, Any, str]) -> None:
    uri, run, _ = finished
    run_id, tags = run.info.run_id, run.data.tags
    assert len(tags["fingerprint"]) == 64
    assert tags["data_digest"] == run.inputs.dataset_inputs[0].dataset.digest
    assert {"git_commit", "git_dirty", "mlflow.note.content"} <= set(tags)
    assert files(uri, run_id) >= {"config", "environment", "figures", "predictions", "tables"}
    assert json.loads(artifact(uri, run_id, "environment/hardware.json"))["cores"] >= 1
    assert "tensorflow==" in artifact(uri, run_id, "environment/packages.txt")
    assert "dropout: 0.3" in artifact(uri, run_id, "config/config.yaml")
    assert "model.dropout=0.3" in artifact(uri, run_id, "config/overrides.yaml")
    figures = {"figures/01_learning_curves.png", "figures/02_confusion_matrix.png", "figures/06_predictions.png"}
    assert files(uri, run_id, "figures") >= figures
    assert artifact(uri, run_id, "predictions/test.csv").count("\n") == 10_001


@pytest.mark.slow
def test_logged_model_predicts_without_this_project(
    finished: tuple[str, Any, str], mnist: Path, tmp_path: Path
) -> None:
    uri, run, _ = finished
    from experiments.config.composition import compose_job
    from experiments.data.datasets import load_dataset

    test = load_dataset(compose_job([]).data, 0).test
    np.save(tmp_path / "images.npy", test.inputs[:300])
    script = f"""
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "experiments": raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import numpy as np, mlflow, keras
mlflow.set_tracking_uri({uri!r})
images = np.load({str(tmp_path / "images.npy")!r})
probabilities = mlflow.pyfunc.load_model("runs:/{run.info.run_id}/model").predict(images)
file = mlflow.artifacts.download_artifacts("runs:/{run.info.run_id}/model") + "/data/model.keras"
assert np.allclose(keras.saving.load_model(file).predict(images, verbose=0), probabilities, atol=1e-6)
np.save({str(tmp_path / "predicted.npy")!r}, np.asarray(probabilities).argmax(1))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    table = np.genfromtxt(
        io.StringIO(artifact(uri, run.info.run_id, "predictions/test.csv")), delimiter=",", names=True
    )
    assert np.load(tmp_path / "predicted.npy").tolist() == table["predicted"][:300].tolist()


@pytest.mark.slow
def test_default_network_reaches_the_published_accuracy_on_mnist(mnist: Path, uri: str) -> None:
    run = made(uri, "report.figures=none")
    assert run.data.metrics["test_accuracy"] >= 0.975
    assert run.data.metrics["test_accuracy"] < 0.99  # not trained on the test images


@pytest.mark.slow
def test_digits_experiment_reaches_95_percent_without_a_download(uri: str) -> None:
    run = made(uri, "experiment=digits", "report.figures=none")
    expected = compose_job(["experiment=digits"]).expected
    assert expected
    assert expected.mean
    assert expected.standard_deviation
    assert 0.95 < run.data.metrics["test_accuracy"] < expected.mean + 3 * expected.standard_deviation


def test_run_experiment_fits_on_one_screen() -> None:
    function = ast.parse(textwrap.dedent(inspect.getsource(run_experiment))).body[0]
    assert isinstance(function, ast.FunctionDef)
    _, first, *_ = function.body  # after the docstring
    assert first.lineno + 45 > (function.end_lineno or 0)


@pytest.mark.slow
def test_loss_that_is_not_finite_fails_the_run_and_keeps_its_log(uri: str) -> None:
    # The loss stays finite in the first epoch and explodes with the learning rate that follows it.
    rates = ["schedule=piecewise", "schedule.boundaries=[1]", "schedule.factors=[1e30]"]
    done = command("data=digits", "training.epochs=3", *rates, f"tracking.uri={uri}")
    assert done.returncode == 1
    assert "in epoch 2 of 3. Likely causes: optimizer.learning_rate is too large" in done.stderr
    assert "Traceback" not in done.stderr
    run = runs(uri)[0]
    assert run.info.status == "FAILED"
    assert [step for step, _ in history(uri, run.info.run_id)["loss"]] == [1]
    assert "NotFiniteError" in artifact(uri, run.info.run_id, "error/traceback.txt")
    assert list(CHECKPOINT_FOLDER.glob(f"{run.info.run_id}*")) == []  # as it would only fail again


@pytest.mark.slow
def test_test_loss_that_is_not_finite_fails_the_run(uri: str) -> None:
    # The one step of the run: its loss is that of the weights before it, and no validation is of those after it.
    one_step = ["data.validation=0", "training.batch_size=1437", "training.epochs=1"]
    with pytest.raises(NotFiniteError) as caught:
        made(uri, "data=digits", *one_step, "optimizer=sgd", "optimizer.learning_rate=1e38", "report.figures=none")
    assert str(caught.value).startswith("test_loss became nan after training. Likely causes: optimizer.learning_rate")
    (run,) = runs(uri)
    assert run.info.status == "FAILED"
    with pytest.raises(StoreError, match="Resuming it would fail again: test_loss became nan"):
        find_original_run(run.info.run_id, uri)
    assert set(history(uri, run.info.run_id)) == {"loss", "accuracy", "learning_rate"}


@pytest.mark.soak
def test_concurrent_runs_on_a_new_store_all_succeed(new_uri: str) -> None:
    arguments = ["data=digits", "training.epochs=1", "report.figures=none", "tracking.experiment=several"]
    processes = [start(*arguments, f"seed={seed}", f"tracking.uri={new_uri}") for seed in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
    assert [run.info.status for run in runs(new_uri)] == ["FINISHED"] * 2
    client = connect_store(new_uri)
    assert {client.get_experiment(run.info.experiment_id).name for run in runs(new_uri)} == {"several"}


@pytest.mark.slow
@pytest.mark.usefixtures("tensorflow")
def test_fashion_mnist_is_read_from_idx_files(uri: str, tmp_path: Path) -> None:
    folder, random = tmp_path / "fashion", np.random.default_rng(0)
    folder.mkdir()
    for prefix, count in (("train", 300), ("t10k", 60)):
        images = random.integers(0, 256, (count, 28, 28), np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8) % 10))
    sizes = ["data.train_examples=300", "data.test_examples=60", "data.validation=50", "data.checksums=null"]
    arguments = ["data=fashion_mnist", f"data.path={folder}", *sizes, "training.epochs=1", "training.threads=1"]
    arguments += ["report.figures=none", f"tracking.uri={uri}"]
    config = compose_job(arguments)
    run_experiment(config, arguments)
    assert "Ankle boot" in artifact(uri, runs(uri)[0].info.run_id, "tables/per_class.json")


@pytest.mark.slow
def test_run_without_data_and_network_lists_the_places_and_the_options(tmp_path: Path) -> None:
    nowhere = {"EXPERIMENTS_DATA_DIR": str(tmp_path), "KERAS_HOME": str(tmp_path)}
    proxy = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    before = time.perf_counter()
    done = command("data=fashion_mnist", f"tracking.uri=sqlite:///{tmp_path}/store/mlflow.db", **nowhere, **proxy)
    assert time.perf_counter() - before < 30
    assert done.returncode == 2
    assert f"$EXPERIMENTS_DATA_DIR: {tmp_path}/fashion_mnist does not exist" in done.stderr
    assert "data=digits or data=linear, which need no files" in done.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize("group", ["schedule", "model"])
def test_every_shipped_choice_trains(group: str, uri: str) -> None:
    arguments = ["data=digits", "data.limit=300", "training.epochs=2", "training.threads=1", "report.figures=none"]
    arguments += ["tracking.log_model=false", f"tracking.uri={uri}"]
    shipped = {path.stem for path in (PROJECT / "conf" / group).glob("*.yaml")} - {"neuron"}  # no network for images
    for choice in sorted(shipped):
        # Applications of Keras need larger images.
        padding = ["data.padding=12"] if choice == "keras" else []
        config = compose_job([f"{group}={choice}", *padding, *arguments])
        run_experiment(config, arguments)
    assert {run.info.status for run in runs(uri)} == {"FINISHED"}
    assert {run.data.params[f"{group}.name"] for run in runs(uri)} == shipped


@pytest.mark.slow
def test_single_neuron_learns_the_line(uri: str) -> None:
    run = made(uri, "experiment=single_neuron")
    assert run.data.metrics["learned_weight"] == pytest.approx(0.61, abs=0.03)
    assert "test_mean_absolute_error" in run.data.metrics
    assert "figures/02_regression_fit.png" in files(uri, run.info.run_id, "figures")


@pytest.mark.slow
def test_password_in_the_tracking_uri_is_never_recorded_or_printed(uri: str) -> None:
    with_password = "http://bob:s3cret@127.0.0.1:9"
    done = command("data=digits", f"tracking.uri={with_password}")
    assert done.returncode == 2
    assert "127.0.0.1:9 does not answer" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout

    done = command(*DIGITS, "report.figures=none", f"tracking.uri={uri}", MLFLOW_TRACKING_URI=with_password)
    assert done.returncode == 0, done.stderr
    assert "s3cret" not in done.stderr + done.stdout
    run = runs(uri)[0]
    assert "tracking.uri" not in run.data.params
    assert "uri: null" in artifact(uri, run.info.run_id, "config/config.yaml")
