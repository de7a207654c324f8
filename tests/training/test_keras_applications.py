"""Networks of keras.applications: flat graphs with an output layer for the task, whose dropout is exact."""

import numpy as np
import pytest
from composed import job, refusal

from experiments.runtime import start_tensorflow
from experiments.training.networks import build_network

start_tensorflow(1)

import keras  # noqa: E402

PADDED = ["data=digits", "data.padding=12", "model=keras"]


def test_an_application_is_one_flat_graph_with_a_head_and_takes_its_arguments() -> None:
    small = ["model.application=MobileNet", "model.arguments={alpha:0.25}", "model.dropout=0.5"]
    model = build_network(job(*PADDED, *small))
    assert model.input_shape == (None, 8, 8)
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    assert [layer.name for layer in model.layers[-3:]] == ["head_pool", "head_dropout", "output"]
    assert model.get_layer("conv1").filters == 8
    assert model.count_params() == 218_400 + 256 * 10 + 10
    outputs = model(np.zeros((2, 8, 8), np.uint8)).numpy()
    np.testing.assert_allclose(outputs.sum(axis=1), 1, rtol=1e-5)
    again = build_network(job(*PADDED, *small))
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.application=MobilNet"],
            "Keras has no application 'MobilNet' (did you mean 'MobileNet'?); choices: Conv",
        ),
        (["model.arguments={alph:1}"], "model.arguments: MobileNetV2 has no argument 'alph' (did you mean 'alpha'?)"),
        (["model.arguments={alpha:big}"], "model.arguments: MobileNetV2: alpha takes a number; received 'big'"),
        (["model.arguments={weights:imagenet}"], "MobileNetV2 has no argument 'weights'"),
        (
            ["data.padding=2"],
            "model.application=MobileNetV2 takes images of 32 x 32 pixels or more, data=digits has 12 x 12. Use"
            " data.padding=12, or larger images",
        ),
        (["data=linear", "training.loss=mean_squared_error"], "model=keras needs images, data=linear has inputs of"),
    ],
)
def test_what_an_application_cannot_do_is_refused_at_composition(overrides: list[str], message: str) -> None:
    base = PADDED if not overrides[0].startswith("data=") else ["model=keras"]
    assert message in refusal(*base, *overrides)
