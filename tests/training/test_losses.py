"""Losses, class weights, label smoothing and accumulated gradients, beside Keras's own classes and its fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from composed import job, refusal
from test_trainer import LOOPS, Steps, assert_close, dataset, train

from experiments.config.losses import CLASS_LOSSES, NUMBER_LOSSES, REFUSED_LOSSES, SPARSE_LOSSES
from experiments.config.schema import Config
from experiments.data.datasets import Dataset, Split
from experiments.training.devices import start_strategy
from experiments.training.evaluation import Evaluator, class_weights, criterion_of
from experiments.training.network_cache import prepare_network
from experiments.training.networks import build_network
from experiments.training.trainer import Trainer

SMALL = ("data=digits", "model.units=[8]", "training.batch_size=8", "training.epochs=2", "training.threads=1")
BINARY = ("data.classes=2", "data.class_names=[zero,one]", "training.loss=binary_crossentropy")
FOCAL = "training.loss={categorical_focal_crossentropy: {alpha: 0.5, gamma: 3}}"

pytestmark = pytest.mark.usefixtures("tensorflow")


def small(*overrides: str) -> Config:
    return job(*SMALL, *overrides)


def of_two_classes(config: Config) -> Dataset:
    generator = np.random.default_rng(0)
    splits = []
    for examples in (50, 13, 9):
        targets = generator.integers(0, 2, examples).astype(np.int32)
        inputs = generator.integers(0, 9, (examples, 8, 8), dtype=np.uint8)
        inputs[targets == 1, :2] = 16
        splits.append(Split(inputs, targets))
    return Dataset("tiny", *splits, ("zero", "one"), "", "")


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_losses_of_classes_are_those_of_keras(name: str) -> None:
    import keras

    config = small(f"training.loss={name}")
    data, model = dataset(config), build_network(config)
    outputs, hot = model(data.train.inputs), np.eye(10, dtype=np.float32)[data.train.targets]
    classes = {kind.lower(): kind for kind in dir(keras.losses) if kind[0].isupper()}
    loss = getattr(keras.losses, classes[name.replace("_", "")])()
    expected = loss(data.train.targets if name in SPARSE_LOSSES else hot, outputs)
    found = Evaluator(model, criterion_of(config))(data.train).metrics["loss"]
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_every_loss_of_keras_fits_something_or_is_refused_with_a_reason() -> None:
    from experiments.config.keras_table import keras_table
    from experiments.config.losses import BINARY_LOSSES

    assert {*CLASS_LOSSES, *NUMBER_LOSSES, *BINARY_LOSSES, *REFUSED_LOSSES} == set(keras_table()["losses"])


@pytest.mark.parametrize(
    ("overrides", "build"),
    [
        ((FOCAL,), lambda losses: losses.CategoricalFocalCrossentropy(0.5, 3)),
        (("training.label_smoothing=0.2",), lambda losses: losses.CategoricalCrossentropy(label_smoothing=0.2)),
        ((BINARY[2], *BINARY[:2]), lambda losses: losses.BinaryCrossentropy()),
        (
            (*BINARY, "training.loss={binary_focal_crossentropy: {gamma: 1}}", "training.label_smoothing=0.2"),
            lambda losses: losses.BinaryFocalCrossentropy(gamma=1, label_smoothing=0.2),
        ),
    ],
)
def test_arguments_and_label_smoothing_are_those_of_keras(overrides: tuple[str, ...], build: Any) -> None:
    import keras

    config = small(*overrides)
    binary = "data.classes=2" in overrides
    data, model = (of_two_classes if binary else dataset)(config), build_network(config)
    targets = data.train.targets
    wanted = targets.reshape(-1, 1).astype(np.float32) if binary else np.eye(10, dtype=np.float32)[targets]
    expected = float(build(keras.losses)(wanted, model(data.train.inputs)))
    assert Evaluator(model, criterion_of(config))(data.train).metrics["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.class_weight={0: 0, 3: 2.5}", "training.label_smoothing=0.1"),
        (FOCAL, "training.class_weight=balanced"),
    ],
)
def test_weights_of_classes_act_as_in_keras_own_fit(overrides: tuple[str, ...]) -> None:
    config = small(*overrides)
    data = dataset(config)
    (model, history), (other, expected) = train(config, data), train(small(*overrides, "training.loop=fit"), data)
    assert_close(model, other)
    for ours, theirs in zip(history, expected, strict=True):
        same = {name: value for name, value in theirs.items() if "second" not in name}
        assert {name: ours[name] for name in same} == pytest.approx(same, rel=1e-5)
    assert history[-1]["val_loss"] == Evaluator(model, criterion_of(config))(data.validation).metrics["loss"]


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    targets = np.repeat([0, 1, 3, 9], [1, 5, 20, 4]).astype(np.int32)
    weights = class_weights(small("training.class_weight=balanced"), targets)
    assert weights is not None
    expected = compute_class_weight("balanced", classes=np.unique(targets), y=targets)
    np.testing.assert_allclose(weights[np.unique(targets)], expected, rtol=1e-6)


@LOOPS
def test_two_classes_are_learned_with_one_output(loop: str) -> None:
    config = small(*BINARY, "training.epochs=5", f"training.loop={loop}", "optimizer.learning_rate=0.02")
    data = of_two_classes(config)
    model, history = train(config, data)
    assert model.output_shape == (None, 1)
    found = Evaluator(model, criterion_of(config))(data.validation)
    np.testing.assert_allclose(found.outputs[:, 1:], model(data.validation.inputs).numpy(), atol=1e-6)
    np.testing.assert_allclose(found.outputs.sum(1), 1, atol=1e-6)
    assert found.metrics["accuracy"] == (found.outputs.argmax(1) == data.validation.targets).mean()
    assert history[-1]["accuracy"] > 0.9


def test_kept_networks_share_a_program_whatever_the_weights_of_classes() -> None:
    def prepared(*overrides: str) -> Any:
        config = small(*overrides)
        return prepare_network(config, start_strategy(config.distribution, 1))

    weighted = prepared("training.class_weight={3: 2}")
    assert prepared("training.class_weight=balanced") is weighted
    others = [prepared(), prepared("training.label_smoothing=0.1"), prepared(FOCAL)]
    assert len({id(network) for network in (weighted, *others)}) == 4


def test_accumulated_gradients_equal_those_of_a_larger_batch() -> None:
    sgd = ("optimizer=sgd", "optimizer.learning_rate=0.1", "model.dropout=0")
    config = small(*sgd, "training.batch_size=5", "optimizer.gradient_accumulation_steps=4")
    data = dataset(config, examples=40)
    assert_close(train(config, data)[0], train(small(*sgd, "training.batch_size=20"), data)[0])


def test_a_resumed_run_continues_within_accumulated_gradients(tmp_path: Path) -> None:
    # 7 steps in an epoch, an update in every fourth.
    config = small("optimizer.gradient_accumulation_steps=4", "training.epochs=3")
    data, strategy = dataset(config), start_strategy(config.distribution, 1)

    def trained(checkpoint: Path, epochs: int) -> list[np.ndarray]:
        network = prepare_network(config, strategy)
        for epoch, _ in Trainer(config, network, data, checkpoint).run(Steps()):
            if epoch == epochs:
                break
        return [np.array(value) for value in network.model.get_weights()]

    whole, cut_off = trained(tmp_path / "whole.npz", 3), trained(tmp_path / "resumed.npz", 1)
    for value, other in zip(whole, trained(tmp_path / "resumed.npz", 3), strict=True):
        np.testing.assert_array_equal(value, other)
    assert not np.array_equal(whole[0], cut_off[0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.loss=focal"], "training.loss: Keras has no loss 'focal'; choices: binary_crossentropy, "),
        (["training.loss=categorical_crossentropi"], "(did you mean 'categorical_crossentropy'?)"),
        (
            ["training.loss={categorical_focal_crossentropy: {gama: 1}}"],
            "training.loss: loss categorical_focal_crossentropy has no argument 'gama' (did you mean 'gamma'?)",
        ),
        (["training.loss={huber: {delta: 0}}"], "training.loss: loss huber: delta must be greater than 0; received 0"),
        (["training.loss={huber: {delta: a}}"], "training.loss: loss huber: delta takes a number; received 'a'"),
        (["training.loss=dice"], "training.loss: loss dice does not fit: it judges a batch as a whole"),
        (["training.loss={categorical_crossentropy: {from_logits: true}}"], "from_logits follows from the last layer"),
        (["training.loss={categorical_crossentropy: {label_smoothing: 0.1}}"], "Use training.label_smoothing"),
        (["training.loss=binary_crossentropy"], "does not fit data=digits, whose targets are 10 classes. Choose"),
        (["training.loss=mean_absolute_percentage_error"], "does not fit data=digits, whose targets are classes."),
        (["data=linear", "training.loss=poisson"], "does not fit data=linear, whose targets are numbers."),
        (["training.label_smoothing=1"], "training.label_smoothing=1 is not allowed: part of each target"),
        (["training.label_smoothing=0.1", "training.loss=hinge"], "does not go with training.loss=hinge: it spreads"),
        (["training.class_weight=balance"], "training.class_weight=balance is not allowed: factor on"),
        (["training.class_weight={3: -1}"], 'training.class_weight={"3": -1} is not allowed: factor on'),
        (
            ["data=fashion_mnist", "training.class_weight={Snaeker: 2}"],
            "'Snaeker' (did you mean 'Sneaker'?). Choices: ",
        ),
        (["data=fashion_mnist", "training.class_weight={10: 2}"], "or the numbers 0 to 9"),
        (["data=fashion_mnist", "training.class_weight={Bag: 2, 8: 2}"], "has class 'Bag' twice: by name and number."),
        (
            ["data=linear", "training.loss=huber", "training.class_weight=balanced"],
            "training.class_weight needs classes",
        ),
    ],
)
def test_refuses_what_does_not_fit(overrides: list[str], message: str) -> None:
    assert message in refusal("data=digits", *overrides)
