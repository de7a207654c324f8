"""From config to network: the resulting layers, what they compute, and what is refused."""

from typing import Any

import numpy as np
import pytest

from experiments.config.choices import CONFIG_FOLDER
from experiments.config.composition import compose_job
from experiments.config.keras_table import keras_table
from experiments.errors import ConfigError
from experiments.runtime import start_tensorflow
from experiments.training.devices import start_strategy
from experiments.training.networks import build_network
from experiments.training.optimizers import build_optimizer

start_tensorflow(1)

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402


def build(*overrides: str, data: str = "digits") -> keras.Model:
    config = compose_job([f"data={data}", *overrides])
    return build_network(config)


def refusal(*overrides: str, data: str = "digits") -> str:
    with pytest.raises(ConfigError) as caught:
        build(*overrides, data=data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def kinds(model: keras.Model) -> list[str]:
    return [type(layer).__name__ for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]


def of_kind(model: keras.Model, kind: str) -> list[Any]:
    return [layer for layer in model.layers if type(layer).__name__ == kind]


def images(model: keras.Model, count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 17, (count, *model.input_shape[1:]), dtype=np.uint8)


# --- mlp ----------------------------------------------------------------------------------------------------------


def test_default_network_is_that_of_the_walkthrough() -> None:
    model = build(data="mnist")
    assert kinds(model) == ["Rescaling", "Flatten", "Dense", "Dropout", "Dense"]
    assert model.input_shape == (None, 28, 28)
    assert model.output_shape == (None, 10)
    assert model.count_params() == 101_770
    hidden, output = of_kind(model, "Dense")
    assert (hidden.units, hidden.activation.__name__, output.activation.__name__) == (128, "relu", "softmax")
    assert of_kind(model, "Dropout")[0].rate == 0.2


def test_network_scales_raw_pixels_itself() -> None:
    model = build("model.units=[]")
    pixels = images(model)
    kernel, bias = model.get_weights()
    by_hand = tf.nn.softmax(pixels.reshape(4, -1) / 16 @ kernel + bias)
    np.testing.assert_allclose(model(pixels), by_hand, rtol=1e-4, atol=1e-6)
    assert of_kind(build(data="mnist"), "Rescaling")[0].scale == pytest.approx(1 / 255)


def up_to(model: keras.Model, kind: str) -> keras.Model:
    return keras.Model(model.inputs[0], of_kind(model, kind)[0].output)


def test_pixels_are_normalized_by_mean_and_deviation() -> None:
    model = build("data.mean=0.25", "data.standard_deviation=0.5")
    pixels = np.array([0, 8, 16] * 21 + [4], np.uint8).reshape(1, 8, 8)
    normalized = np.array([-0.5, 0.5, 1.5] * 21 + [0]).reshape(1, 8, 8)
    np.testing.assert_allclose(up_to(model, "Rescaling")(pixels), normalized, atol=1e-6)


def test_padding_adds_background_before_normalization() -> None:
    model = build("data.padding=2", "data.mean=0.5", "model=cnn", "model.filters=[1]")
    padded = up_to(model, "Rescaling")(images(model)).numpy()
    assert padded.shape == (4, 12, 12)
    np.testing.assert_allclose(padded[:, 2:-2, 2:-2], images(model) / 16 - 0.5, atol=1e-6)
    for edge in (padded[:, :2], padded[:, -2:], padded[:, :, :2], padded[:, :, -2:]):
        assert (edge == -0.5).all()
    assert build("data.padding=2", "model.units=[]").count_params() == 12 * 12 * 10 + 10


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.units=[3,3]", "model.dropout=0", "model.activation=scaled_tanh", "model.output_activation=linear"),
        ("model=layers", "model.layers=[Flatten,{Dense:{units:3,activation:scaled_tanh}},{Dense:{units:3}},"
         "{Activation:{activation:scaled_tanh}},{Dense:{units:10}}]"),
    ],
    ids=["mlp", "layers"],
)  # fmt: skip
def test_scaled_tanh_is_built_of_layers_that_plain_keras_loads(overrides: tuple[str, ...]) -> None:
    model = build(*overrides, "training.loss=mean_squared_error")
    pixels = images(model)
    values = pixels.reshape(4, -1) / 16
    *hidden, output = of_kind(model, "Dense")
    for layer in hidden:
        values = 1.7159 * np.tanh(2 / 3 * (values @ layer.kernel.numpy() + layer.bias.numpy()))
    np.testing.assert_allclose(model(pixels), values @ output.kernel.numpy(), rtol=1e-4, atol=1e-6)
    assert set(kinds(model)) == {"Rescaling", "Flatten", "Dense", "Activation"}


