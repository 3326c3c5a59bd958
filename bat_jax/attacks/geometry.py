"""Lengths, directions and the constraint, for the Linf, L2 and L1 balls."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Shaped

from bat_jax.attacks.classifier import HostImages, Images

Norm = Literal["linf", "l2", "l1"]
"""The norm that bounds x' - x."""

Radius = float | Float[Array, ""] | Float[Array, " batch"]
"""The radius of all balls, or of every image's."""

_AXES = (1, 2, 3)


def pixel_sum(values: Images) -> Float[Array, " batch"]:
    """Returns the sum over pixels and channels, per image.

    Computed as a matrix product: the CPU back end's row reductions are not vectorised.
    """
    rows = values.reshape(len(values), -1)
    return jnp.matmul(rows, jnp.ones(rows.shape[1], rows.dtype), precision="highest")


def length(offsets: Images, norm: Norm) -> Float[Array, " batch"]:
    """Returns max|d| for Linf, ||d||_2 for L2 and ||d||_1 for L1, per image."""
    if norm == "linf":
        return _largest(jnp.abs(offsets))
    if norm == "l1":
        return pixel_sum(jnp.abs(offsets))
    return jnp.sqrt(pixel_sum(offsets**2))


def _largest(values: Images) -> Float[Array, " batch"]:
    """Returns the largest of non-negative values, per image.

    They are in the order of their bits, and the CPU back end vectorises maxima of integers only.
    """
    if values.dtype != jnp.float32:
        return jnp.max(values, axis=_AXES)
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    return jax.lax.bitcast_convert_type(jnp.max(bits, axis=_AXES), jnp.float32)


def over_pixels(values: Shaped[Array, " batch"]) -> Shaped[Array, "batch 1 1 1"]:
    """Reshapes per-image values to broadcast over pixels."""
    return values[:, None, None, None]


def broadcast(radius: Radius) -> float | Float[Array, "..."]:
    """Reshapes a radius per image to broadcast over pixels; leaves one for all as it is."""
    return over_pixels(radius) if isinstance(radius, Array) and radius.ndim else radius


def scaled_to(offsets: Images, size: Radius, norm: Norm) -> Images:
    """Returns the offsets, each scaled to the given length; a zero offset stays zero."""
    lengths = over_pixels(length(offsets, norm))
    return offsets * (broadcast(size) / jnp.where(lengths > 0, lengths, 1.0))


def steepest(gradient: Images, norm: Norm) -> Images:
    """Returns the ascent direction of length 1: sign(g) for Linf, g / ||g||_2 for L2.

    Attacks in the L1 ball take sparse steps of their own.
    """
    if norm == "linf":
        return jnp.sign(gradient)
    # Squares of small gradients underflow in float32: first scale the largest entry to 1.
    return scaled_to(scaled_to(gradient, 1.0, "linf"), 1.0, "l2")


def uniform(
    keys: Key[Array, " batch"], images: Images, radius: float | Float[Array, ""] = 1.0
) -> Images:
    """Returns draws of U(-radius, radius) for every pixel, each image by its own key."""
    shape, dtype = images.shape[1:], images.dtype
    return jax.vmap(lambda key: jax.random.uniform(key, shape, dtype, -radius, radius))(keys)


def normal(keys: Key[Array, " batch"], images: Images) -> Images:
    """Returns draws of N(0, 1) for every pixel, each image by its own key."""
    shape, dtype = images.shape[1:], images.dtype
    return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)


def random_start(keys: Key[Array, " batch"], images: Images, epsilon: Radius, norm: Norm) -> Images:
    """Returns x + epsilon t / ||t||, t ~ U(-1, 1) for Linf, else N(0, 1), clipped to [0, 1].

    Every image has its own key, so that its start does not depend on the rest of the batch.
    """
    offsets = uniform(keys, images) if norm == "linf" else normal(keys, images)
    return jnp.clip(images + scaled_to(offsets, epsilon, norm), 0.0, 1.0)


def project(x: Images, center: Images, epsilon: Radius, norm: Norm) -> Images:
    """Projects x onto the epsilon-ball around `center`, then onto [0, 1].

    The center is in [0, 1], so clipping to the box moves no point out of the ball.
    """
    epsilon = broadcast(epsilon)
    if norm == "linf":
        x = jnp.clip(x, center - epsilon, center + epsilon)
    else:
        offset = x - center
        length = jnp.sqrt(jnp.sum(offset**2, axis=_AXES, keepdims=True))
        x = center + offset * jnp.minimum(1.0, epsilon / jnp.maximum(length, 1e-12))
    return jnp.clip(x, 0.0, 1.0)


def within(
    adversarial: HostImages,
    images: HostImages,
    epsilon: float | Float[np.ndarray, " batch"],
    norm: Norm,
) -> Bool[np.ndarray, " batch"]:
    """Returns whether ||x' - x|| <= epsilon up to float32 rounding, and x' in [0, 1].

    Computed in float64 on the host, independently of the arithmetic that produced x'.
    """
    in_box = np.all((adversarial >= 0) & (adversarial <= 1), axis=_AXES)
    rounding = np.asarray(epsilon, np.float64) * 1e-5 + 1e-6
    if norm == "l1":  # Every changed pixel was rounded, by half of the spacing below 1.
        rounding = rounding + np.count_nonzero(adversarial != images, axis=_AXES) * 2.0**-25
    return (distances(adversarial, images, norm) <= epsilon + rounding) & in_box


def distances(
    adversarial: HostImages, images: HostImages, norm: Norm
) -> Float[np.ndarray, " batch"]:
    """Returns ||x' - x|| per image, in float64 on the host."""
    offsets = (adversarial.astype(np.float64) - images).reshape(len(images), -1)
    return np.linalg.norm(offsets, ord={"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)
