"""The default network in JAX, an epoch as one `lax.scan`, with optax: the fastest peer the benchmark measures against.

python scripts/jax_loop.py FILE.npz EPOCHS BATCH_SIZE

FILE.npz holds x_train, uint8 [examples, 28, 28], and y_train; a last, smaller batch is left out. Prints JSON: the
seconds of each epoch, the accuracy in the last. Needs jax, optax and numpy only, so any Python that has them will do.
"""

import json
import sys
import time
from typing import Any

import jax  # type: ignore[import-not-found,unused-ignore]
import jax.numpy as jnp  # type: ignore[import-not-found,unused-ignore]
import numpy as np
import optax  # type: ignore[import-not-found,unused-ignore]


def main(file: str, epochs: int, batch_size: int) -> None:
    with np.load(file) as arrays:
        images = jnp.asarray(arrays["x_train"].reshape(-1, 784) / 255.0, jnp.float32)
        labels = jnp.asarray(arrays["y_train"], jnp.int32)
    steps = len(images) // batch_size
    optimizer = optax.adam(1e-3, eps=1e-7)  # Keras's epsilon
    key, hidden, output = jax.random.split(jax.random.key(0), 3)
    glorot = jax.nn.initializers.glorot_uniform()
    weights = {
        "hidden": (glorot(hidden, (784, 128)), jnp.zeros(128)),
        "output": (glorot(output, (128, 10)), jnp.zeros(10)),
    }

    def loss(weights: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        (kernel, bias), (output_kernel, output_bias) = weights["hidden"], weights["output"]
        values = jax.nn.relu(images @ kernel + bias)
        values = jnp.where(jax.random.bernoulli(key, 0.8, values.shape), values / 0.8, 0)
        logits = values @ output_kernel + output_bias
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (logits.argmax(1) == labels).mean()

    @jax.jit
    def epoch(state: Any, key: jax.Array, images: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
        def step(state: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
            weights, moments, key = state
            key, mask = jax.random.split(key)
            gradient = jax.value_and_grad(loss, has_aux=True)
            (_, accuracy), gradients = gradient(weights, images[rows], labels[rows], mask)
            updates, moments = optimizer.update(gradients, moments)
            return (optax.apply_updates(weights, updates), moments, key), accuracy

        order = jax.random.permutation(key, len(images))[: steps * batch_size].reshape(steps, batch_size)
        state, accuracies = jax.lax.scan(step, state, order)
        return state, accuracies.mean()

    state, seconds, accuracy = (weights, optimizer.init(weights), key), [], 0.0
    for order_key in jax.random.split(jax.random.key(1), epochs):
        start = time.perf_counter()
        state, mean = epoch(state, order_key, images, labels)
        accuracy = float(mean)  # waits for the result
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"epoch_seconds": seconds, "accuracy": accuracy}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
