"""Every random draw of the project comes from a key derived from (seed, purpose, step)."""

import enum

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, Shaped

from bat_jax.errors import UserError

__all__ = [
    "GivenKey",
    "Purpose",
    "Seed",
    "derive",
    "per_image",
    "typed",
]


class Purpose(enum.IntEnum):
    """The purpose of a key. Never reuse or change a number: runs depend on it."""

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
    MIXING = 10
    EXTRAS = 11
    EXTRA_ORDER = 12
    CORRUPTION = 13
    DROPOUT = 14
    TEST_SPLIT = 15


Seed = int | np.integer | Key[Array, ""]
"""The seed of a run, or the key of an ensemble's member."""
GivenKey = Shaped[Array | np.ndarray, "..."]
"""A user's key, typed (`jax.random.key`) or raw (`jax.random.PRNGKey`).

The type admits any array, because `typed` explains what is wrong with a value.
"""


def derive(
    seed: Seed, purpose: Purpose, step: int | np.integer | Int[Array, ""] = 0
) -> Key[Array, ""]:
    """Returns the key of (seed, purpose, step); all but the purpose may be traced."""
    root = jax.random.key(int(seed)) if isinstance(seed, int | np.integer) else seed
    return jax.random.fold_in(jax.random.fold_in(root, purpose), step)


def typed(key: object) -> Key[Array, "..."]:
    """Converts a key, or an array of keys, to typed keys.

    Args:
      key: typed, as from `jax.random.key`; or raw, as from `jax.random.PRNGKey`, with uint32 words
        in the last dimension.

    Raises:
      UserError: `key` is not a key.
    """
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32:
        words = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape
        if key.shape[-1:] == words:
            return jax.random.wrap_key_data(jnp.asarray(key))
    found = type(key).__name__
    if isinstance(key, jax.Array | np.ndarray):
        found = f"{key.dtype} of shape {key.shape}"
    raise UserError(f"key is {found}; expected a key, such as jax.random.key(0)")


def per_image(
    key: GivenKey, positions: Int[Array, " batch"] | Int[np.ndarray, " batch"]
) -> Key[Array, " batch"]:
    """Returns one key per image, so that its draws do not depend on the rest of the batch.

    Args:
      key: a single key, from which the images' keys are derived by position, or one key per image,
        returned unchanged.
      positions: the images' positions in the global batch or in the data set.

    Raises:
      UserError: `key` is neither one key nor one key per image.
    """
    image_keys = typed(key)
    if image_keys.shape == positions.shape:
        return image_keys
    if image_keys.ndim:
        raise UserError(
            f"key has shape {image_keys.shape} for {len(positions)} images; expected one key, or"
            " one per image"
        )
    return jax.vmap(lambda position: jax.random.fold_in(image_keys, position))(positions)