def test_output_activation_can_change_when_the_loss_needs_no_probabilities() -> None:
    model = build("model.output_activation=sigmoid", "training.loss=mean_squared_error")
    assert model.layers[-1].activation.__name__ == "sigmoid"
    assert refusal("model.output_activation=sigmoid").startswith(
        "model.output_activation ends in values that are not probabilities: for one image they add up to"
    )


def test_outputs_are_probabilities() -> None:
    model = build()
    outputs = model(images(model)).numpy()
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs.sum(axis=1), 1, rtol=1e-5)


def test_empty_units_give_a_linear_model() -> None:
    model = build("model.units=[]")
    assert kinds(model) == ["Rescaling", "Flatten", "Dense"]
    assert model.count_params() == 64 * 10 + 10


def test_units_activation_and_dropout_apply_to_each_hidden_layer() -> None:
    model = build("model.units=[32,16]", "model.activation=tanh", "model.dropout=0.5", "model.input_dropout=0.1")
    assert kinds(model) == ["Rescaling", "Flatten", "Dropout", "Dense", "Dropout", "Dense", "Dropout", "Dense"]
    assert [layer.rate for layer in of_kind(model, "Dropout")] == [0.1, 0.5, 0.5]
    assert [layer.units for layer in of_kind(model, "Dense")] == [32, 16, 10]
    assert [layer.activation.__name__ for layer in of_kind(model, "Dense")] == ["tanh", "tanh", "softmax"]


def test_dropout_of_0_adds_no_layer() -> None:
    assert kinds(build("model.dropout=0")) == ["Rescaling", "Flatten", "Dense", "Dense"]


def test_batch_normalization_follows_a_layer_without_bias_and_precedes_its_activation() -> None:
    model = build("model.batch_normalization=true", "model.activation=gelu")
    assert kinds(model) == ["Rescaling", "Flatten", "Dense", "BatchNormalization", "Activation", "Dropout", "Dense"]
    hidden, output = of_kind(model, "Dense")
    assert (hidden.use_bias, hidden.activation.__name__) == (False, "linear")
    assert (output.use_bias, output.activation.__name__) == (True, "softmax")
    assert of_kind(model, "Activation")[0].activation.__name__ == "gelu"


def test_initializers_regularizers_and_constraints_take_arguments() -> None:
    model = build(
        "model.kernel_initializer={random_normal:{stddev:0.5}}",
        "model.kernel_regularizer={l1_l2:{l1:0.25,l2:0.5}}",
        "model.kernel_constraint={max_norm:{max_value:3,axis:0}}",
    )
    for layer in of_kind(model, "Dense"):
        assert layer.kernel_initializer.stddev == 0.5
        assert (float(layer.kernel_regularizer.l1), float(layer.kernel_regularizer.l2)) == (0.25, 0.5)
        assert (layer.kernel_constraint.max_value, layer.kernel_constraint.axis) == (3, 0)
    hidden, output = of_kind(model, "Dense")
    assert hidden.kernel.numpy().std() == pytest.approx(0.5, rel=0.05)
    assert hidden.kernel_initializer is not output.kernel_initializer
    penalty = sum(0.25 * np.abs(d.kernel).sum() + 0.5 * np.square(d.kernel).sum() for d in (hidden, output))
    assert float(sum(model.losses)) == pytest.approx(penalty, rel=1e-4)


def test_a_constraint_limits_the_weights_after_a_step() -> None:
    model = build("model.kernel_constraint={max_norm:{max_value:0.5,axis:0}}")
    kernels = [layer.kernel for layer in of_kind(model, "Dense")]
    assert max(np.linalg.norm(kernel, axis=0).max() for kernel in kernels) > 0.6
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.apply([tf.zeros(variable.shape) for variable in model.trainable_variables], model.trainable_variables)
    assert max(np.linalg.norm(kernel, axis=0).max() for kernel in kernels) < 0.501


@pytest.mark.parametrize("activation", sorted(keras_table()["activations"]))
def test_every_activation_builds_a_hidden_layer(activation: str) -> None:
    model = build(f"model.activation={activation}", "model.units=[7]")
    np.testing.assert_allclose(model(images(model)).numpy().sum(axis=1), 1, rtol=1e-5)


