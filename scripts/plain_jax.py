"""The default network in JAX, for gpu_check.py: an epoch is one compiled scan over its whole batches.

python scripts/plain_jax.py FILE.npz [--epochs 10] [--batch-size 32]

FILE.npz is that of plain_keras.py. Prints JSON: the seconds of each epoch. Needs jax and optax, which are not installed
with this project.
"""

import argparse
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="FILE.npz")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()

    with np.load(options.data) as data:
        images = jnp.asarray(data["x_train"].reshape(len(data["x_train"]), -1) / 255, jnp.float32)
        labels = jnp.asarray(data["y_train"], jnp.int32)
    steps, batch = len(images) // options.batch_size, options.batch_size
    draw = jax.nn.initializers.glorot_uniform()
    first, second, epoch_keys = jax.random.split(jax.random.key(0), 3)
    weights = [draw(first, (images.shape[1], 128)), jnp.zeros(128), draw(second, (128, 10)), jnp.zeros(10)]
    optimizer = optax.adam(1e-3, eps=1e-7)

    def loss(weights: Any, inputs: Any, targets: Any, key: Any) -> Any:
        hidden = jax.nn.relu(inputs @ weights[0] + weights[1])
        hidden = jnp.where(jax.random.bernoulli(key, 0.8, hidden.shape), hidden / 0.8, 0)
        outputs = hidden @ weights[2] + weights[3]
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()

    @jax.jit
    def epoch(state: Any, key: Any) -> Any:
        order_key, mask_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(images))[: steps * batch].reshape(steps, batch)

        def step(state: Any, given: Any) -> Any:
            weights, moments = state
            rows, key = given
            value, gradients = jax.value_and_grad(loss)(weights, images[rows], labels[rows], key)
            updates, moments = optimizer.update(gradients, moments)
            return (optax.apply_updates(weights, updates), moments), value

        state, values = jax.lax.scan(step, state, (order, jax.random.split(mask_key, steps)))
        return state, values.mean()

    state, seconds = (weights, optimizer.init(weights)), []
    for key in jax.random.split(epoch_keys, options.epochs):
        began = time.perf_counter()
        state, mean = epoch(state, key)
        mean.block_until_ready()
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"epoch_seconds": seconds}))


if __name__ == "__main__":
    main()
