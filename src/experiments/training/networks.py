"""From a config to a Keras model, or from a file: a model's `name` picks its builder, the other keys are the arguments.

Every model takes raw inputs (pixels as stored) and scales them itself, so that a logged model is complete.
"""

import dataclasses
import fnmatch
from collections.abc import Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config.data_schema import LinearData
from experiments.config.facts import OutputLayer, gives_probabilities, network_input_shape, output_layer
from experiments.config.model_schema import LayersConfig, MlpConfig, StartConfig
from experiments.config.own_code import call_own
from experiments.config.registry import own_functions
from experiments.config.schema import Config
from experiments.errors import ConfigError, StoreError, did_you_mean
from experiments.formatting import shorten_middle
from experiments.profiling import span
from experiments.training.keras_applications import keras_application
from experiments.training.network_builders import cnn, connect_layers, keras_errors, mlp, neuron, written_layers
from experiments.training.randomness import refuse_other_randomness
from experiments.training.residual_networks import resnet

if TYPE_CHECKING:
    import keras


@span("building the network")
def build_network(config: Config) -> "keras.Model":
    """Build the network of a config from stock Keras layers, with its initial weights drawn from `config.seed`.

    It maps raw inputs [batch, *data.shape] to class probabilities [batch, classes], or to one number [batch, 1].
    Raise a ConfigError if the layers do not fit each other or the data, or Keras rejects an argument.
    """
    import keras

    keras.utils.set_random_seed(config.seed)
    precision = config.training.mixed_precision
    keras.config.set_dtype_policy(f"mixed_{precision}" if precision else "float32")
    keys = {field.name for field in dataclasses.fields(config.model)}
    keys -= {field.name for field in dataclasses.fields(StartConfig)}
    inputs, outputs = keras.Input(config.data.shape), output_layer(config)
    with keras_errors(f"model={config.model.name} cannot be built:"):
        scaled = connect_layers(inputs, _scaling_layers(config), "layer {} of the scaling")
        arguments = {key: getattr(config.model, key) for key in keys}
        own = own_functions("model").get(config.model.name)
        build = partial(call_own, own) if own else NETWORK_BUILDERS[config.model.name]
        model = keras.Model(inputs, build(scaled, outputs, **arguments), name=config.model.name)
    _check_network(model, config, outputs)
    refuse_other_randomness(model)
    if own:
        _refuse_unloadable(model)
    _freeze_layers(model, config.training.freeze)
    return model


def load_keras_model(file: Path, run_id: str, config: Config) -> "keras.Model":
    """Load the model from a run's `.keras` file, or raise a StoreError; the user's own layers are those of `config`."""
    if config.model.name in own_functions("model"):
        build_network(config)  # which defines its layers
    return load_keras_file(file, f"The model of run {run_id}")


def load_keras_file(file: Path, what: str) -> "keras.Model":
    """Load a model from a `.keras` file without running code of it, or raise a StoreError that begins with `what`."""
    import keras

    try:
        return keras.saving.load_model(file, compile=False)
    except Exception as error:  # Keras raises exceptions of many types
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise StoreError(f"{what} cannot be loaded: {reason}") from None


def _refuse_unloadable(model: "keras.Model") -> None:
    """Raise a ConfigError if Keras could not load a model of the user's own from its file."""
    import keras

    try:
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    except Exception as error:  # Keras raises exceptions of many types
        raise ConfigError(
            f"model={model.name} could not be loaded from its file again. Decorate each layer of your own with"
            " @keras.saving.register_keras_serializable(), and return all arguments of its constructor from get_config."
        ) from error


