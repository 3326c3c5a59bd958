"""The intersection of the L1 ball and the box, and the step that stays in it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bat_jax.attacks.classifier import Images
from bat_jax.attacks.geometry import Radius, over_pixels, pixel_sum

Levels = Float[Array, " batch"]

# Halvings of the interval that contains lambda: to the resolution of float32.
_HALVINGS = 30
_ROUNDING = 1e-6


def nearest_step(steps: Images, images: Images, epsilon: Radius) -> Images:
    """Returns the d nearest to u in L2 with ||d||_1 <= epsilon and 0 <= x + d <= 1, per image.

    With the room c_i = 1 - x_i where u_i > 0, else x_i,

        d_i = sign(u_i) min(max(|u_i| - lambda, 0), c_i),

    where lambda = 0 if that is in the ball, else sum_i |d_i| = epsilon. The sum falls with lambda
    and is piecewise linear: lambda is bracketed by bisection, then solved for on its piece. Where
    |u_i| <= lambda, d_i is exactly 0.

    Args:
      steps: u, shape `[batch, height, width, channels]`.
      images: x, points of [0, 1], same shape.
      epsilon: radius of the ball, or of every image's.

    References:
      Croce & Hein, Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers,
      arXiv:2103.01208, section 3.
    """
    size = jnp.abs(steps)
    room = jnp.where(steps > 0, 1 - images, images)

    def shrunk(level: Levels) -> Images:
        return jnp.clip(size - over_pixels(level), 0.0, room)

    def halve(_: Int[Array, ""] | int, bracket: tuple[Levels, Levels]) -> tuple[Levels, Levels]:
        low, high = bracket
        middle = (low + high) / 2
        is_above = pixel_sum(shrunk(middle)) > epsilon
        return jnp.where(is_above, middle, low), jnp.where(is_above, high, middle)

    zero = jnp.zeros(len(steps), steps.dtype)
    bracket = (zero, jnp.max(size, axis=(1, 2, 3)))
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, bracket)
    level = (low + high) / 2
    left = size - over_pixels(level)
    num_free = pixel_sum(((left > 0) & (left < room)).astype(size.dtype))
    level += (pixel_sum(shrunk(level)) - epsilon) / jnp.maximum(num_free, 1.0)
    level = jnp.where(pixel_sum(shrunk(zero)) <= epsilon, 0.0, jnp.clip(level, low, high))
    # Pixels with |u_i| = lambda are common, for steps have equal entries: rounding is no change.
    found = jnp.where(size > over_pixels((1 + _ROUNDING) * level), shrunk(level), 0.0)
    # What rounding leaves too much.
    scale = jnp.minimum(1.0, epsilon / jnp.maximum(pixel_sum(found), 1e-12))
    return jnp.sign(steps) * found * over_pixels(scale)
