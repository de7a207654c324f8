"""Training compared with a plain Keras loop, and with itself: the same steps and the same numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from experiments.config.composition import compose_job
from experiments.config.schema import Config
from experiments.data.datasets import Dataset, Split
from experiments.errors import TrainingError
from experiments.training import compiled_loop, evaluation
from experiments.training.devices import start_strategy
from experiments.training.evaluation import Evaluator, criterion_of
from experiments.training.network_cache import compile_network
from experiments.training.networks import build_network
from experiments.training.optimizers import build_optimizer, learning_rates
from experiments.training.randomness import epoch_order
from experiments.training.trainer import Trainer

Metrics = dict[str, float]
TIMES = {"epoch_seconds", "examples_per_second"}
SMALL = ("data=digits", "model.units=[8]", "training.batch_size=8", "training.epochs=2", "training.threads=1")
LINEAR = ("data=linear", "model=neuron", "model.activation=linear", "training.loss=mean_squared_error", *SMALL[2:])


def job(*overrides: str) -> Config:
    return compose_job([*(SMALL if not any("data=" in o for o in overrides) else ()), *overrides])


def split(config: Config, examples: int, seed: int = 0) -> Split:
    """Images with a class that can be learned, or points on a line."""
    generator = np.random.default_rng(seed)
    if config.data.name == "linear":
        inputs = generator.random((examples, 1)).astype(np.float32)
        return Split(inputs, (0.5 * inputs + 0.25).astype(np.float32))
    targets = generator.integers(0, 10, examples).astype(np.int32)
    inputs = generator.integers(0, 8, (examples, 8, 8), dtype=np.uint8)
    inputs[np.arange(examples), targets % 8, targets // 2] = 16
    return Split(inputs, targets)


def dataset(config: Config, examples: int = 50, validation: int = 13) -> Dataset:
    parts = [split(config, count, seed) for seed, count in enumerate((examples, validation, 5))]
    return Dataset("tiny", *parts, (), "", "")


class Steps:
    """An observer that records what is reported to it."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.epochs: list[tuple[int, Metrics]] = []

    def step(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append((epoch, step))

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.epochs.append((epoch, dict(metrics)))


def train(config: Config, data: Dataset, progress: Any = None) -> tuple[Any, list[Metrics]]:
    """The model after training, and the metrics of each epoch. (The only place that knows how training is called.)"""
    strategy = start_strategy(config.distribution, threads=1)
    network = compile_network(config, strategy)
    trainer = Trainer(config, network, data, None)
    return network.model, [metrics for _, metrics in trainer.run(progress or Steps())]


def by_hand(config: Config, data: Dataset) -> tuple[Any, list[Metrics]]:
    """The same in the plainest Keras: eager, one batch after the other, without dropout."""
    import keras
    import tensorflow as tf

    strategy = start_strategy(config.distribution, threads=1)
    model = build_network(config)
    optimizer = build_optimizer(config.optimizer, config.training.gradient_clipping)
    loss_of = getattr(keras.losses, config.training.loss)
    size, examples = config.training.batch_size, len(data.train.targets)
    steps = -(-examples // size)
    plan = (config.schedule, config.optimizer.learning_rate, steps, config.training.epochs)
    history = []
    with strategy.scope():
        for epoch in range(1, config.training.epochs + 1):
            order = epoch_order(config.seed, epoch, examples)
            rates = learning_rates(*plan, epoch)
            total, right = 0.0, 0.0
            for step in range(steps):
                rows = order[step * size : (step + 1) * size]
                inputs, targets = data.train.inputs[rows].astype(np.float32), data.train.targets[rows]
                with tf.GradientTape() as tape:
                    outputs = model(inputs, training=True)
                    loss = tf.reduce_mean(loss_of(targets, outputs)) + sum(model.losses)
                    scaled = optimizer.scale_loss(loss)
                gradients = tape.gradient(scaled, [variable.value for variable in model.trainable_variables])
                optimizer.learning_rate = rates[step]
                optimizer.apply(gradients, model.trainable_variables)
                total += float(loss) * len(rows)
                right += float((outputs.numpy().argmax(1) == targets).sum()) if targets.ndim == 1 else 0
            history.append({"loss": total / examples, "accuracy": right / examples})
    optimizer.finalize_variable_values(model.trainable_variables)
    return model, history


def assert_close(model: Any, other: Any, atol: float = 1e-5) -> None:
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def assert_equal(first: tuple[Any, list[Metrics]], second: tuple[Any, list[Metrics]]) -> None:
    """Bitwise: weights, and every metric that is not a time."""
    for a, b in zip(first[0].get_weights(), second[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(first[1], second[1], strict=True):
        assert {key: a[key] for key in a if key not in TIMES} == {key: b[key] for key in b if key not in TIMES}


# --- beside plain Keras -------------------------------------------------------------------------------------------


def compare(*overrides: str, atol: float = 1e-5, rel: float = 1e-6) -> None:
    config = job(*overrides)
    data = dataset(config)  # 50 examples in batches of 8: the last has 2
    (model, history), (expected, expected_history) = train(config, data), by_hand(config, data)
    assert_close(model, expected, atol)
    for metrics, by_hand_metrics in zip(history, expected_history, strict=True):
        assert metrics["loss"] == pytest.approx(by_hand_metrics["loss"], rel=rel)
        if "accuracy" in metrics:
            assert metrics["accuracy"] == pytest.approx(by_hand_metrics["accuracy"], abs=1e-9)


def test_training_equals_plain_keras_including_the_smaller_last_batch() -> None:
    compare("model.dropout=0")


@pytest.mark.parametrize(
    "overrides",
    [
        "schedule=one_cycle model.batch_normalization=true model.kernel_regularizer={l2:{l2:0.01}}"
        " model.kernel_constraint={max_norm:{max_value:0.5}}",
        "optimizer.clipnorm=0.1 optimizer.weight_decay=0.1 optimizer.use_ema=true optimizer.ema_momentum=0.5",
        "optimizer.clipvalue=0.001 optimizer.gradient_accumulation_steps=3",
        "optimizer=sgd optimizer.momentum=0.9 optimizer.loss_scale_factor=100 training.gradient_clipping=0.1"
        " optimizer.learning_rate=0.1 optimizer.use_ema=true optimizer.ema_overwrite_frequency=3",
    ],
)
def test_model_and_optimizer_options_act_as_in_plain_keras(overrides: str) -> None:
    compare("model.dropout=0", "training.epochs=1", *overrides.split(), rel=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["adafactor", "schedulefreeadamw"])  # one without XLA, one with weights of its own
def test_optimizers_act_as_in_plain_keras(name: str) -> None:
    compare(f"optimizer={name}", "model.dropout=0", "training.epochs=1", rel=1e-4, atol=1e-4)


def test_convolutional_network_trains_as_in_plain_keras() -> None:
    compare("model=cnn", "model.filters=[3]", "model.dropout=0", "data=digits", *SMALL[2:], rel=1e-5, atol=2e-5)


def test_penalties_on_outputs_are_in_the_loss() -> None:
    layers = "[Flatten,{Dense:{units:4,activity_regularizer:{l2:{l2:1.0}}}},{Dense:{units:10,activation:softmax}}]"
    compare("model=layers", f"model.layers={layers}", "data=digits", *SMALL[2:], "training.epochs=1", rel=1e-5)


def with_data(*overrides: str, **sizes: int) -> tuple[Config, Dataset]:
    config = job(*overrides)
    return config, dataset(config, **sizes)


def test_each_step_uses_the_learning_rate_of_the_schedule() -> None:
    config = job(
        *LINEAR,
        "optimizer=sgd",
        "optimizer.learning_rate=0.5",
        "schedule=piecewise",
        "schedule.boundaries=[0.5,1]",
        "schedule.factors=[0.5,0.25]",
        "training.batch_size=2",
    )
    data = dataset(config, examples=4, validation=0)
    model, history = train(config, data)
    start_strategy(config.distribution, threads=1)
    weight, bias = (float(value.ravel()[0]) for value in build_network(config).get_weights())
    x, y = data.train.inputs[:, 0], data.train.targets[:, 0]
    for epoch, rates in ((1, (0.5, 0.25)), (2, (0.125, 0.125))):
        order = epoch_order(0, epoch, 4)
        for rate, rows in zip(rates, (order[:2], order[2:]), strict=True):
            error = weight * x[rows] + bias - y[rows]
            weight, bias = weight - rate * 2 * (error * x[rows]).mean(), bias - rate * 2 * error.mean()
    np.testing.assert_allclose([value.ravel()[0] for value in model.get_weights()], [weight, bias], rtol=1e-5)
    assert [metrics["learning_rate"] for metrics in history] == [0.25, 0.125]


@pytest.mark.parametrize("loop", ["compiled", "fit"])
def test_momentum_rises_linearly_to_that_of_the_optimizer(loop: str) -> None:
    config = job(
        *LINEAR,
        "optimizer=sgd",
        "optimizer.momentum=0.9",
        "training.initial_momentum=0.5",
        "training.momentum_epochs=1.5",
        "training.batch_size=2",
        f"training.loop={loop}",
    )
    data = dataset(config, examples=4, validation=0)
    model, _ = train(config, data)
    start_strategy(config.distribution, threads=1)
    weight, bias = (float(value.ravel()[0]) for value in build_network(config).get_weights())
    x, y = data.train.inputs[:, 0], data.train.targets[:, 0]
    past_w = past_b = 0.0
    for epoch, momenta in ((1, (0.5, 0.5 + 0.4 / 3)), (2, (0.5 + 0.8 / 3, 0.9))):
        order = epoch_order(0, epoch, 4)
        for momentum, rows in zip(momenta, (order[:2], order[2:]), strict=True):
            error = weight * x[rows] + bias - y[rows]
            past_w = momentum * past_w - 0.01 * 2 * (error * x[rows]).mean()
            past_b = momentum * past_b - 0.01 * 2 * error.mean()
            weight, bias = weight + past_w, bias + past_b
    np.testing.assert_allclose([value.ravel()[0] for value in model.get_weights()], [weight, bias], rtol=1e-5)


@pytest.mark.parametrize("loop", ["compiled", "fit"])
def test_losses_that_are_not_sparse_get_one_hot_targets(loop: str) -> None:
    sparse, data = with_data(f"training.loop={loop}")
    hot = job("training.loss=categorical_crossentropy", f"training.loop={loop}")
    assert_close(train(sparse, data)[0], train(hot, data)[0])
    squares = job("training.loss=mean_squared_error", f"training.loop={loop}", "optimizer.learning_rate=1e-9")
    model, history = train(squares, data)
    errors = model(data.train.inputs).numpy() - np.eye(10)[data.train.targets]
    right = model(data.train.inputs).numpy().argmax(1) == data.train.targets
    assert history[-1]["loss"] == pytest.approx((errors**2).mean(), rel=0.05)  # dropout makes it a little larger
    assert set(history[-1]) >= {"accuracy", "val_accuracy"}
    found = Evaluator(model, criterion_of(squares))(data.train).metrics
    assert found == pytest.approx({"loss": (errors**2).mean(), "accuracy": right.mean()}, rel=1e-5)


LINES = (
    "Masking, {SpatialDropout1D: {rate: 0.1}}, ZeroPadding1D, Cropping1D, UpSampling1D, MaxPooling1D,"
    " {AveragePooling1D: {pool_size: 2}}, {AdaptiveMaxPooling1D: {output_size: 2}}, {GRU: {units: 4,"
    " return_sequences: true}}, {Permute: {dims: [2, 1]}}, BatchNormalization, ELU, LeakyReLU, PReLU,"
    " {GroupNormalization: {groups: 2}}, LayerNormalization, RMSNormalization, UnitNormalization,"
    " {Dropout: {rate: 0.1}}, Flatten, {RepeatVector: {n: 2}}"
)
PICTURES = (
    "{Reshape: {target_shape: [8, 8, 1]}}, AutoContrast, ZeroPadding2D, {Resizing: {height: 8, width: 8}},"
    " {CenterCrop: {height: 6, width: 6}}, UpSampling2D, MaxPooling2D, {SpatialDropout2D: {rate: 0.1}},"
    " {AdaptiveAveragePooling2D: {output_size: 4}}, {Reshape: {target_shape: [4, 4, 1, 1]}}, UpSampling3D,"
    " {AveragePooling3D: {pool_size: [2, 2, 1]}}, {SpatialDropout3D: {rate: 0.1}}"
)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [LINES, PICTURES], ids=["lines", "pictures"])
def test_layers_of_every_kind_compile_and_train(layers: str) -> None:
    written = f"model.layers=[{layers}, Flatten, {{Dense: {{units: 10, activation: softmax}}}}]"
    config, data = with_data("data=digits", "model=layers", written, *SMALL[2:], "training.epochs=1", validation=0)
    start_strategy(config.distribution, threads=1)
    before = build_network(config).get_weights()
    model, (metrics,) = train(config, data)
    assert np.isfinite(metrics["loss"])
    changed = [(a != b).any() for a, b in zip(before, model.get_weights(), strict=True)]
    assert sum(changed) > 0.8 * len(changed)


def test_training_improves_the_model() -> None:
    _, history = train(*with_data("training.epochs=30", "optimizer.learning_rate=0.02", "model.units=[32]"))
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1]["accuracy"] > 0.8


# --- the same again -----------------------------------------------------------------------------------------------


def test_equal_runs_are_bitwise_equal_and_another_seed_differs() -> None:
    config, data = with_data("model.dropout=0.5")
    first = train(config, data)
    assert_equal(train(config, data), first)
    assert train(job("model.dropout=0.5", "seed=1"), data)[1][0]["loss"] != first[1][0]["loss"]


def test_two_runs_of_a_convolutional_network_are_bitwise_equal() -> None:
    config, data = with_data("model=cnn", "model.filters=[3]", "data=digits", *SMALL[2:], "training.epochs=1")
    assert_equal(train(config, data), train(config, data))


def test_results_do_not_depend_on_the_ranges_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    config, data = with_data("model.dropout=0.5", "training.batch_size=2", "training.epochs=1")
    whole, cut = Steps(), Steps()
    monkeypatch.setattr(compiled_loop, "SECONDS_BETWEEN_REPORTS", 1e9)
    expected = train(config, data, whole)
    monkeypatch.setattr(compiled_loop, "SECONDS_BETWEEN_REPORTS", 0.0)
    assert_equal(train(config, data, cut), expected)
    assert cut.steps != whole.steps


def test_dropout_affects_training_but_not_evaluation() -> None:
    config, data = with_data("model.dropout=0.9", "optimizer.learning_rate=1e-9", "training.epochs=1")
    model, (metrics,) = train(config, data)
    untouched = Evaluator(model, criterion_of(config))(data.train).metrics["loss"]
    assert metrics["loss"] > untouched * 1.01
    assert metrics["val_loss"] == pytest.approx(
        Evaluator(model, criterion_of(config))(data.validation).metrics["loss"], rel=1e-6
    )


# --- metrics and progress -----------------------------------------------------------------------------------------


def test_epoch_has_validation_metrics_only_with_validation_examples() -> None:
    always = {"loss", "accuracy", "learning_rate", *TIMES}
    assert set(train(*with_data("training.epochs=1"))[1][0]) == always | {"val_loss", "val_accuracy"}
    regression = train(*with_data(*LINEAR, "training.epochs=1", validation=0))[1][0]
    assert set(regression) == {"loss", "mean_absolute_error", "learning_rate", *TIMES}


def test_progress_is_reported_for_every_range_and_epoch() -> None:
    progress = Steps()
    _, history = train(*with_data(), progress=progress)
    assert progress.epochs == list(enumerate(history, start=1))
    for epoch in (1, 2):
        steps = [step for told, step in progress.steps if told == epoch]
        assert steps == sorted(set(steps))
        assert steps[-1] == 7  # 6 batches of 8, and one of 2


@pytest.mark.parametrize(("examples", "batch_size"), [(8, 8), (9, 8)])
def test_any_number_of_examples_can_be_trained_on(examples: int, batch_size: int) -> None:
    config, data = with_data(
        f"training.batch_size={batch_size}", "training.epochs=1", "model.dropout=0", examples=examples
    )
    model, (metrics,) = train(config, data)
    expected, (expected_metrics,) = by_hand(config, data)
    assert_close(model, expected)
    assert metrics["loss"] == pytest.approx(expected_metrics["loss"], rel=1e-5)


def test_loss_that_is_not_finite_ends_training_with_epoch_and_likely_causes() -> None:
    config, data = with_data(*LINEAR, "optimizer=sgd", "optimizer.learning_rate=1e30", "training.epochs=3")
    with pytest.raises(TrainingError) as caught:
        train(config, data)
    assert " became " in str(caught.value)
    assert "in epoch 1 of 3. Likely causes: optimizer.learning_rate is too large (try a tenth of it)" in str(
        caught.value
    )


# --- evaluation ---------------------------------------------------------------------------------------------------


@pytest.fixture
def batches_of_four(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 4)
    return None


@pytest.mark.parametrize("examples", [1, 4, 11])
@pytest.mark.parametrize(
    "overrides", ["model.kernel_regularizer={l2:{l2:0.1}}", "model.batch_normalization=true", "model.dropout=0.5"]
)
@pytest.mark.usefixtures("batches_of_four")
def test_evaluation_equals_that_of_keras(overrides: str, examples: int) -> None:
    config = job(overrides)
    start_strategy(config.distribution, threads=1)
    model, data = build_network(config), split(config, examples)
    found = Evaluator(model, criterion_of(config))(data)
    model.compile(loss=config.training.loss, metrics=["accuracy"])
    expected = model.evaluate(data.inputs, data.targets, verbose=0, return_dict=True)
    assert found.metrics == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(found.outputs, model(data.inputs.astype(np.float32)), rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("batches_of_four")
def test_evaluation_of_regression_equals_that_of_keras() -> None:
    config = job(*LINEAR, "training.loss=huber")
    start_strategy(config.distribution, threads=1)
    model, data = build_network(config), split(config, 11)
    found = Evaluator(model, criterion_of(config))(data)
    model.compile(loss="huber", metrics=["mean_absolute_error"])
    assert found.metrics == pytest.approx(model.evaluate(data.inputs, data.targets, verbose=0, return_dict=True))


@pytest.mark.usefixtures("batches_of_four")
def test_evaluation_includes_penalties_on_outputs_as_in_keras() -> None:
    layers = "[Flatten,{Dense:{units:4,activity_regularizer:{l2:{l2:1.0}}}},{Dense:{units:10,activation:softmax}}]"
    config = job("data=digits", "model=layers", f"model.layers={layers}")
    start_strategy(config.distribution, threads=1)
    model, data = build_network(config), split(config, 11)
    found = Evaluator(model, criterion_of(config))(data)
    model.compile(loss=config.training.loss, metrics=["accuracy"])
    expected = model.evaluate(data.inputs, data.targets, batch_size=4, verbose=0, return_dict=True)
    assert found.metrics == pytest.approx(expected, rel=1e-5)


# --- between the epochs, in both loops ------------------------------------------------------------------------------

LOOPS = pytest.mark.parametrize("loop", ["compiled", "fit"])
# One epoch gets better, then a learning rate of 5 makes every later one worse.
SPOILED = (
    *("schedule=piecewise", "schedule.boundaries=[1]", "schedule.factors=[5000]"),
    *("optimizer=sgd", "optimizer.learning_rate=0.001", "training.epochs=12"),
)


@LOOPS
def test_early_stopping_waits_patience_epochs_for_an_improvement(loop: str) -> None:
    config = job(*SPOILED, f"training.loop={loop}", "training.early_stopping.patience=3")
    _, history = train(config, dataset(config))
    losses = [metrics["val_loss"] for metrics in history]
    assert len(history) < 12
    assert len(history) == int(np.argmin(losses)) + 1 + 3


@LOOPS
def test_best_epoch_is_restored(loop: str) -> None:
    config = job(*SPOILED, f"training.loop={loop}", "training.restore_best=true")
    data = dataset(config)
    model, history = train(config, data)
    best = min(metrics["val_loss"] for metrics in history)
    assert Evaluator(model, criterion_of(config))(data.validation).metrics["loss"] == pytest.approx(best, rel=1e-6)
    assert history[-1]["val_loss"] > best


@LOOPS
def test_learning_rate_falls_on_a_plateau_down_to_the_smallest_fraction(loop: str) -> None:
    plateau = ["schedule=reduce_on_plateau", "schedule.patience=2", "schedule.factor=0.5", "schedule.min_delta=100"]
    config = job(*plateau, "schedule.smallest_fraction=0.3", f"training.loop={loop}", "training.epochs=8")
    _, history = train(config, dataset(config))
    rates = [metrics["learning_rate"] / config.optimizer.learning_rate for metrics in history]
    # The first epoch is an improvement on nothing; each two after it are none.
    assert rates == pytest.approx([1, 1, 1, 0.5, 0.5, 0.3, 0.3, 0.3])


def test_chosen_metrics_are_logged_where_they_are_defined(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ("metrics=[f1_macro,roc_auc_ovr]", "training.early_stopping.metric=val_f1_macro", "training.epochs=3")
    config, data = with_data(*SMALL, *chosen, "training.restore_best=true", "optimizer.learning_rate=0.03")
    model, history = train(config, data)
    assert "val_roc_auc_ovr" not in history[0]
    told = "val_roc_auc_ovr is not logged, as it is not defined: "
    assert capsys.readouterr().err.count(told) == 1
    found = Evaluator(model, criterion_of(config))(data.validation).outputs.argmax(1)
    expected = f1_score(data.validation.targets, found, average="macro")
    assert max(metrics["val_f1_macro"] for metrics in history) == pytest.approx(expected)


def test_a_metric_that_is_not_defined_does_not_improve() -> None:
    never = ("metrics=[roc_auc_ovr]", "training.early_stopping.metric=val_roc_auc_ovr", "training.epochs=9")
    config, data = with_data(*SMALL, *never, "training.early_stopping.patience=2", "training.restore_best=true")
    _, history = train(config, data)
    assert len(history) == 2
