"""The convolution of one-channel images, for the CPU back end.

Convolution libraries are designed for many input channels. For a single channel, a sum of shifted
images is 2.5 times as fast, and twice as fast including the gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bat_jax.kernels import taps

Gray = Float[Array, "batch height width 1"]
Kernel = Float[Array, "kernel_height kernel_width 1 channels"]
Map = Float[Array, "batch out_height out_width channels"]


@jax.custom_vjp
def convolution(images: Gray, kernel: Kernel) -> Map:
    """Returns y[h, w, c] = sum_ij x[h + i, w + j] k[i, j, c], without padding, of stride 1.

    It differentiates in reverse mode only.

    Args:
      images: x, shape `[batch, height, width, 1]`.
      kernel: k, shape `[kernel_height, kernel_width, 1, channels]`.
    """
    # The barrier prevents recomputing the image for every tap and channel.
    seen = taps.views(jax.lax.optimization_barrier(images), kernel)
    return taps.weighted_sum(seen, kernel.reshape(-1, 1, 1, 1, kernel.shape[-1]))


def _forward(images: Gray, kernel: Kernel) -> tuple[Map, tuple[Gray, Kernel]]:
    return convolution(images, kernel), (images, kernel)


def _backward(saved: tuple[Gray, Kernel], cotangent: Map) -> tuple[Gray, Kernel]:
    images, kernel = saved
    height, width, _, channels = kernel.shape
    flat = cotangent.reshape(-1, channels)

    # Per output pixel, each tap's contribution to the gradient of the input pixel it read; taps
    # come first, so that the shifted sums read contiguous rows. The barrier prevents recomputing
    # the matrix product for every shift.
    returned = jax.lax.optimization_barrier(kernel.reshape(-1, channels) @ flat.T)
    returned = returned.reshape(-1, *cotangent.shape[:3])
    edges = ((0, 0), (0, 0), (height - 1, height - 1), (width - 1, width - 1))
    padded = jnp.pad(returned, edges)
    rows, columns = images.shape[1:3]
    of_images = jnp.zeros_like(images[..., 0])
    for tap in range(height * width):
        i, j = height - 1 - tap // width, width - 1 - tap % width
        of_images += padded[tap, :, i : i + rows, j : j + columns]

    patches = jnp.concatenate(taps.views(images, kernel), axis=-1).reshape(len(flat), -1)
    return of_images[..., None], (patches.T @ flat).reshape(kernel.shape)


convolution.defvjp(_forward, _backward)
