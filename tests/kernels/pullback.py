"""A convolution's values and gradients, as one program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def inputs(images_shape, kernel_shape, seed=0):
    """Returns random images and a random kernel."""
    draws = np.random.default_rng(seed)
    return [draws.normal(size=shape).astype(np.float32) for shape in (images_shape, kernel_shape)]


@functools.partial(jax.jit, static_argnums=0)
def pullback(convolution, images, kernel):
    """Returns the values, and the gradients by images and kernel of a sum with fixed weights."""
    values, vjp = jax.vjp(convolution, images, kernel)
    weights = np.random.default_rng(1).normal(size=values.shape)
    return values, *vjp(jnp.asarray(weights, values.dtype))
