"""The networks of keras.applications, with a head for the task: global average pooling and the output layer."""

import inspect
from typing import TYPE_CHECKING, Any

from experiments.config.facts import OutputLayer
from experiments.training.network_builders import image_layers

if TYPE_CHECKING:
    import keras


def keras_application(
    inputs: "keras.KerasTensor",
    outputs: OutputLayer,
    application: str,
    arguments: dict[str, Any] | None,
    dropout: float,
) -> "keras.KerasTensor":
    """Build a network of keras.applications by its name, with weights drawn by seed, on inputs scaled already."""
    import keras

    values = inputs
    for layer in image_layers(inputs):
        values = layer(values)
    if application.startswith("EfficientNetB"):  # which divides by 255 itself
        values = keras.layers.Rescaling(255.0, name="pixels")(values)
    function = getattr(keras.applications, application)
    given = {"include_top": False, "weights": None, "input_tensor": values, "input_shape": tuple(values.shape[1:])}
    if "include_preprocessing" in inspect.signature(function).parameters:
        given["include_preprocessing"] = False
    values = keras.layers.GlobalAveragePooling2D(name="head_pool")(function(**given, **(arguments or {})).output)
    if dropout:
        values = keras.layers.Dropout(dropout, name="head_dropout")(values)
    return keras.layers.Dense(outputs.units, outputs.activation, dtype="float32", name="output")(values)
