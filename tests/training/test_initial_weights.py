"""Weights to start from, of files that Keras saved: all of them or those of matching layers; and frozen layers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from composed import job
from train_once import train

from experiments.config.identity import identity_tags
from experiments.config.schema import Config
from experiments.errors import ConfigError, StoreError
from experiments.runtime import start_tensorflow
from experiments.tracking.artifacts import check_initial_weights, load_initial_weights
from experiments.training.devices import start_strategy
from experiments.training.initial_weights import InitialWeights, start_from
from experiments.training.network_cache import CompiledNetwork, prepare_network
from experiments.training.networks import build_network

start_tensorflow(1)

import keras  # noqa: E402

SMALL = ["data=digits", "model=cnn", "model.filters=[2,3]", "model.batch_normalization=true", "training.threads=1"]
OTHER_HEAD = [*SMALL, "model.units=[5]", "model.weights_of=matching"]
FORMATS = ("model.keras", "model.weights.h5", "earlier.h5")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one network with drawn weights, in the three formats of Keras."""
    folder = tmp_path_factory.mktemp("saved")
    start_strategy(job(*SMALL).distribution, 1)  # so that the names of layers begin anew
    model = build_network(job(*SMALL, "seed=5"))
    model.get_layer("batch_normalization").moving_mean.assign([0.25, 0.5])
    for file in FORMATS:
        (model.save_weights if "weights" in file else model.save)(folder / file)
    return folder


def network(config: Config) -> CompiledNetwork:
    check_initial_weights(config)
    return prepare_network(config, start_strategy(config.distribution, 1), load_initial_weights(config))


