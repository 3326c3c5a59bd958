"""Square windows at random places of an image, and patterns within them."""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

Pixels = Float[Array, "height width channels"]
OneRadius = float | Float[Array, ""]


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


@runtime_checkable
class Pattern(Protocol):
    """A pattern of one window, whose halves are above each other or, turned, side by side."""

    def __call__(
        self,
        rows: Int[Array, " height"],
        columns: Int[Array, " width"],
        side: Int[Array, ""],
        *,
        is_turned: bool,
    ) -> Float[Array, "height width"]:
        """Returns the pattern by the pixels' rows and columns in the window."""


class Exchange(NamedTuple):
    """The draws of a query that moves the perturbation of a second window into a first.

    Attributes:
      pattern: what to add, upright or turned, 0 outside the first window.
      signs: a sign of the pattern for each channel.
      first: whether a pixel is in the first window.
      either: whether it is in one of the two.
    """

    pattern: Float[Array, "height width"]
    signs: Float[Array, "1 1 channels"]
    first: Bool[Array, "height width 1"]
    either: Bool[Array, "height width 1"]


def exchange(x: Pixels, key: Key[Array, ""], side: Int[Array, ""], pattern: Pattern) -> Exchange:
    """Draws two windows of an image, and a pattern for the first."""
    channels = x.shape[2]
    draws = jax.random.uniform(key, (5 + channels,), x.dtype)
    rows, columns, first = window(x, draws[:2], side)
    second = window(x, draws[2:4], side)[2]
    upright, turned = (pattern(rows, columns, side, is_turned=each) for each in (False, True))
    return Exchange(
        pattern=jnp.where(first, jnp.where(draws[4] < 0.5, upright, turned), 0.0),
        signs=jnp.where(draws[5:] < 0.5, -1.0, 1.0)[None, None, :],
        first=first[:, :, None],
        either=(first | second)[:, :, None],
    )
