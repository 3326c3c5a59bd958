"""Trains the two networks of the AutoAttack cross-check on Fashion-MNIST.

    python tests/golden/train_small_cnn.py

writes small_cnn_standard.npz and small_cnn_adversarial.npz beside itself: the parameters of
`bat_jax.models.create("small_cnn", 10, width=8)` with Flax's names. About five minutes on two
cores. The adversarial network is trained by PGD with 5 steps at epsilon 0.1, reached in 900 steps.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from bat_jax import data, models

EPSILON = 0.1
EPOCHS = 4
BATCH_SIZE = 128
WIDTH = 8


def train(*, is_adversarial: bool) -> dict[str, np.ndarray]:
    """Returns the parameters after `EPOCHS` epochs."""
    split = data.load("fashion_mnist").train
    images, labels = split.images.astype(np.float32) / 255, split.labels
    num_steps = EPOCHS * len(images) // BATCH_SIZE
    model = models.create("small_cnn", 10, width=WIDTH, image_shape=images.shape[1:])
    variables = model.init(jax.random.key(0), images[:1])
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, num_steps))
    slots = optimizer.init(variables)

    def loss(variables: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = model.apply(variables, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def step(variables: Any, slots: Any, x: jax.Array, y: jax.Array, number: jax.Array) -> Any:
        if is_adversarial:
            epsilon = EPSILON * jnp.minimum(1.0, number / 900)
            key = jax.random.fold_in(jax.random.key(1), number)
            low, high = jnp.maximum(x - epsilon, 0.0), jnp.minimum(x + epsilon, 1.0)
            x = jnp.clip(x + epsilon * jax.random.uniform(key, x.shape, minval=-1.0), low, high)
            for _ in range(5):
                gradient = jax.grad(loss, argnums=1)(variables, x, y)
                x = jnp.clip(x + 0.3 * epsilon * jnp.sign(gradient), low, high)
        updates, slots = optimizer.update(jax.grad(loss)(variables, x, y), slots)
        return optax.apply_updates(variables, updates), slots

    order = np.random.default_rng(0)
    for number in range(num_steps):
        place = number * BATCH_SIZE % (len(images) - BATCH_SIZE)
        if place < BATCH_SIZE:
            permutation = order.permutation(len(images))
        rows = permutation[place : place + BATCH_SIZE]
        variables, slots = step(variables, slots, images[rows], labels[rows], number)
    return {
        "/".join(name): np.asarray(value)
        for name, value in flatten_dict(variables["params"]).items()
    }


if __name__ == "__main__":
    for name in ("adversarial", "standard"):
        parameters = train(is_adversarial=name == "adversarial")
        file = Path(__file__).with_name(f"small_cnn_{name}.npz")
        np.savez_compressed(file, allow_pickle=False, **parameters)
        print(file.name, file.stat().st_size, "bytes")
