"""Order and dropout masks as functions of (seed, epoch, step): the same however they are computed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from experiments.errors import ConfigError
from experiments.runtime import start_tensorflow
from experiments.training.randomness import (
    epoch_order,
    refuse_other_randomness,
    uniform_bits,
    with_counter_dropout,
)

start_tensorflow(1)

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

COUNTER = (7, 0, 1, 3)  # seed, layer, epoch, step


def bits(counter: tuple[int, ...] = COUNTER, rows: int = 200, columns: int = 50, first_row: int = 0) -> np.ndarray:
    return uniform_bits(tf.constant(counter, tf.uint32), rows, columns, first_row).numpy()


def compiled(jit_compile: bool) -> Callable[..., np.ndarray]:
    function = tf.function(uniform_bits, jit_compile=jit_compile)
    return lambda rows: function(tf.constant(COUNTER, tf.uint32), rows, 50).numpy()


# --- order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_order_visits_every_example_once(seed: int) -> None:
    indices = epoch_order(seed, 1, 1000)
    assert indices.dtype == np.int32
    assert sorted(indices) == list(range(1000))
    assert not (indices == np.arange(1000)).all()


def test_order_depends_only_on_seed_and_epoch() -> None:
    first = epoch_order(0, 1, 100)
    assert (first == epoch_order(0, 1, 100)).all()
    assert (first != epoch_order(0, 2, 100)).any()
    assert (first != epoch_order(1, 1, 100)).any()
    assert (epoch_order(1, 2, 100) != epoch_order(2, 1, 100)).any()


def test_single_example_has_an_order() -> None:
    assert epoch_order(0, 1, 1).tolist() == [0]


# --- bits ---------------------------------------------------------------------------------------------------------


def test_bits_are_the_same_eagerly_in_a_graph_and_under_xla() -> None:
    eager = bits()
    assert eager.dtype == np.uint32
    assert eager.shape == (200, 50)
    np.testing.assert_array_equal(compiled(jit_compile=False)(200), eager)
    np.testing.assert_array_equal(compiled(jit_compile=True)(200), eager)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 100), (37, 101), (199, 200), (50, 50)])
def test_bits_of_a_slice_of_rows_equal_those_of_the_whole(first: int, last: int) -> None:
    np.testing.assert_array_equal(bits(rows=last - first, first_row=first), bits()[first:last])


def test_bits_equal_recorded_values() -> None:
    """A change of the generator changes every result: it must be meant."""
    assert bits(rows=1, columns=4).tolist() == [[660959303, 2543817212, 2377375287, 2525752288]]


def test_bits_are_uniform() -> None:
    values = bits(rows=1000, columns=1000) / 2.0**32
    assert values.mean() == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / values.size))
    assert values.var() == pytest.approx(1 / 12, rel=0.01)
    counts, _ = np.histogram(values, bins=100, range=(0, 1))
    assert (((counts - values.size / 100) ** 2) / (values.size / 100)).sum() < 99 + 4 * np.sqrt(2 * 99)  # chi-square


def test_each_of_the_32_bits_is_set_in_half_of_the_draws() -> None:
    values = bits(rows=400, columns=250)
    shares = [(values >> np.uint32(bit) & np.uint32(1)).mean() for bit in range(32)]
    np.testing.assert_allclose(shares, 0.5, atol=4 * 0.5 / np.sqrt(values.size))


def test_neighbouring_bits_are_not_correlated() -> None:
    kept = (bits(rows=1000, columns=400) >= 2**31).astype(float) - 0.5
    limit = 4 * 0.25 / np.sqrt(kept.size)
    assert abs((kept[:, 1:] * kept[:, :-1]).mean()) < limit
    assert abs((kept[1:] * kept[:-1]).mean()) < limit


@pytest.mark.parametrize("word", range(4), ids=["seed", "layer", "epoch", "step"])
def test_counters_that_differ_in_one_word_give_unrelated_bits(word: int) -> None:
    other = list(COUNTER)
    other[word] += 1
    here, there = bits() >= 2**31, bits(tuple(other)) >= 2**31
    assert (here == there).mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(here.size))


def test_swapping_words_of_the_counter_changes_the_bits() -> None:
    assert (bits((1, 2, 3, 4)) != bits((2, 1, 3, 4))).any()
    assert (bits((0, 0, 1, 0)) != bits((0, 0, 0, 1))).any()


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_smallest_and_largest_seed_give_uniform_bits(seed: int) -> None:
    assert (bits((seed, 0, 0, 0), 500, 200) / 2.0**32).mean() == pytest.approx(0.5, abs=0.004)


# --- dropout ------------------------------------------------------------------------------------------------------


def network(*layers: Any, shape: tuple[int, ...] = (100,)) -> Any:
    return keras.Sequential([keras.Input(shape), *layers])


def set_masks(dropouts: list[Any], epoch: int = 1, step: int = 0) -> None:
    for index, layer in enumerate(dropouts):
        layer.draw.counter = tf.constant([0, index, epoch, step], tf.uint32)
        layer.draw.threshold = tf.constant(int(layer.rate * 2**32), tf.uint32)
        layer.draw.scale = tf.constant(1 / (1 - layer.rate), tf.float32)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_dropout_drops_its_rate_and_scales_the_rest(rate: float) -> None:
    model, dropouts = with_counter_dropout(network(keras.layers.Dropout(rate)))
    set_masks(dropouts)
    values = model(np.ones((1000, 100), np.float32), training=True).numpy()
    dropped = values == 0
    assert dropped.mean() == pytest.approx(rate, abs=3 * np.sqrt(rate * (1 - rate) / values.size))
    np.testing.assert_allclose(values[~dropped], 1 / (1 - rate), rtol=1e-6)


def test_dropout_does_nothing_outside_training() -> None:
    model, dropouts = with_counter_dropout(network(keras.layers.Dropout(0.5)))
    set_masks(dropouts)
    assert (model(np.ones((10, 100), np.float32), training=False).numpy() == 1).all()


def test_masks_depend_on_layer_epoch_and_step_and_are_reproducible() -> None:
    model, dropouts = with_counter_dropout(network(keras.layers.Dropout(0.5)))

    def mask(epoch: int, step: int) -> np.ndarray:
        set_masks(dropouts, epoch, step)
        return model(np.ones((10, 100), np.float32), training=True).numpy()

    first = mask(1, 0)
    assert (first != mask(1, 1)).any()
    assert (first != mask(2, 0)).any()
    assert (first == mask(1, 0)).all()

    twice, both = with_counter_dropout(network(keras.layers.Dropout(0.5), keras.layers.Dropout(0.5)))
    set_masks(both)
    once = (first != 0).mean()
    assert (twice(np.ones((10, 100), np.float32), training=True).numpy() != 0).mean() == pytest.approx(
        once / 2, abs=0.05
    )


def test_rows_of_a_replica_have_the_masks_of_the_global_batch() -> None:
    model, (layer,) = with_counter_dropout(network(keras.layers.Dropout(0.5)))
    set_masks([layer])
    whole = model(np.ones((10, 100), np.float32), training=True).numpy()
    layer.draw.first_row = tf.constant(6)
    np.testing.assert_array_equal(model(np.ones((4, 100), np.float32), training=True), whole[6:])


@pytest.mark.parametrize(
    ("name", "shape"),
    [("SpatialDropout1D", (5, 40)), ("SpatialDropout2D", (4, 4, 40)), ("SpatialDropout3D", (2, 2, 2, 40))],
)
def test_spatial_dropout_drops_whole_channels(name: str, shape: tuple[int, ...]) -> None:
    model, dropouts = with_counter_dropout(network(getattr(keras.layers, name)(0.5), shape=shape))
    set_masks(dropouts)
    values = model(np.ones((50, *shape), np.float32), training=True).numpy().reshape(50, -1, 40)
    assert (values == values[:, :1]).all()
    assert (values == 0).mean() == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(50 * 40))


def test_dropout_with_a_noise_shape_drops_whole_examples() -> None:
    """As blocks with a shortcut are dropped in EfficientNet."""
    model, dropouts = with_counter_dropout(network(keras.layers.Dropout(0.5, noise_shape=(None, 1, 1)), shape=(4, 5)))
    set_masks(dropouts)
    values = model(np.ones((200, 4, 5), np.float32), training=True).numpy().reshape(200, -1)
    assert (values == values[:, :1]).all()
    assert (values == 0).mean() == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(200))


def test_spatial_dropout_supports_channels_first() -> None:
    layer = keras.layers.SpatialDropout2D(0.5, data_format="channels_first")
    model, dropouts = with_counter_dropout(network(layer, shape=(40, 4, 4)))
    set_masks(dropouts)
    values = model(np.ones((50, 40, 4, 4), np.float32), training=True).numpy().reshape(50, 40, -1)
    assert (values == values[..., :1]).all()
    assert 0.4 < (values == 0).mean() < 0.6


def test_rate_near_1_drops_almost_everything_and_stays_finite() -> None:
    model, dropouts = with_counter_dropout(network(keras.layers.Dropout(1 - 1e-9)))
    set_masks(dropouts)
    assert (model(np.ones((10, 100), np.float32), training=True).numpy() == 0).all()


# --- the model that is trained ------------------------------------------------------------------------------------


def test_training_twin_shares_the_weights_and_leaves_the_model_unchanged() -> None:
    model = network(keras.layers.Dense(4), keras.layers.Dropout(0.5), keras.layers.Dense(2))
    stock = [type(layer) for layer in model.layers]
    trained, dropouts = with_counter_dropout(model)
    assert [a is b for a, b in zip(model.trainable_variables, trained.trainable_variables, strict=True)] == [True] * 4
    assert [layer.name for layer in trained.layers] == [layer.name for layer in model.layers]
    assert [type(layer) for layer in model.layers] == stock
    assert [layer.rate for layer in dropouts] == [0.5]
    trained.trainable_variables[0].assign(np.full((100, 4), 3.0))
    assert (model.layers[0].kernel.numpy() == 3).all()


def test_training_twin_can_be_made_again() -> None:
    model = network(keras.layers.Dense(4), keras.layers.Dropout(0.5))
    first, _ = with_counter_dropout(model)
    second, dropouts = with_counter_dropout(model)
    set_masks(dropouts)
    assert second(np.ones((2, 100), np.float32), training=True).shape == (2, 4)
    assert first.trainable_variables[0] is second.trainable_variables[0]


def test_training_twin_equals_the_model_outside_training() -> None:
    model = network(keras.layers.Dense(4), keras.layers.Dropout(0.5), keras.layers.BatchNormalization())
    trained, _ = with_counter_dropout(model)
    inputs = np.random.default_rng(0).normal(size=(5, 100)).astype(np.float32)
    np.testing.assert_array_equal(model(inputs), trained(inputs))


def test_dropout_passes_masks_on_to_later_layers() -> None:
    layers = keras.layers
    model = network(layers.Masking(), layers.Dropout(0.0), layers.LSTM(3), shape=(5, 2))
    trained, dropouts = with_counter_dropout(model)
    set_masks(dropouts)
    inputs = np.ones((4, 5, 2), np.float32)
    inputs[:, 3:] = 0  # masked
    np.testing.assert_allclose(trained(inputs, training=True), model(inputs[:, :3]), rtol=1e-5)


def test_model_can_be_saved_and_loaded_after_its_twin_was_made(tmp_path: Any) -> None:
    model = network(keras.layers.Dense(4), keras.layers.SpatialDropout1D(0.5), shape=(3, 5))
    with_counter_dropout(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [type(layer).__name__ for layer in loaded.layers] == ["Dense", "SpatialDropout1D"]


def test_a_layer_that_is_called_twice_stays_one_layer() -> None:
    inputs, dropout = keras.Input((100,)), keras.layers.Dropout(0.5)
    model = keras.Model(inputs, keras.layers.Add()([dropout(inputs), dropout(inputs)]))
    trained, dropouts = with_counter_dropout(model)
    assert len(dropouts) == 1
    set_masks(dropouts)
    assert set(np.unique(trained(np.ones((10, 100), np.float32), training=True))) == {0, 4}


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (keras.layers.GaussianNoise(0.5, name="noise"), "layer 'noise' (GaussianNoise) is refused"),
        (
            keras.layers.LSTM(2, dropout=0.5, name="cells"),
            "layer 'cells' (LSTM) is refused",
        ),
        (keras.Sequential([keras.layers.Dropout(0.5)], name="inner"), "layer 'inner' (Sequential) is refused"),
    ],
)
def test_layers_that_draw_in_the_order_of_calls_are_refused(layer: Any, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_other_randomness(network(layer, shape=(5, 2)))
    assert f"{named}: its random numbers depend on the order of calls" in str(caught.value)


def test_layers_that_draw_nothing_or_from_the_counter_are_accepted() -> None:
    layers = keras.layers
    refuse_other_randomness(network(layers.SpatialDropout1D(0.5), layers.LSTM(2), layers.Dropout(0.5), shape=(5, 2)))
