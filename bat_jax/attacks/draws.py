"""The keys of the random draws of attacks."""

import enum

import jax
from jaxtyping import Array, Int, Key


class Purpose(enum.IntEnum):
    """The purpose of a key. Never reuse or change a number: verdicts depend on it."""

    APGD_CROSS_ENTROPY = 0
    APGD_DLR = 1
    APGD_TARGETED = 2
    FAB_TARGETED = 3
    SQUARE = 4
    ORDER = 5
    EXPECTATION = 6
    JUDGEMENT = 7
    FAB = 8
    START = 9


@jax.jit
def folded(keys: Key[Array, " batch"], number: Int[Array, ""] | int) -> Key[Array, " batch"]:
    """Returns the key of (key, number) for every image."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
