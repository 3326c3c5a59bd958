"""Convolutions with the batch as the last dimension, for the CPU back end.

SIMD instructions act on contiguous numbers: with channels last, the 16 channels of a small network;
with the batch last, 64 or more images, which more than halves the time of patches. The matrix
product for the kernel's gradient then sums along the rows of both operands, which is faster on this
back end than along columns.

This layout pays off only where the kernel's gradient is computed. In an attack, the compiler fuses
the gradient of the images with the reshape for the next product, and the fused loop is slow.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bat_jax.kernels import taps

Images = Float[Array, "channels height width batch"]
Kernel = Float[Array, "rows columns channels out_channels"]
Map = Float[Array, "out_channels out_height out_width batch"]
Patches = Float[Array, "taps_channels out_height out_width batch"]


class Conv(nn.Module):
    """A 3x3 convolution, padded by 1 on every side, with the parameters of `flax.linen.Conv`.

    Attributes:
      channels: the number of output channels.
      stride: the stride in both directions.
      dtype: the type of the computation; parameters are float32.
    """

    channels: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Images) -> Map:
        """Returns the convolution plus a bias per channel."""
        shape = (3, 3, len(images), self.channels)
        kernel = self.param("kernel", jax.nn.initializers.he_normal(), shape)
        bias = self.param("bias", jax.nn.initializers.zeros, (self.channels,))
        images, kernel, bias = (value.astype(self.dtype) for value in (images, kernel, bias))
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return convolution(padded, kernel, self.stride) + bias[:, None, None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolution(images: Images, kernel: Kernel, stride: int) -> Map:
    """Returns y[o, h, w, b] = sum_ijc x[c, s h + i, s w + j, b] k[i, j, c, o], without padding.

    It differentiates in reverse mode only.

    Args:
      images: x, shape `[channels, height, width, batch]`.
      kernel: k, shape `[rows, columns, channels, out_channels]`.
      stride: s, in both directions.
    """
    return _forward(images, kernel, stride)[0]


def _forward(
    images: Images, kernel: Kernel, stride: int
) -> tuple[Map, tuple[Images, Patches, Kernel]]:
    # In bfloat16 the sums would lose precision: products accumulate in float32.
    if len(images) == 1 and images.dtype == jnp.float32:
        return _of_gray(images, kernel, stride)
    patches = _patches(images, kernel, stride)
    product = kernel.reshape(len(patches), -1).T @ patches.reshape(len(patches), -1)
    return product.reshape(-1, *patches.shape[1:]), (images, patches, kernel)


def _of_gray(
    images: Images, kernel: Kernel, stride: int
) -> tuple[Map, tuple[Images, Patches, Kernel]]:
    """Returns the same result by sums, which are faster than a product of nine terms."""
    # The barriers prevent recomputing the images and the sums at every use.
    images = jax.lax.optimization_barrier(images)
    seen = taps.views(images, kernel, stride)
    sums = taps.weighted_sum(seen, kernel.reshape(len(seen), -1, 1, 1, 1))
    return jax.lax.optimization_barrier(sums), (images, jnp.concatenate(seen), kernel)


def _backward(
    stride: int, saved: tuple[Images, Patches, Kernel], cotangent: Map
) -> tuple[Images, Kernel]:
    images, patches, kernel = saved
    flat = cotangent.reshape(kernel.shape[-1], -1)
    # Per output pixel, each tap's contribution to the gradient of the input pixel it read.
    returned = (kernel.reshape(len(patches), -1) @ flat).reshape(patches.shape)
    handed_back = jax.linear_transpose(lambda seen: _patches(seen, kernel, stride), images)
    (of_images,) = handed_back(returned)
    of_kernel = patches.reshape(len(patches), -1) @ flat.T
    return of_images, of_kernel.reshape(kernel.shape)


convolution.defvjp(_forward, _backward)


def _patches(images: Images, kernel: Kernel, stride: int) -> Patches:
    """Returns, per tap and channel, the input pixel that each output pixel reads."""
    return jnp.concatenate(taps.views(images, kernel, stride))