def refusal(*overrides: str) -> str:
    with pytest.raises((ConfigError, StoreError)) as caught:
        network(job(*overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("file", FORMATS)
def test_a_network_starts_from_all_weights_of_a_file(saved: Path, file: str) -> None:
    found = network(job(*SMALL, f"model.weights={saved}/{file}"))
    expected = keras.saving.load_model(saved / "model.keras").get_weights()
    for ours, theirs in zip(found.model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert found.start == ""


@pytest.mark.parametrize("file", FORMATS)
def test_a_network_with_another_head_starts_from_the_layers_that_match(saved: Path, file: str) -> None:
    found = network(job(*OTHER_HEAD, f"model.weights={saved}/{file}"))
    assert found.start == (
        f"4 of 7 layers with weights start from model.weights={saved}/{file}; drawn by seed: dense,"
        " batch_normalization_2, dense_1."
    )
    theirs, drawn = keras.saving.load_model(saved / "model.keras"), build_network(job(*OTHER_HEAD[:-1]))
    for layer in ("conv2d", "batch_normalization", "conv2d_1", "batch_normalization_1"):
        for a, b in zip(found.model.get_layer(layer).get_weights(), theirs.get_layer(layer).get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(found.model.layers[-1].get_weights(), drawn.layers[-1].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_that_do_not_fit_are_refused_in_one_line(saved: Path) -> None:
    file = f"model.weights={saved}/model.keras"
    shapes = "3x3x1x2, 2, 2, 2, 2, 3x3x2x3, 3, 3, 3, 3, 12x10, 10"
    assert refusal(*SMALL, "model.units=[5]", file).startswith(
        f"{file} does not fit: its weights have the shapes {shapes}, but this network needs"
    )
    for other in FORMATS[1:]:
        file = f"model.weights={saved}/{other}"
        assert refusal(*SMALL, "model.units=[5]", file).startswith(f"{file} does not fit model=cnn: Keras says: ")
    file = f"model.weights={saved}/model.keras"
    assert refusal("data=digits", file, "model.weights_of=matching") == (
        f"{file} has no layer with the name and shapes of one of this network. Its layers: conv2d,"
        " batch_normalization, conv2d_1, batch_normalization_1, dense. Those of this network: dense, dense_1"
    )


def test_of_many_weights_only_those_from_the_first_that_does_not_fit_are_told() -> None:
    model = build_network(job("data=digits", "model=resnet", "model.depth=8"))
    values = model.get_weights()
    initial = InitialWeights("model.weights=FILE", {"all": [*values[:-2], np.zeros((64, 7)), np.zeros(7)]})
    with pytest.raises(ConfigError) as caught:
        start_from(model, initial, "all")
    assert "its weights have the shapes, after 35 that fit, 64x7, 7, but this network needs 64x10, 10." in str(
        caught.value
    )
    with pytest.raises(ConfigError) as caught:
        start_from(model, replace(initial, layers={"all": [np.zeros(1), *values]}), "all")
    assert "and 22 more, but this network needs" in str(caught.value)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_that_keras_did_not_save_is_refused_before_tensorflow(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    with pytest.raises(ConfigError, match=r"weights\.\w+: there is no such file\. Correct the path\."):
        check_initial_weights(job("data=digits", f"model.weights={file}"))
    file.write_text("not weights" * 20)
    with pytest.raises(StoreError, match=f"is not a file that Keras saved as {suffix}, or it is damaged"):
        check_initial_weights(job("data=digits", f"model.weights={file}"))


def test_hdf5_files_of_something_else_are_refused(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    assert "is not a file of weights that Keras saved" in refusal(*SMALL, f"model.weights={tmp_path}/other.h5")
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file.create_dataset("layers/dense/vars/0", (2**13, 2**13), compression="gzip")
    assert "its weights take far more room than the file has bytes" in refusal(
        *SMALL, f"model.weights={tmp_path}/large.h5"
    )


def test_the_fingerprint_depends_on_what_is_in_the_file_and_not_on_its_name(saved: Path, tmp_path: Path) -> None:
    def fingerprint(file: Path) -> str:
        return identity_tags(job(*SMALL, f"model.weights={file}"), "")["fingerprint"]

    first = saved / "model.keras"
    copy = tmp_path / "copy.keras"
    copy.write_bytes(first.read_bytes())
    assert fingerprint(copy) == fingerprint(first)
    copy.write_bytes(first.read_bytes() + b"more")
    assert fingerprint(copy) != fingerprint(first)


def test_frozen_layers_keep_their_weights_and_moving_statistics() -> None:
    small = [*SMALL, "training.epochs=1", "data.validation=0", "data.limit=330"]
    before = [value for layer in build_network(job(*small)).layers for value in layer.get_weights()]
    trained = train([*small, "training.freeze=[conv2d,batch_normalization*]"])
    moved = [not np.array_equal(trained[f"weights {number}"], value) for number, value in enumerate(before)]
    convolution, normalization = [False], [False] * 4
    assert moved == [*convolution, *normalization, True, *normalization, True, True]


def test_a_frozen_network_shares_no_program_with_one_that_is_not() -> None:
    whole, frozen = network(job(*SMALL)), network(job(*SMALL, "training.freeze=[conv2d*]"))
    assert frozen is not whole
    assert len(frozen.model.trainable_variables) == len(whole.model.trainable_variables) - 2
    assert network(job(*SMALL, "training.freeze=[conv2d*]")) is frozen


def test_a_pattern_after_an_exclamation_mark_names_what_is_trained() -> None:
    model = network(job(*SMALL, "training.freeze=['*','!dense','!conv2d_?']")).model
    assert [variable.path for variable in model.trainable_variables] == [
        "conv2d_1/kernel",
        "dense/kernel",
        "dense/bias",
    ]


def test_freezing_what_is_not_there_or_everything_is_refused() -> None:
    assert refusal(*SMALL, "training.freeze=[conv3d]") == (
        "training.freeze: 'conv3d' is not the name of a layer with weights (did you mean 'conv2d'?); model=cnn has:"
        " conv2d, batch_normalization, conv2d_1, batch_normalization_1, dense"
    )
    assert refusal(*SMALL, "training.freeze=[*]") == "training.freeze=['*'] leaves no weights of model=cnn to train."


def test_weights_of_another_order_are_told_apart_by_name(saved: Path) -> None:
    initial = load_initial_weights(job(*SMALL, f"model.weights={saved}/model.keras"))
    assert initial
    reordered = replace(initial, layers=dict(reversed(initial.layers.items())))
    start_strategy(job(*SMALL).distribution, 1)
    model = build_network(job(*SMALL))
    assert start_from(model, reordered, "matching").startswith("5 of 5 layers with weights start from ")
    for ours, theirs in zip(
        model.get_weights(), keras.saving.load_model(saved / "model.keras").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
