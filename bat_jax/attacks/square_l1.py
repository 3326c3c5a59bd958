"""Square's start and queries in the L1 ball.

Source: Croce & Hein, Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers,
arXiv:2103.01208, section 5.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from bat_jax.attacks.l1_ball import nearest_step
from bat_jax.attacks.windows import OneRadius, Pixels, between, exchange

# The start is a grid of tiles, this many to the height of the image.
_TILES = 5
# Keeps images inside of the ball after rounding.
_SHRINK = 1 - 1e-6


def start(x: Pixels, key: Key[Array, ""], *, epsilon: OneRadius) -> Pixels:
    """Returns x plus the projection of a grid of patterns with random signs."""
    height, width, channels = x.shape
    side = max(height // _TILES, 1)
    corner = (height - _TILES * side) // 2
    counts = (height // side, width // side)
    rows, columns = jnp.arange(height) - corner, jnp.arange(width) - corner
    in_rows, in_columns = (
        between(places, side * count) for places, count in zip((rows, columns), counts, strict=True)
    )
    draws = jax.random.bernoulli(key, shape=(*counts, channels + 1))
    tiles = [
        jnp.clip(places // side, 0, count - 1)
        for places, count in zip((rows, columns), counts, strict=True)
    ]
    of_pixel = draws[tiles[0][:, None], tiles[1][None, :]]
    shape = jnp.int32(side)
    patterns = [
        _pattern(rows % side, columns % side, shape, is_turned=turned, times=side)
        for turned in (False, True)
    ]
    pattern = jnp.where(of_pixel[:, :, -1], patterns[1], patterns[0])
    signs = jnp.where(of_pixel[:, :, :-1], 1.0, -1.0)
    in_grid = in_rows[:, None] & in_columns[None, :]
    return _image(x, jnp.where(in_grid[:, :, None], pattern[:, :, None] * signs, 0.0), epsilon)


def query(
    x: Pixels, best: Pixels, key: Key[Array, ""], *, epsilon: OneRadius, side: Int[Array, ""]
) -> Pixels:
    """Moves the perturbation of a second window into a first, and adds a pattern there.

    With v = best - x, windows W1 and W2, C channels, and per channel i a random sign rho:

        u        = rho eta + v_{W1,i} / ||v_{W1,i}||_1
        v_{W2,i} = 0,   v_{W1,i} = u / ||u||_1 (||v_{W1 u W2,i}||_1 C + max(epsilon - ||v||_1, 0))

    which is projected onto the ball and the box.
    """
    eta, rho, in_first, either = exchange(x, key, side, _pattern)
    v = best - x
    u = rho * eta[:, :, None] + _unit(jnp.where(in_first, v, 0.0))
    held = jnp.sum(jnp.where(either, jnp.abs(v), 0.0), axis=(0, 1), keepdims=True)
    unused = jnp.maximum(epsilon - jnp.sum(jnp.abs(v)), 0.0)
    moved = _unit(u) * (held * x.shape[2] + unused)
    return _image(x, jnp.where(in_first, moved, jnp.where(either, 0.0, v)), epsilon)


def _image(x: Pixels, steps: Pixels, epsilon: OneRadius) -> Pixels:
    nearest = nearest_step(steps[None], x[None], epsilon * _SHRINK)[0]
    return jnp.clip(x + nearest, 0.0, 1.0)


def _unit(values: Float[Array, "height width _"]) -> Float[Array, "height width _"]:
    """Scales every channel to an absolute sum of 1; zeros stay zeros."""
    return values / (jnp.sum(jnp.abs(values), axis=(0, 1), keepdims=True) + 1e-12)


def _pattern(
    rows: Int[Array, " height"],
    columns: Int[Array, " width"],
    side: Int[Array, ""],
    *,
    is_turned: bool,
    times: int | None = None,
) -> Float[Array, "height width"]:
    """Returns eta: a peak on one half of a square window, a negative one on the other.

    A peak's value at Chebyshev distance d from its middle is the sum of 1 / k^4 for k from d + 1 to
    side // 2 + 1. Both halves have the same absolute sum, 1 together; a window of side 1 is -1.
    Values outside the window are 0 unless the window is repeated.

    Args:
      rows: a pixel's row in the window.
      columns: its column in the window.
      side: of the window.
      is_turned: whether the halves are left and right rather than upper and lower.
      times: the side, known in advance, of a window that is repeated over the image.
    """
    if is_turned:
        return _pattern(columns, rows, side, is_turned=False, times=times).T
    longest = len(rows) + len(columns)
    sums = jnp.asarray(np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, longest) ** 4)]), "f4")
    half = side // 2

    def peak(rows: Array, columns: Array) -> Array:
        middle = jnp.where(rows < half, half // 2, half + (side - half) // 2)
        distance = jnp.maximum(jnp.abs(rows - middle)[:, None], jnp.abs(columns - half)[None, :])
        height = jnp.maximum(sums[half + 1] - sums[jnp.clip(distance, 0, longest - 1)], 0.0)
        inside = between(rows, side)[:, None] & between(columns, side)[None, :]
        return jnp.where(inside, height, 0.0)

    # The sums over a whole window, of which the image may hold a part or several.
    extent = len(rows) if times is None else times
    whole = peak(jnp.arange(extent), jnp.arange(extent))
    is_upper = jnp.arange(extent)[:, None] < half
    upper, lower = (
        jnp.sum(jnp.where(is_upper, whole, 0.0)),
        jnp.sum(jnp.where(is_upper, 0.0, whole)),
    )
    of_both = jnp.where(half > 0, 2.0, 1.0)
    height = peak(rows, columns) / of_both
    return jnp.where(
        (rows < half)[:, None], height / jnp.where(upper > 0, upper, 1.0), -height / lower
    )
