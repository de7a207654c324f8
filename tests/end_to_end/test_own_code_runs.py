"""Runs with code of a user's own keep every promise: recorded, repeated to the last bit, swept, evaluated."""

from pathlib import Path

import pytest
from conftest import command
from own_code import loaded, write_own_code
from stores import artifact, files, runs

from experiments.config.composition import compose_job
from experiments.data.datasets import load_dataset

SHRUNK = ["data=stripes", "model=noisy", "optimizer=ngd", "training.epochs=2", "training.threads=1"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own_code(tmp_path_factory.mktemp("own") / "my-project")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, project: Path) -> str:
    """Return a store with one run of own data, model, optimizer and figure."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    done = command("--code", str(project), *SHRUNK, f"tracking.uri={uri}")
    assert done.returncode == 0, done.stderr
    assert f"reproduce.py {runs(uri)[0].info.run_id} --code {project}" in done.stdout
    return uri


def test_the_code_is_recorded_with_the_run_and_its_figure_drawn(uri: str, project: Path) -> None:
    (run, *_) = runs(uri)
    run_id = run.info.run_id
    assert artifact(uri, run_id, "code/networks.py") == (project / "networks.py").read_text()
    assert run.data.tags["own_code"] == "my-project"
    assert "figures/50_confidence.png" in files(uri, run_id, "figures")
    assert run.data.params["data.classes"] == "2"
    assert run.data.params["model.deviation"] == "0.3"


def test_a_run_is_reproduced_bitwise_with_its_code_and_names_it_without(uri: str, project: Path) -> None:
    run_id = runs(uri)[0].info.run_id
    done = command(run_id, "--uri", uri, "--code", str(project), script="scripts/reproduce.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal to the last bit" in done.stdout
    without = command(run_id, "--uri", uri, script="scripts/reproduce.py")
    assert without.returncode == 2
    assert "my-project with the digest" in without.stderr
    assert "Add --code FOLDER" in without.stderr


def test_a_model_with_layers_of_the_users_own_is_evaluated(uri: str, project: Path) -> None:
    done = command(runs(uri)[0].info.run_id, "--uri", uri, "--code", str(project), script="scripts/evaluate.py")
    assert done.returncode == 0, done.stderr
    assert "evaluation_stripes_" in done.stdout


@pytest.mark.slow
def test_workers_of_a_sweep_load_the_code(uri: str, project: Path) -> None:
    options = ["hydra.launcher.workers=1", "report.figures=none", f"tracking.uri={uri}"]
    done = command("-m", "--code", str(project), *SHRUNK, "model.deviation=0.3,0.5", *options)
    assert done.returncode == 0, done.stderr
    first, swept = runs(uri)[0], [run for run in runs(uri) if "mlflow.parentRunId" in run.data.tags]
    assert [run.info.status for run in swept] == ["FINISHED"] * 2
    same = next(run for run in swept if run.data.params["model.deviation"] == "0.3")
    assert same.data.metrics["test_loss"] == first.data.metrics["test_loss"]


def test_own_noise_is_the_same_under_fit_and_in_the_compiled_loop(project: Path, tensorflow: None) -> None:
    from experiments.training.cluster import ClusterMember
    from experiments.training.devices import start_strategy
    from experiments.training.network_cache import compile_network
    from experiments.training.trainer import Trainer

    losses = {}
    with loaded(project):
        for loop in ("compiled", "fit"):
            config = compose_job([*SHRUNK, f"training.loop={loop}"])
            network = compile_network(config, start_strategy(config.distribution, 1))
            trainer = Trainer(config, network, load_dataset(config.data, 0), None)
            losses[loop] = [metrics["loss"] for _, metrics in trainer.run(ClusterMember())]
    assert losses["fit"] == pytest.approx(losses["compiled"], rel=1e-5)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("keras.layers.GaussianNoise(0.1)", "(GaussianNoise) is refused"),
        ("Plain()", "could not be loaded from its file again. Decorate each layer"),
        ("Random()", "uses TensorFlow's RandomStandardNormal, whose numbers depend on the order of calls"),
        ("nothing", "own.py, line 15: NameError: name 'nothing' is not defined"),
    ],
)
def test_a_network_that_cannot_keep_the_promises_is_refused(
    tmp_path: Path, tensorflow: None, layer: str, words: str
) -> None:
    text = f"""
import experiments

@experiments.model
def odd(inputs, outputs):
    import keras
    import tensorflow as tf
    class Plain(keras.layers.Layer):
        def call(self, inputs):
            return inputs
    @keras.saving.register_keras_serializable()
    class Random(keras.layers.Layer):
        def call(self, inputs, training=False):
            return inputs + tf.random.normal(tf.shape(inputs)) if training else inputs
    flat = {layer}(keras.layers.Flatten()(inputs))
    return keras.layers.Dense(outputs.units, activation=outputs.activation)(flat)
"""
    assert words in refused(write_own_code(tmp_path / "odd", own=text), "model=odd")


@pytest.mark.parametrize(
    ("override", "body", "words"),
    [
        (
            "training.loss=odd",
            "targets, outputs): return tf.reduce_mean(outputs)",
            "odd returned the shape ()",
        ),
        ("training.loss=odd", "targets, outputs): return targets.nothing", "loss odd failed"),
        ("training.loss=odd", "targets, outputs): return tf.zeros_like(targets)", "has no gradient"),
        (
            "training.loss=odd",
            "targets, outputs): return outputs[:, 0] * tf.random.uniform(tf.shape(targets))",
            "RandomUn",
        ),
        (
            "data.augmentation.own=[odd]",
            "images): return images + tf.random.normal(tf.shape(images))",
            "Normal",
        ),
        ("data.augmentation.own=[odd]", "images): return images[:, 1:]", "odd returned float32 (None, 7, 8); expected"),
        ("optimizer=odd", "learning_rate): return None", "optimizer odd returned NoneType; expected a Keras optimizer"),
        ("optimizer=odd", "rate): raise SystemExit(0)", "optimizer odd failed"),
    ],
)
def test_a_function_that_cannot_train_is_told_before_a_run_exists(
    tmp_path: Path, tensorflow: None, override: str, body: str, words: str
) -> None:
    kind = "loss" if "loss" in override else "augmentation" if "augmentation" in override else "optimizer"
    text = f"import experiments\nimport tensorflow as tf\n@experiments.{kind}\ndef odd({body}"
    assert words in refused(write_own_code(tmp_path / "odd", own=text), override)


def refused(folder: Path, override: str) -> str:
    """Return the message of the ConfigError that building the network of a config with own code raises."""
    from experiments.errors import ConfigError
    from experiments.training.devices import start_strategy
    from experiments.training.network_cache import compile_network

    with loaded(folder):
        config = compose_job(["data=digits", override])
        strategy = start_strategy(config.distribution, 1)
        with pytest.raises(ConfigError) as caught:
            compile_network(config, strategy)
    return str(caught.value)


def test_a_run_is_not_evaluated_with_other_code_than_it_was_made_with(uri: str, project: Path, tmp_path: Path) -> None:
    other = write_own_code(tmp_path / "other")
    (other / "networks.py").write_text((other / "networks.py").read_text() + "\n\nCHANGED = 1\n")
    done = command(runs(uri)[0].info.run_id, "--uri", uri, "--code", str(other), script="scripts/evaluate.py")
    assert done.returncode == 2
    assert "made with other code of its user's, my-project with the digest" in done.stderr
