"""Attacks models from outside bat_jax with AutoAttack: one in plain JAX, one in Flax NNX.

    python examples/outside_models.py

Both classify scikit-learn's handwritten digits of 8x8 pixels, and the same call attacks both,
because `autoattack` takes any function from [0, 1] images to logits, such as `jax.vmap(model)` of
Equinox. The plain model is trained on clean images, the NNX model on images attacked by `pgd`. This
takes less than a minute on two CPU cores.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from bat_jax import data
from bat_jax.attacks import pgd
from bat_jax.attacks.auto_attack import STANDARD, Name, autoattack

EPSILON = 0.1
BATCH_SIZE = 64

Images = Float[Array, "batch height width 1"]
Logits = Float[Array, "batch classes"]
# A function of parameters and images.
Apply = Callable[[Any, Images], Logits]


class Row(NamedTuple):
    """The number of images classified correctly before the attacks, and after each attack."""

    model: str
    images: int
    clean: int
    after: dict[str, int]


def plain_jax() -> tuple[Apply, Any]:
    """Returns a two-layer network as a function, and its parameters as a dict."""
    first, second = jax.random.split(jax.random.key(1))
    params = {
        "hidden": jax.random.normal(first, (64, 128)) / 8,
        "bias": jnp.zeros(128),
        "output": jax.random.normal(second, (128, 10)) / 11,
    }

    def apply(params: dict[str, Array], images: Images) -> Logits:
        flat = images.reshape(len(images), -1)
        return jax.nn.relu(flat @ params["hidden"] + params["bias"]) @ params["output"]

    return apply, params


class Network(nnx.Module):
    """Two convolutions and a dense layer, in NNX."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(4 * 4 * 32, 10, rngs=rngs)

    def __call__(self, images: Images) -> Logits:
        """Returns the logits."""
        x = nnx.relu(self.conv2(nnx.relu(self.conv1(images))))
        return self.head(x.reshape(len(x), -1))


def flax_nnx() -> tuple[Apply, Any]:
    """Returns the network, split into a function and its parameters.

    Put a model with batch norm or dropout in evaluation mode first, by `model.eval()`: an attacked
    function must not change between calls.
    """
    structure, params = nnx.split(Network(nnx.Rngs(1)))
    return lambda params, images: nnx.merge(structure, params)(images), params


def fit(apply: Apply, params: Any, train: data.Split, *, num_steps: int, adversarial: bool) -> Any:
    """Returns the parameters after `num_steps` of Adam, on attacked images if `adversarial`."""
    optimizer = optax.adam(2e-3)
    key = jax.random.key(2)

    @jax.jit
    def step(params: Any, state: Any, images: Images, labels: Array, key: Array) -> tuple[Any, Any]:
        if adversarial:
            images = pgd(
                lambda images: apply(params, images),
                images,
                labels,
                key,
                epsilon=EPSILON,
                step_size=EPSILON / 4,
                num_steps=5,
            )

        def loss(params: Any) -> Float[Array, ""]:
            logits = apply(params, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    draw = np.random.default_rng(0)
    for number in range(num_steps):
        rows = draw.choice(len(train), BATCH_SIZE, replace=False)
        images = train.images[rows].astype(np.float32) / np.float32(255)
        key_of_step = jax.random.fold_in(key, number)
        params, state = step(params, state, images, train.labels[rows], key_of_step)
    return params


def attack(
    name: str, logits_fn: Callable[[Images], Logits], test: data.Split, attacks: Sequence[Name]
) -> Row:
    """Returns the numbers of images that survive AutoAttack."""
    result = autoattack(
        logits_fn,
        test.images.astype(np.float32) / np.float32(255),
        test.labels,
        jax.random.key(0),
        epsilon=EPSILON,
        attacks=attacks,
        batch_size=len(test),
    )
    standing = clean = int(result.clean.sum())
    after = {}
    for attack_name, broken in result.by_attack.items():
        standing -= int(broken.sum())
        after[attack_name] = standing
    return Row(name, len(test), clean, after)


def main(
    *, num_images: int = 100, num_steps: int = 200, attacks: Sequence[Name] = STANDARD
) -> list[Row]:
    """Trains and attacks both models, and prints a table.

    Args:
      num_images: the number of test images to attack.
      num_steps: the number of training steps of each model.
      attacks: the attacks, in order.

    Returns:
      The rows of the table.
    """
    digits = data.load("digits")
    test = digits.test.take(np.arange(num_images))
    rows = []
    for name, create, adversarial in (
        ("plain JAX, clean training", plain_jax, False),
        ("Flax NNX, PGD training", flax_nnx, True),
    ):
        apply, start = create()
        params = fit(apply, start, digits.train, num_steps=num_steps, adversarial=adversarial)
        rows.append(attack(name, partial(apply, params), test, attacks))
    header = ["model", "clean", *rows[0].after]
    print(f"correct of {num_images} digits, Linf, epsilon {EPSILON}; after each attack in turn")
    print(f"{header[0]:28}" + "".join(f"{name:>9}" for name in header[1:]))
    for row in rows:
        counts = (row.clean, *row.after.values())
        print(f"{row.model:28}" + "".join(f"{count:9d}" for count in counts))
    return rows


if __name__ == "__main__":
    main()
