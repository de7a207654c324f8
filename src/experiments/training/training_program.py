"""The steps of training a network, compiled: all that may differ between runs of the same network is an input."""

from typing import TYPE_CHECKING

from experiments.training.evaluation import per_example_functions
from experiments.training.optimizers import NOT_UNDER_XLA, set_hyperparameters
from experiments.training.randomness import with_counter_dropout

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from experiments.training.network_cache import CompiledNetwork


# Inputs and targets of all examples, and the threshold and scale of each dropout layer.
ProgramInputs = tuple["tf.Tensor", ...]


class TrainingProgram:
    """A range of whole batches, and the smaller last batch of an epoch, as compiled functions.

    One device runs them under XLA. Several replicas each take their rows of the global batch; gradients are summed over
    all replicas before the optimizer clips and applies them, so the result equals that of one device, to rounding.
    """

    def __init__(self, network: "CompiledNetwork") -> None:
        import tensorflow as tf

        self.strategy, self.replicas = network.strategy, network.strategy.num_replicas_in_sync
        with self.strategy.scope():
            self.model, self.dropouts = with_counter_dropout(network.model, synchronized=self.replicas > 1)
        self.optimizer, self.batch_size, self.augment = network.optimizer, network.batch_size, network.augmenter
        self.losses, self.quality = per_example_functions(network.loss, network.model.output_shape[-1])
        xla = self.replicas == 1 and _suits_xla(network.model, network.optimizer)
        self.whole_batches = tf.function(self._whole_batches, jit_compile=xla)
        self.last_batch = tf.function(self._step)

    def _whole_batches(
        self,
        given: ProgramInputs,
        sums: "tf.Tensor",
        order: "tf.Tensor",
        plan: "tf.Tensor",
        counter: "tf.Tensor",
        start: "tf.Tensor",
        stop: "tf.Tensor",
    ) -> "tf.Tensor":
        import tensorflow as tf

        step = start  # with tf.range, XLA would compile again for each start and stop
        while step < stop:
            rows = tf.slice(order, [step * self.batch_size], [self.batch_size])
            sums += self._step(given, rows, plan[step], counter, step)
            step += 1
        return sums

    def _step(
        self, given: ProgramInputs, rows: "tf.Tensor", planned: "tf.Tensor", counter: "tf.Tensor", step: "tf.Tensor"
    ) -> "tf.Tensor":
        """Take one step on these rows, and return the sums of loss and metric over them, float32 [2]."""
        # Within a replica, Keras's optimizer reduces only after clipping; outside it applies what it is given.
        if self.replicas == 1:
            gradients, sums = self._gradients(given, rows, counter, step)
        else:
            per_replica = self.strategy.run(self._gradients, args=(given, rows, counter, step))
            local = self.strategy.experimental_local_results
            gradients, sums = per_replica  # reduced: the same on every replica
            gradients, sums = [local(gradient)[0] for gradient in gradients], local(sums)[0]
        set_hyperparameters(self.optimizer, planned)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return sums

    def _gradients(
        self, given: ProgramInputs, rows: "tf.Tensor", counter: "tf.Tensor", step: "tf.Tensor"
    ) -> tuple[list["tf.Tensor"], "tf.Tensor"]:
        """Return gradients and sums over all replicas, each of which takes its share of the rows."""
        import tensorflow as tf

        inputs, targets, thresholds, scales = given
        examples = tf.shape(rows)[0]
        first = tf.constant(0)
        if self.replicas > 1:
            replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
            first, last = (n * examples // self.replicas for n in (replica, replica + 1))
            rows = rows[first:last]
        inputs = tf.cast(tf.gather(inputs, rows), tf.float32)
        targets = tf.gather(targets, rows)
        if self.augment:
            inputs = self.augment(inputs, counter[0], counter[1], tf.cast(step, tf.uint32), first)
        for index, layer in enumerate(self.dropouts):
            words = counter[0], tf.constant(index, tf.uint32), counter[1], tf.cast(step, tf.uint32)
            layer.draw.counter = tf.stack(words)
            layer.draw.threshold, layer.draw.scale, layer.draw.first_row = thresholds[index], scales[index], first
        variables = self.model.trainable_variables
        count = tf.cast(examples, tf.float32)
        with tf.GradientTape() as tape:
            outputs = tf.cast(self.model(inputs, training=True), tf.float32)
            # This replica's share of the mean over the global batch, also where it has no rows.
            loss = tf.reduce_sum(self.losses(targets, outputs)) / count + sum(self.model.losses) / self.replicas
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        sums = tf.stack([loss * count, tf.reduce_sum(self.quality(targets, outputs))])
        if self.replicas > 1:
            *gradients, sums = tf.distribute.get_replica_context().all_reduce("sum", [*gradients, sums])
        return gradients, sums


def _suits_xla(model: "keras.Model", optimizer: "keras.optimizers.Optimizer") -> bool:
    """Return whether XLA pays: several times faster for small steps, a hundred times slower for CPU convolutions."""
    import tensorflow as tf

    convolves = any("Conv" in type(layer).__name__ for layer in model.layers)
    return optimizer.name not in NOT_UNDER_XLA and not (convolves and not tf.config.list_logical_devices("GPU"))
