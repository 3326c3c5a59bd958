"""Every random draw of the project comes from a key derived from (seed, purpose, step)."""

import enum

import jax
from jaxtyping import Array, Int, Key


class Purpose(enum.IntEnum):
    """What a key is for. A number, once used, keeps its meaning: runs are reproduced by it."""

    INITIALIZATION = 0
    ORDER = 1
    AUGMENTATION = 2
    ATTACK = 3
    VALIDATION_SPLIT = 4
    EVALUATION = 5
    SUBSET = 6
    MEMBER = 7
    REMOVAL = 8
    BOOTSTRAP = 9


# The seed of a run, or a key in its place: that of an ensemble's member.
Seed = int | Key[Array, ""]


def derive(seed: Seed, purpose: Purpose, step: int | Int[Array, ""] = 0) -> Key[Array, ""]:
    """Returns the key of (seed, purpose, step); all but the purpose may be traced."""
    root = jax.random.key(seed) if isinstance(seed, int) else seed
    return jax.random.fold_in(jax.random.fold_in(root, purpose), step)


def per_image(
    key: Key[Array, ""] | Key[Array, "batch"], positions: Int[Array, "batch"]
) -> Key[Array, "batch"]:
    """Returns one key an image, so that its draws do not depend on the rest of its batch.

    Args:
      key: one key, from which each image's is derived by its position, or one key an image, which
        are returned as they are.
      positions: the images' numbers in the global batch or in the data set.
    """
    if key.ndim == 1:
        return key
    return jax.vmap(lambda position: jax.random.fold_in(key, position))(positions)
