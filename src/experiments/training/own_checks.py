"""Check, before a run exists, that code of the user's own can train: one step is traced, and not taken."""

import re
from typing import TYPE_CHECKING

from experiments.config.data_schema import LinearData
from experiments.config.facts import loss_name
from experiments.config.own_code import explain_own_error, loaded_own_code
from experiments.config.registry import own_functions
from experiments.config.schema import Config
from experiments.errors import ConfigError
from experiments.training.randomness import LAYER_STREAM, drawing, with_counter_dropout

if TYPE_CHECKING:
    import tensorflow as tf

    from experiments.training.network_cache import CompiledNetwork

# Kinds of TensorFlow's operations whose random numbers depend on the order of calls.
STATEFUL_RANDOMNESS = re.compile("^Stateful|^Rng|^Multinomial$|^(?!Stateless).*(Random|TruncatedNormal)")


def check_own_functions(network: "CompiledNetwork", config: Config) -> None:
    """Raise a ConfigError if functions of the user's own cannot train this network, or not in a repeatable way."""
    own = loaded_own_code()
    if own is None or not _uses_own_functions(config):
        return
    try:
        graph = _trace_step(network, config).as_graph_def()
    except Exception as error:  # whatever the code raises, as TensorFlow words it
        if isinstance(error, ConfigError) and "in user code" not in str(error):
            raise
        _, ours, said = str(error).rpartition("ConfigError: ")
        said = said.strip() if ours else explain_own_error(str(own.folder / "*"), error)
        raise ConfigError(f"Your own code cannot train: {said}") from error
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    if found := next((node.op for node in nodes if STATEFUL_RANDOMNESS.search(node.op)), None):
        raise ConfigError(
            f"Your own code uses TensorFlow's {found}, whose numbers depend on the order of calls: a run could not be"
            " repeated exactly. Use keras.layers.Dropout, or draw with experiments.random."
        )


def _uses_own_functions(config: Config) -> bool:
    names = {"model": config.model.name, "optimizer": config.optimizer.name, "loss": loss_name(config)}
    augmented = not isinstance(config.data, LinearData) and bool(config.data.augmentation.own)
    return augmented or any(name in own_functions(kind) for kind, name in names.items())


def _trace_step(network: "CompiledNetwork", config: Config) -> "tf.Graph":
    """Return the graph of one step; on several replicas without the update of the weights."""
    import tensorflow as tf

    model, dropouts = with_counter_dropout(network.model)
    zero = tf.constant(0, tf.uint32)
    for layer in dropouts:
        layer.draw.counter, layer.draw.threshold, layer.draw.scale = tf.zeros(4, tf.uint32), zero, tf.constant(1.0)

    def step(inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        if network.augmenter:
            inputs = network.augmenter(inputs, zero, zero, zero, tf.constant(0))
        with tf.GradientTape() as tape, drawing(LAYER_STREAM, tf.zeros(3, tf.uint32)):
            outputs = tf.cast(model(inputs, training=True), tf.float32)
            losses = network.criterion.losses(targets, outputs)
            _check_losses(losses, loss_name(config))
            total = tf.reduce_sum(losses)
        gradients = tape.gradient(total, [variable.value for variable in model.trainable_variables])
        if all(gradient is None for gradient in gradients):
            raise ConfigError(f"training.loss={loss_name(config)} has no gradient, so nothing would be learned.")
        if network.strategy.num_replicas_in_sync == 1:
            network.optimizer.apply(gradients, model.trainable_variables)
        return total

    numbers = isinstance(config.data, LinearData)
    targets = tf.TensorSpec([None, 1], tf.float32) if numbers else tf.TensorSpec([None], tf.int32)
    inputs = tf.TensorSpec([None, *config.data.shape], tf.float32)
    with network.strategy.scope():
        return tf.function(step).get_concrete_function(inputs, targets).graph


def _check_losses(losses: object, name: str) -> None:
    import tensorflow as tf

    if not tf.is_tensor(losses) or len(losses.shape) != 1:  # type: ignore[attr-defined]
        found = f"the shape {losses.shape}" if tf.is_tensor(losses) else type(losses).__name__  # type: ignore[attr-defined]
        raise ConfigError(f"loss {name} returned {found}; expected the loss of each example, [batch].")
