"""Square windows at random places of an image."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Pixels = Float[Array, "height width channels"]


def window(
    x: Pixels, draws: Float[Array, "2"], side: Int[Array, ""]
) -> tuple[Int[Array, " height"], Int[Array, " width"], Bool[Array, "height width"]]:
    """Returns pixel rows and columns relative to a random window, and the window's mask."""
    height, width, _ = x.shape
    room = jnp.array([height, width]) - side
    corner = jnp.minimum((draws * (room + 1).astype(draws.dtype)).astype(jnp.int32), room)
    rows, columns = jnp.arange(height) - corner[0], jnp.arange(width) - corner[1]
    return rows, columns, between(rows, side)[:, None] & between(columns, side)[None, :]


def between(positions: Int[Array, " side"], end: Int[Array, ""] | int) -> Bool[Array, " side"]:
    """Returns whether positions are at least 0 and below an end."""
    return (positions >= 0) & (positions < end)