def _scaling_layers(config: Config) -> list["keras.Layer"]:
    """Return the layers that pad raw pixels with background, then scale them by mean and deviation."""
    import keras

    data = config.data
    if isinstance(data, LinearData):
        return []
    layers = []
    if data.padding:
        height, width, *channels = data.shape
        layers = [
            keras.layers.Reshape((height, width, *(channels or [1]))),
            keras.layers.ZeroPadding2D(data.padding),
            keras.layers.Reshape(network_input_shape(data)),
        ]
    if isinstance(data.mean, list) or isinstance(data.standard_deviation, list):
        pairs = list(zip(*np.broadcast_arrays(data.mean, data.standard_deviation), strict=True))
        scales = [float(1 / (data.pixel_max * deviation)) for _, deviation in pairs]
        return [*layers, keras.layers.Rescaling(scales, offset=[float(0.0 - mean / sd) for mean, sd in pairs])]
    scale = 1 / (data.pixel_max * data.standard_deviation)
    return [*layers, keras.layers.Rescaling(scale, offset=0.0 - data.mean / data.standard_deviation)]


# Each builds a network from inputs as they leave the scaling, and returns its output; `outputs` describes the last
# layer, and the other arguments are the keys of the config.
NETWORK_BUILDERS: dict[str, Any] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet": resnet,
    "keras": keras_application,
    "neuron": neuron,
    "layers": written_layers,
}


def _freeze_layers(model: "keras.Model", patterns: Sequence[str]) -> None:
    """Keep the weights of the layers whose name matches a pattern, unless it also matches one that begins with `!`.

    Batch normalization among them uses its moving statistics, in training too. Raise a ConfigError if a pattern matches
    no layer, or nothing is left to train.
    """
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    frozen, trained = set[str](), set[str]()
    for pattern in patterns:
        found = fnmatch.filter(layers, pattern.removeprefix("!"))
        if not found:
            raise ConfigError(
                f"training.freeze: {pattern!r} is not the name of a layer with weights{did_you_mean(pattern, layers)};"
                f" model={model.name} has: {shorten_middle(', '.join(layers), 600)}"
            )
        (trained if pattern.startswith("!") else frozen).update(found)
    for name in frozen - trained:
        layers[name].trainable = False
    if not model.trainable_variables:
        raise ConfigError(f"training.freeze={list(patterns)} leaves no weights of model={model.name} to train.")


def _check_network(model: "keras.Model", config: Config, wanted: OutputLayer) -> None:
    """Check the output shape and, on the smallest to the largest input, that the first step works and the loss fits."""
    data, units = config.data, wanted.units
    ends, fix = f"model={config.model.name} ends", "Correct its builder"
    if isinstance(config.model, LayersConfig):
        activation = "" if wanted.activation == "linear" else f", activation: {wanted.activation}"
        ends, fix = "model.layers end", f"End with {{Dense: {{units: {units}{activation}}}}}"
    if model.output_shape != (None, units):
        after = ", after Flatten" if isinstance(config.model, LayersConfig) else ""
        raise ConfigError(
            f"{ends} in the shape {model.output_shape}, data={data.name} needs {(None, units)}. {fix}{after}"
        )
    largest, dtype = (1, "float32") if isinstance(data, LinearData) else (data.pixel_max, "uint8")
    ramp = np.linspace(0, largest, 2 * prod(data.shape)).astype(dtype)
    with keras_errors(f"model={config.model.name} does not run:"):
        outputs = model(ramp.reshape(2, *data.shape)).numpy()
        for variable in model.trainable_variables:
            for function in filter(None, (variable.regularizer, variable.constraint)):
                function(variable)
    sums = outputs.sum(axis=1)
    excess = abs(sums - 1).max() if units > 1 else outputs.max() - 1
    if gives_probabilities(config) and (outputs.min() < 0 or excess > 1e-3):
        if isinstance(config.model, MlpConfig):
            ends, fix = "model.output_activation ends", "Leave it null"
        wrong = f"they add up to {sums[0]:.3g}, not 1" if units > 1 else "it is not between 0 and 1"
        raise ConfigError(
            f"{ends} in values that are not probabilities: for one image {wrong}. {fix}, or choose"
            " training.loss=mean_squared_error"
        )
