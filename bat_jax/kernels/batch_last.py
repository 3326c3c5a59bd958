"""Convolutions of images whose batch is their last dimension, for the CPU back end.

A processor copies and adds neighbouring numbers together. With the channels last those are the 16
of a small network; with the batch last they are its images, 64 or more: patches take less than half
the time. And the product for the kernel's gradient sums along the rows of both its operands, which
this back end is faster at than along their columns.

It pays where that gradient is taken. In an attack, where it is not, the compiler joins the gradient
of the images with what flattens it for the next product, and is slow at that.
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
      channels: of the output.
      stride: in both directions.
      dtype: of the computation; parameters are float32.
    """

    channels: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Images) -> Map:
        """Returns the convolution plus a bias a channel."""
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
    # In bfloat16 the sums would lose what a product keeps by adding up in float32.
    if len(images) == 1 and images.dtype == jnp.float32:
        return _of_gray(images, kernel, stride)
    patches = _patches(images, kernel, stride)
    product = kernel.reshape(len(patches), -1).T @ patches.reshape(len(patches), -1)
    return product.reshape(-1, *patches.shape[1:]), (images, patches, kernel)


def _of_gray(
    images: Images, kernel: Kernel, stride: int
) -> tuple[Map, tuple[Images, Patches, Kernel]]:
    """Returns the same by sums, faster than a product of nine terms."""
    # The barriers keep the images, and the sums, from being computed anew where they are read.
    images = jax.lax.optimization_barrier(images)
    seen = taps.views(images, kernel, stride)
    sums = taps.weighted_sum(seen, kernel.reshape(len(seen), -1, 1, 1, 1))
    return jax.lax.optimization_barrier(sums), (images, jnp.concatenate(seen), kernel)


def _backward(
    stride: int, saved: tuple[Images, Patches, Kernel], cotangent: Map
) -> tuple[Images, Kernel]:
    images, patches, kernel = saved
    flat = cotangent.reshape(kernel.shape[-1], -1)
    # Per output place, what each tap hands back to the input place it saw.
    returned = (kernel.reshape(len(patches), -1) @ flat).reshape(patches.shape)
    handed_back = jax.linear_transpose(lambda seen: _patches(seen, kernel, stride), images)
    (of_images,) = handed_back(returned)
    of_kernel = patches.reshape(len(patches), -1) @ flat.T
    return of_images, of_kernel.reshape(kernel.shape)


convolution.defvjp(_forward, _backward)


def _patches(images: Images, kernel: Kernel, stride: int) -> Patches:
    """Returns, per tap of the kernel and channel, the input place that each output place sees."""
    return jnp.concatenate(taps.views(images, kernel, stride))
