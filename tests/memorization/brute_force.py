"""Memorization by brute force: models trained with an example, and models trained without.

A plain loop that shares only the network with the ensemble: NumPy draws subsets and orders, and
optax updates one model at a time.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax


def memorization_of(
    model, images, labels, row, *, models, epochs, batch_size, schedule, decay, ratio=0.7, seed=0
):
    """Returns mem(row) and its standard error from `models` with it and equally many without.

    Args:
      model: a Flax module, `apply` from [0, 1] images to logits.
      images: float, NHWC in [0, 1].
      labels: int.
      row: the example.
      models: how many have it in their subset, and how many have not.
      epochs: of training.
      batch_size: in training.
      schedule: learning rate by step.
      decay: the coefficient of weight decay.
      ratio: the part of the examples in a subset.
      seed: of NumPy's draws.
    """
    draws = np.random.default_rng((seed, row))
    others = np.delete(np.arange(len(labels)), row)
    size = round(ratio * len(labels))
    steps = epochs * (size // batch_size)
    train = _trainer(model, batch_size, schedule, decay)
    rights = {}
    for has_it in (True, False):
        right = []
        for _ in range(models):
            drawn = draws.choice(others, size - has_it, replace=False)
            rows = np.append(drawn, row) if has_it else drawn
            order = np.concatenate(
                [draws.permutation(rows)[: size // batch_size * batch_size] for _ in range(epochs)]
            ).reshape(steps, batch_size)
            key = jax.random.key(int(draws.integers(2**31)))
            variables = train(key, images, labels, order)
            logits = model.apply(variables, images[row : row + 1])
            right.append(int(jnp.argmax(logits[0])) == int(labels[row]))
        rights[has_it] = np.array(right, float)
    means = {kind: values.mean() for kind, values in rights.items()}
    error = np.sqrt(sum(m * (1 - m) / models for m in means.values()))
    return means[True] - means[False], error


@functools.cache
def _trainer(model, batch_size, schedule, decay):
    optimizer = optax.chain(optax.add_decayed_weights(decay), optax.sgd(schedule, 0.9))

    @jax.jit
    def train(key, images, labels, order):
        variables = model.init(key, images[:1])

        def step(carry, rows):
            variables, state = carry

            def loss(variables):
                logits = model.apply(variables, images[rows])
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

            updates, state = optimizer.update(jax.grad(loss)(variables), state, variables)
            return (optax.apply_updates(variables, updates), state), None

        return jax.lax.scan(step, (variables, optimizer.init(variables)), order)[0][0]

    return train