ONLY_FOR = {"stft": "3D kernels"}


@pytest.mark.parametrize("initializer", sorted(set(keras_table()["initializers"]) - set(ONLY_FOR)))
def test_every_initializer_builds_a_hidden_layer(initializer: str) -> None:
    assert build(f"model.kernel_initializer={initializer}", "model.units=[7]").output_shape == (None, 10)


@pytest.mark.parametrize("kind", ["regularizer", "constraint"])
def test_every_regularizer_and_constraint_builds_a_hidden_layer(kind: str) -> None:
    for name in keras_table()[f"{kind}s"]:
        assert build(f"model.kernel_{kind}={name}", "model.units=[7]").output_shape == (None, 10)


# --- cnn, neuron --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "flat"), [("digits", 2 * 2 * 64), ("mnist", 7 * 7 * 64)])
def test_convolutional_network_fits_the_images(data: str, flat: int) -> None:
    model = build("model=cnn", data=data)
    block = ["Conv2D", "MaxPooling2D"]
    assert kinds(model) == ["Rescaling", "Reshape", *block, *block, "Flatten", "Dropout", "Dense"]
    assert of_kind(model, "Flatten")[0].output.shape == (None, flat)
    assert model.output_shape == (None, 10)


def test_options_of_the_convolutional_network_take_effect() -> None:
    model = build(
        "model=cnn",
        "model.filters=[4,6]",
        "model.kernel_size=2",
        "model.pool_size=1",
        "model.padding=valid",
        "model.units=[5]",
        "model.batch_normalization=true",
        "model.dropout=0.3",
        "model.activation=elu",
    )
    conv = ["Conv2D", "BatchNormalization", "Activation"]
    dense = ["Dense", "BatchNormalization", "Activation", "Dropout"]
    assert kinds(model) == ["Rescaling", "Reshape", *conv, *conv, "Flatten", "Dropout", *dense, "Dense"]
    assert [layer.output.shape for layer in of_kind(model, "Conv2D")] == [(None, 7, 7, 4), (None, 6, 6, 6)]
    assert [layer.use_bias for layer in of_kind(model, "Conv2D")] == [False, False]
    assert {layer.activation.__name__ for layer in of_kind(model, "Activation")} == {"elu"}


def test_neuron_has_one_weight_and_one_bias() -> None:
    model = build("model=neuron", "training.loss=mean_squared_error", data="linear")
    assert kinds(model) == ["Dense"]
    model.set_weights([np.array([[2.0]]), np.array([0.5])])
    np.testing.assert_allclose(model(np.array([[0.25]], np.float32)), [[np.tanh(1.0)]], rtol=1e-6)


def test_mlp_for_regression_ends_in_one_linear_unit() -> None:
    model = build("training.loss=mean_squared_error", "model.units=[3]", data="linear")
    assert kinds(model) == ["Flatten", "Dense", "Dropout", "Dense"]
    assert model.layers[-1].activation.__name__ == "linear"
    assert model.output_shape == (None, 1)


# --- seeds --------------------------------------------------------------------------------------------------------


def test_initial_weights_follow_the_seed() -> None:
    first, again, other = build("seed=3"), build("seed=3"), build("seed=4")
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.get_weights()[0] != other.get_weights()[0]).any()


def test_earlier_networks_do_not_affect_later_ones() -> None:
    first = build("seed=3")
    build("model=cnn", "seed=9")
    np.testing.assert_array_equal(first.get_weights()[0], build("seed=3").get_weights()[0])


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_smallest_and_largest_seed_build_a_network(seed: int) -> None:
    assert np.isfinite(build(f"seed={seed}").get_weights()[0]).all()


# --- layers, written out ------------------------------------------------------------------------------------------

LINES, FLAT = "", "Flatten"
IMAGE, VOLUME, FILM = (f"{{Reshape:{{target_shape:{shape}}}}}" for shape in ("[8,8,1]", "[4,4,4,1]", "[2,4,4,2,1]"))
SOFTMAX = "Flatten,{Dense:{units:10,activation:softmax}}"


def written(layers: str, end: str = SOFTMAX) -> tuple[str, str]:
    return "model=layers", f"model.layers=[{','.join(part for part in (layers, end) if part)}]"


