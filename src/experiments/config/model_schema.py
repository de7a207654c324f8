"""The group `model` of a config: the architecture."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from experiments.config.fields import STRICT_FIELDS, Positive, Rate, described
from experiments.config.keras_table import (
    DROPOUT_RATE_RANGE,
    check_arguments,
    check_layer,
    keras_name_check,
    keras_object_check,
    keras_table,
    refusal,
)

Counts = Annotated[list[Positive], BeforeValidator(lambda value: [value] if type(value) is int else value)]
ActivationName = Annotated[str, AfterValidator(keras_name_check("activations"))]
InitializerValue = Annotated[Any, AfterValidator(keras_object_check("initializers"))]
RegularizerValue = Annotated[Any, AfterValidator(keras_object_check("regularizers", or_null=True))]
ConstraintValue = Annotated[Any, AfterValidator(keras_object_check("constraints", or_null=True))]

ACTIVATION = described("activation function, a name in Keras such as relu, tanh, gelu, or scaled_tanh")
INITIALIZER = described("initial weights, a name in Keras such as glorot_uniform, or {name: {argument: value}}")
REGULARIZER = described("penalty on the weights, like {l2: {l2: 0.0001}}, or null: none")
RESNET_DEPTH = "layers with weights, 6 n + 2: 8, 14, 20, 26, 32, 38, 44, 50, 56 or more"
WeightsSource = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$|\.(keras|h5)$")]
RunIdPrefix = Annotated[str, Field(pattern="^[0-9a-f]{1,32}$")]


@dataclass(config=STRICT_FIELDS, kw_only=True)
class StartConfig:
    """What all networks share: where training starts."""

    name: str
    weights: WeightsSource | None = described(
        "where to start: id of a finished run, 32 hex digits, a file that ends in .keras or .h5, or null: drawn by seed"
    )
    weights_of: Literal["all", "matching"] = described(
        "layers that start from model.weights: all, or matching: those with the same name and shapes there"
    )
    continue_: RunIdPrefix | None = Field(  # `continue` is a keyword of Python
        alias="continue",
        description="id of a finished run with training.keep_state to train further, or its first digits, or null",
    )


@dataclass(config=STRICT_FIELDS, kw_only=True)
class DenseConfig(StartConfig):
    """What networks with hidden dense layers share."""

    name: str
    units: Counts = described("units of each hidden dense layer, 1 or more: a number or a list; [] for none")
    activation: ActivationName = ACTIVATION
    dropout: Rate = described(DROPOUT_RATE_RANGE)
    kernel_initializer: InitializerValue = INITIALIZER
    kernel_regularizer: RegularizerValue = REGULARIZER
    batch_normalization: bool = described("normalize each layer over the batch before the activation: true or false")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class MlpConfig(DenseConfig):
    """Dense hidden layers between the flattened input and the output layer."""

    name: Literal["mlp"]
    input_dropout: Rate = described(DROPOUT_RATE_RANGE)
    kernel_constraint: ConstraintValue = described("limit on weights, like {max_norm: {max_value: 2}}, or null: none")
    output_activation: ActivationName | None = described(
        "activation of the output layer, or null: softmax for classes, none for a number"
    )


@dataclass(config=STRICT_FIELDS, kw_only=True)
class CnnConfig(DenseConfig):
    """Blocks of convolution and max pooling, then dense layers."""

    name: Literal["cnn"]
    filters: Counts = described("filters of each convolution, 1 or more")
    kernel_size: Positive = described("height and width of each convolution, in pixels, 1 or more")
    pool_size: Positive = described("height and width of the max pooling after each convolution, 1 (none) or more")
    padding: Literal["valid", "same"] = described("border of a convolution: valid (shrinks the image) or same")


def check_depth(depth: int) -> int:
    if depth < 8 or depth % 6 != 2:
        near = max(8, depth - (depth - 2) % 6)
        raise refusal(f"{depth} is not allowed: {RESNET_DEPTH}. Near it are {near} and {near + 6}")
    return depth


@dataclass(config=STRICT_FIELDS, kw_only=True)
class ResnetConfig(StartConfig):
    """A residual network for small images."""

    name: Literal["resnet"]
    depth: Annotated[int, AfterValidator(check_depth)] = described(RESNET_DEPTH)
    kernel_initializer: InitializerValue = INITIALIZER
    kernel_regularizer: RegularizerValue = REGULARIZER


@dataclass(config=STRICT_FIELDS, kw_only=True)
class KerasConfig(StartConfig):
    """A network of keras.applications with an output layer for the task."""

    name: Literal["keras"]
    application: Annotated[str, AfterValidator(keras_name_check("applications"))] = described(
        "network of keras.applications, by its name there, such as MobileNetV2"
    )
    arguments: dict[str, Any] | None = described("arguments of that network, such as {alpha: 0.5}, or null: none")
    dropout: Rate = described(DROPOUT_RATE_RANGE)

    def __post_init__(self) -> None:
        known = keras_table()["applications"][self.application]["arguments"]
        check_arguments(f"model.arguments: {self.application}", self.arguments or {}, known)


@dataclass(config=STRICT_FIELDS, kw_only=True)
class NeuronConfig(StartConfig):
    """One artificial neuron: activation(weight * x + bias)."""

    name: Literal["neuron"]
    activation: ActivationName = ACTIVATION
    kernel_initializer: InitializerValue = INITIALIZER


@dataclass(config=STRICT_FIELDS, kw_only=True)
class LayersConfig(StartConfig):
    """Any network written out as Keras layers."""

    name: Literal["layers"]
    layers: list[Annotated[Any, AfterValidator(check_layer)]] = Field(
        min_length=1,
        description="Keras layers from input to output: name, {name: {argument: value}} or {Residual: [layers]}",
    )


ModelConfig = MlpConfig | CnnConfig | ResnetConfig | KerasConfig | NeuronConfig | LayersConfig
