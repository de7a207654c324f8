"""The residual network of He et al. 2016: its size, its shortcuts, and that it learns."""

import numpy as np
import pytest
from composed import job
from train_once import train

from experiments.runtime import start_tensorflow
from experiments.training.networks import build_network

start_tensorflow(1)


@pytest.mark.parametrize(("depth", "published"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_number_of_weights_is_the_published_one(depth: int, published: float) -> None:
    model = build_network(job("data=digits", "model=resnet", f"model.depth={depth}"))
    assert sum(np.prod(variable.shape) for variable in model.trainable_variables) / 1e6 == pytest.approx(
        published, abs=0.01
    )
    with_weights = [x for x in model.layers if type(x).__name__ in ("Conv2D", "Dense")]
    assert len(with_weights) == depth


def test_a_shortcut_takes_every_second_pixel_and_zeros_for_the_new_filters() -> None:
    model = build_network(job("data=digits", "model=resnet", "model.depth=8"))
    for layer in model.layers:
        if layer.name.endswith("_2_norm"):
            layer.gamma.assign(np.zeros(layer.gamma.shape))  # nothing is left of the block but its shortcut
    import keras

    places = ["stem_relu", "stage1_block1_relu", "stage2_block1_relu", "stage3_block1_relu"]
    outputs = keras.Model(model.inputs[0], [model.get_layer(name).output for name in places])
    stem, first, second, third = (
        value.numpy() for value in outputs(np.random.default_rng(0).integers(0, 17, (2, 8, 8), dtype=np.uint8))
    )
    np.testing.assert_array_equal(first, stem)
    assert second.shape == (2, 4, 4, 32)
    np.testing.assert_array_equal(second[..., 8:24], stem[:, ::2, ::2])
    assert (second[..., :8] == 0).all()
    assert (second[..., 24:] == 0).all()
    assert third.shape == (2, 2, 2, 64)
    np.testing.assert_array_equal(third[..., 16:48], second[:, ::2, ::2])


def test_it_learns_the_digits() -> None:
    trained = train(["data=digits", "model=resnet", "model.depth=8", "training.epochs=3", "training.threads=1"])
    assert trained["losses"][-1] < 0.15