def test_listed_layers_build_the_same_network() -> None:
    for a, b in zip(build("model=layers").get_weights(), build().get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_layers_accept_objects_with_arguments() -> None:
    model = build(
        *written(
            "Flatten,{Dense:{units:4,kernel_initializer:{random_normal:{stddev:0.5}},bias_regularizer:{l2:{l2:0.5}},"
            "kernel_constraint:non_neg,activation:relu}}",
            "{Dense:{units:10,activation:softmax}}",
        )
    )
    layer = of_kind(model, "Dense")[0]
    assert layer.kernel_initializer.stddev == 0.5
    assert float(layer.bias_regularizer.l2) == 0.5
    assert type(layer.kernel_constraint).__name__ == "NonNeg"


def test_a_residual_block_adds_its_input_to_its_output() -> None:
    model = build(*written("Flatten,{Residual:[{Dense:{units:64,activation:relu}},{Dropout:{rate:0.5}}]}"))
    assert kinds(model) == ["Rescaling", "Flatten", "Dense", "Dropout", "Add", "Flatten", "Dense"]
    hidden = of_kind(model, "Dense")[0]
    values = images(model).reshape(4, -1) / 16
    expected = values + np.maximum(0, values @ hidden.kernel.numpy())
    np.testing.assert_allclose(up_to(model, "Add")(images(model)), expected, rtol=1e-5, atol=1e-6)


def test_a_shortcut_projects_its_input_where_the_shapes_differ() -> None:
    half = "{Conv2D:{filters:3,kernel_size:3,strides:2,padding:same}}"
    model = build(*written(f"{IMAGE},{{Residual:[{half},{{Residual:[ReLU]}}]}}"))
    projection = next(layer for layer in of_kind(model, "Conv2D") if layer.kernel_size == (1, 1))
    assert (projection.strides, projection.use_bias, projection.filters) == ((2, 2), False, 3)
    values = images(model)[:, ::2, ::2, None] / 16 @ projection.kernel.numpy()[0, 0]
    np.testing.assert_allclose(projection(images(model)[..., None] / 16), values, rtol=1e-5, atol=1e-6)
    dense = build(*written("Flatten,{Residual:[{Dense:{units:5}}]}"))
    assert [layer.units for layer in of_kind(dense, "Dense")] == [5, 5, 10]
    assert sum(layer.use_bias for layer in of_kind(dense, "Dense")) == 2


# Of every layer that is allowed: what it comes after, and its smallest arguments. Aliases are not repeated.
LAYERS: dict[str, dict[str, str]] = {
    FLAT: {
        "Activation": "{activation: relu}",
        "ActivityRegularization": "{l2: 0.01}",
        "BatchNormalization": "{}",
        "Dense": "{units: 3}",
        "Dropout": "{rate: 0.5}",
        "ELU": "{}",
        "EinsumDense": "{equation: 'ab,bc->ac', output_shape: [3]}",
        "Embedding": "{input_dim: 17, output_dim: 2}",
        "Flatten": "{}",
        "GroupNormalization": "{groups: 4}",
        "Identity": "{}",
        "LayerNormalization": "{}",
        "LeakyReLU": "{}",
        "MelSpectrogram": "{fft_length: 16, sequence_stride: 8, num_mel_bins: 4}",
        "Normalization": "{mean: 0.5, variance: 0.1}",
        "PReLU": "{}",
        "RMSNormalization": "{}",
        "ReLU": "{}",
        "RepeatVector": "{n: 2}",
        "Rescaling": "{scale: 2.0}",
        "Reshape": "{target_shape: [64]}",
        "ReversibleEmbedding": "{input_dim: 17, output_dim: 2}",
        "Softmax": "{}",
        "UnitNormalization": "{}",
    },
    LINES: {
        "AdaptiveAveragePooling1D": "{output_size: 2}",
        "AdaptiveMaxPooling1D": "{output_size: 2}",
        "AveragePooling1D": "{pool_size: 2}",
        "Conv1D": "{filters: 2, kernel_size: 3}",
        "Conv1DTranspose": "{filters: 2, kernel_size: 3}",
        "Cropping1D": "{}",
        "DepthwiseConv1D": "{kernel_size: 3}",
        "GRU": "{units: 2}",
        "GlobalAveragePooling1D": "{}",
        "GlobalMaxPooling1D": "{}",
        "LSTM": "{units: 2}",
        "Masking": "{}",
        "MaxPooling1D": "{}",
        "Permute": "{dims: [2, 1]}",
        "STFTSpectrogram": "{frame_length: 4, fft_length: 4}",
        "SeparableConv1D": "{filters: 2, kernel_size: 3}",
        "SimpleRNN": "{units: 2}",
        "SpatialDropout1D": "{rate: 0.5}",
        "UpSampling1D": "{}",
        "ZeroPadding1D": "{}",
    },
    IMAGE: {
        "AdaptiveAveragePooling2D": "{output_size: 2}",
        "AdaptiveMaxPooling2D": "{output_size: 2}",
        "AutoContrast": "{value_range: [0, 1]}",
        "AveragePooling2D": "{pool_size: 2}",
        "CenterCrop": "{height: 4, width: 4}",
        "ContrastLimitedAdaptiveHistogramEqualization": "{value_range: [0, 1], tile_grid_size: [2, 2]}",
        "Conv2D": "{filters: 2, kernel_size: 3}",
        "Conv2DTranspose": "{filters: 2, kernel_size: 3}",
        "ConvLSTM1D": "{filters: 2, kernel_size: 3}",
        "Cropping2D": "{cropping: 1}",
        "DepthwiseConv2D": "{kernel_size: 3}",
        "GlobalAveragePooling2D": "{}",
        "GlobalMaxPooling2D": "{}",
        "MaxPooling2D": "{}",
        "Resizing": "{height: 4, width: 4}",
        "SeparableConv2D": "{filters: 2, kernel_size: 3}",
        "SpatialDropout2D": "{rate: 0.5}",
        "UpSampling2D": "{}",
        "ZeroPadding2D": "{}",
    },
    VOLUME: {
        "AdaptiveAveragePooling3D": "{output_size: 2}",
        "AdaptiveMaxPooling3D": "{output_size: 2}",
        "AveragePooling3D": "{pool_size: 2}",
        "Conv3D": "{filters: 2, kernel_size: 3}",
        "Conv3DTranspose": "{filters: 2, kernel_size: 3}",
        "ConvLSTM2D": "{filters: 2, kernel_size: 3}",
        "Cropping3D": "{}",
        "GlobalAveragePooling3D": "{}",
        "GlobalMaxPooling3D": "{}",
        "MaxPooling3D": "{}",
        "SpatialDropout3D": "{rate: 0.5}",
        "UpSampling3D": "{}",
        "ZeroPadding3D": "{}",
    },
    FILM: {"ConvLSTM3D": "{filters: 2, kernel_size: 2}"},
}
CASES = [(before, name, arguments) for before, layers in LAYERS.items() for name, arguments in layers.items()]


def test_every_allowed_layer_is_tested() -> None:
    allowed = {getattr(keras.layers, name) for name, layer in keras_table()["layers"].items() if not layer["refused"]}
    assert {getattr(keras.layers, name) for _, name, _ in CASES} == allowed


@pytest.mark.parametrize(("before", "name", "arguments"), CASES, ids=[name for _, name, _ in CASES])
def test_every_allowed_layer_runs_and_has_gradients(before: str, name: str, arguments: str) -> None:
    model = build(*written(",".join(part for part in (before, f"{{{name}: {arguments}}}") if part)))
    assert name in [type(layer).__name__ for layer in model.layers] or before == IMAGE
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(tf.math.log(model(images(model))[:, 0] + 1e-6)) + sum(model.losses)
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    for gradient in gradients:
        assert np.isfinite(tf.convert_to_tensor(gradient)).all()


MISTAKES: dict[str, tuple[tuple[str, str], str]] = {
    "rank": (
        written("{Conv2D:{filters:8,kernel_size:3}}"),
        "model.layers[0] (Conv2D) does not fit: it receives the shape (8, 8); Keras says: Input 0",
    ),
    "window": (
        written(f"{IMAGE},{{MaxPooling2D:{{pool_size:20}}}}"),
        "model.layers[1] (MaxPooling2D) does not fit: it receives the shape (8, 8, 1); Keras says: Computed output",
    ),
    "size": (
        written("{Reshape:{target_shape:[3]}}"),
        "model.layers[0] (Reshape) does not fit: it receives the shape (8, 8); Keras says: The total size",
    ),
    "axis": (
        written("{BatchNormalization:{axis:7}}"),
        "model.layers[0] (BatchNormalization) does not fit: it receives the shape (8, 8); Keras says: ",
    ),
    "negative": (
        written("Flatten,{Dense:{units:-1}}"),
        "model.layers[1] (Dense) does not fit: its arguments are wrong; Keras says: Received an invalid value for",
    ),
    "object": (
        written("Flatten,{Dense:{units:2,kernel_regularizer:{l2:{l2:-1}}}}"),
        "model.layers[1] (Dense) does not fit: its arguments are wrong; Keras says: Invalid value for argument l2",
    ),
    "several outputs": (
        written("{LSTM:{units:2,return_state:true}}"),
        "model.layers[1] (Flatten) does not fit: it receives the shape",
    ),
    "late": (
        written("{Rescaling:{scale:[1,2,3]}}"),
        "model=layers does not run: Keras says: Incompatible shapes: [2,8,8] vs. [3]",
    ),
    "constraint": (
        written("{Dense:{units:2,kernel_constraint:{max_norm:{axis:5}}}}"),
        "model=layers does not run: Keras says: Invalid reduction dimension (5",
    ),
    "no classes": (
        written("", "Flatten"),
        "model.layers end in the shape (None, 64), data=digits needs (None, 10). End with {Dense: {units: 10,"
        " activation: softmax}}, after Flatten",
    ),
    "logits": (
        written("", "Flatten,{Dense:{units:10}}"),
        "model.layers end in values that are not probabilities: for one image they add up to",
    ),
    "sigmoids": (
        written("", "Flatten,{Dense:{units:10,activation:sigmoid}}"),
        "End with {Dense: {units: 10, activation: softmax}}",
    ),
    "residual of another rank": (
        written("{Residual:[Flatten]}"),
        "model.layers[0] (Residual) does not fit: it receives the shape (8, 8), and its layers return (64,). Its layers"
        " must keep the number of dimensions, and the sizes or a whole fraction of them, such as half",
    ),
    "residual of another size": (
        written(f"{IMAGE},{{Residual:[{{Conv2D:{{filters:4,kernel_size:3}}}}]}}"),
        "model.layers[1] (Residual) does not fit: it receives the shape (8, 8, 1), and its layers return (6, 6, 4).",
    ),
    "in a residual": (
        written("Flatten,{Residual:[{Residual:[{Dense:{units:4}},{Conv2D:{filters:8,kernel_size:3}}]}]}"),
        "model.layers[1].Residual[0].Residual[1] (Conv2D) does not fit: it receives the shape (4,);",
    ),
    "initializer of an mlp": (
        ("model=mlp", "model.kernel_initializer={variance_scaling:{mode:foo}}"),
        "model=mlp cannot be built: Keras says: Invalid `mode` argument: foo.",
    ),
    "initializer of a cnn": (
        ("model=cnn", "model.kernel_initializer=identity"),
        "layer 1 of model=cnn (Conv2D) does not fit: it receives the shape (8, 8, 1); Keras says: Identity matrix",
    ),
    "regularizer of a cnn": (
        ("model=cnn", "model.kernel_regularizer=orthogonal_regularizer"),
        "model=cnn does not run: Keras says: Inputs to OrthogonalRegularizer must have rank 2.",
    ),
    "units of an mlp": (
        ("model=mlp", "model.units=100000000000000000000"),
        "layer 1 of model=mlp (Dense) does not fit: it receives the shape (64,); Keras says: ",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_layer_that_does_not_fit_is_named_with_the_reason_from_keras(mistake: str) -> None:
    overrides, message = MISTAKES[mistake]
    found = refusal(*overrides)
    assert message in found
    assert "\x1b" not in found
    assert "Exception encountered" not in found


def test_softmax_layer_is_accepted_as_output() -> None:
    assert build(*written("", "Flatten,{Dense:{units:10}},Softmax")).output_shape == (None, 10)


def test_layer_names_do_not_depend_on_earlier_models_of_the_process() -> None:
    config = compose_job(["data=digits"])

    def names() -> list[str]:
        start_strategy(config.distribution, threads=1)
        return [variable.path for variable in build_network(config).variables]

    assert names() == names()


# --- what is shipped ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", sorted(file.stem for file in CONFIG_FOLDER.glob("experiment/*.yaml")))
def test_every_shipped_experiment_builds_on_shrunk_data(experiment: str) -> None:
    shrunk = ["data.limit=40", "data.validation=20", "training.batch_size=4"]
    overrides = [] if experiment == "single_neuron" else shrunk
    if experiment.endswith("8192"):
        overrides.append("model.units=[32,32]")
    config = compose_job([f"experiment={experiment}", "expected=null", *overrides])
    model = build_network(config)
    assert model.output_shape == (None, 1 if experiment == "single_neuron" else 10)
    assert build_optimizer(config.optimizer, config.training.gradient_clipping).name.startswith(config.optimizer.name)
