"""Implementations of convolution: XLA's own operation, and faster forms for the CPU back end.

All compute the same sums in a different order. XLA's CPU back end runs convolutions many times
slower inside a loop than outside, and runs those of several models as one slow grouped convolution;
matrix products keep their speed in both cases. On GPU and TPU, XLA's own convolutions are best.

The faster forms have gradients of their own, and differentiate in reverse mode only. For `jax.jvp`,
compute a model's convolutions by `bat_jax.models.with_conv(model, xla)`.

Each function has the signature of `jax.lax.conv_general_dilated` for NHWC images and an HWIO
kernel; `flax.linen.Conv` accepts it as `conv_general_dilated`. XLA computes what the faster forms
cannot: dilated or grouped convolutions, padding given by name, other layouts.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bat_jax.kernels import gray, winograd

__all__ = [
    "CONVOLUTIONS",
    "Convolution",
    "batch_last",
    "cpu",
    "patches",
    "xla",
]

Images = Float[Array, "batch height width channels"]
Kernel = Float[Array, "rows columns group_channels out_channels"]
Map = Float[Array, "out_batch out_height out_width out_channels"]
Padding = str | Sequence[tuple[int, int]]
Convolution = Callable[..., Map]
"""A function with the arguments of `jax.lax.conv_general_dilated`."""

_WINOGRAD_CHANNELS = 32  # The smallest width measured.
_LAYOUT = ("NHWC", "HWIO", "NHWC")

xla: Convolution = jax.lax.conv_general_dilated
"""XLA's own convolution."""


def cpu(
    images: Images,
    kernel: Kernel,
    window_strides: Sequence[int],
    padding: Padding,
    **options: Any,
) -> Map:
    """Returns XLA's convolution, or a faster form for CPU if one applies.

    The faster forms are shifts and sums for single-channel images, and Winograd's products for wide
    3x3 kernels.
    """
    if isinstance(padding, str) or not _is_plain(images, kernel, options):
        return _by_xla(images, kernel, window_strides, padding, options)
    if _is_gray(images, window_strides):
        return _shifts(images, kernel, padding)
    is_padded_by_1 = set(map(tuple, padding)) == {(1, 1)}
    is_3x3 = kernel.shape[:2] == (3, 3) and set(window_strides) == {1} and is_padded_by_1
    # With fewer channels the products are too small to repay their preparation; in bfloat16 the
    # preceding sums would lose precision: XLA accumulates in float32.
    is_wide = min(kernel.shape[2:]) >= _WINOGRAD_CHANNELS and images.dtype == jnp.float32
    if is_3x3 and is_wide and images.shape[1] % winograd.OUTPUTS == 0:
        return winograd.convolution(images, kernel)
    return _by_xla(images, kernel, window_strides, padding, options)


def patches(
    images: Images,
    kernel: Kernel,
    window_strides: Sequence[int],
    padding: Padding,
    **options: Any,
) -> Map:
    """Returns the convolution by patches and matrix products; by shifts and sums for one channel.

    One product per kernel row, rather than one in total, writes and reads a third of the patches
    at a time; the partial sums stay in the cache.
    """
    if isinstance(padding, str) or not _is_plain(images, kernel, options):
        return _by_xla(images, kernel, window_strides, padding, options)
    if _is_gray(images, window_strides):
        return _shifts(images, kernel, padding)
    precision = options.get("precision")
    rows, columns, _, out_channels = kernel.shape
    down, right = window_strides
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    height = (padded.shape[1] - rows) // down + 1
    width = (padded.shape[2] - columns) // right + 1

    def of_row(row: int) -> Float[Array, "places out_channels"]:
        seen = padded[:, row : row + (height - 1) * down + 1 : down]
        starts = range(columns)
        views = [seen[:, :, start : start + (width - 1) * right + 1 : right] for start in starts]
        # On CPU, matrix products of two-dimensional arrays are the fastest.
        taken = jnp.concatenate(views, axis=-1).reshape(-1, columns * images.shape[-1])
        return jnp.dot(taken, kernel[row].reshape(-1, out_channels), precision=precision)

    total = sum((of_row(row) for row in range(1, rows)), of_row(0))
    return total.reshape(len(images), height, width, out_channels)


def batch_last(
    images: Images,
    kernel: Kernel,
    window_strides: Sequence[int],
    padding: Padding,
    **options: Any,
) -> Map:
    """Returns the convolution by patches.

    This function selects `bat_jax.kernels.batch_last`: a network that supports the batch as its
    last dimension uses that layout when given this function. Other networks use patches.
    """
    return patches(images, kernel, window_strides, padding, **options)


CONVOLUTIONS: Mapping[str, Convolution] = MappingProxyType(
    {"xla": xla, "cpu": cpu, "patches": patches, "batch_last": batch_last}
)
"""The convolutions by their names in configs."""


def _is_plain(images: Images, kernel: Kernel, options: Mapping[str, Any]) -> bool:
    """Returns whether a convolution has no option that the faster forms lack."""
    dilations = [options.get(name) or (1,) for name in ("lhs_dilation", "rhs_dilation")]
    groups = [options.get(name, 1) for name in ("feature_group_count", "batch_group_count")]
    others = [options.get(name) for name in ("preferred_element_type", "out_sharding")]
    shapes = images.shape, kernel.shape
    layout = jax.lax.conv_dimension_numbers(*shapes, options.get("dimension_numbers", _LAYOUT))
    return (
        all(set(dilation) == {1} for dilation in dilations)
        and groups == [1, 1]
        and others == [None, None]
        and layout == jax.lax.conv_dimension_numbers(*shapes, _LAYOUT)
    )


def _by_xla(
    images: Images,
    kernel: Kernel,
    window_strides: Sequence[int],
    padding: Padding,
    options: Mapping[str, Any],
) -> Map:
    """Returns XLA's convolution, of NHWC images unless the options have another layout."""
    return xla(images, kernel, window_strides, padding, **{"dimension_numbers": _LAYOUT, **options})


def _is_gray(images: Images, window_strides: Sequence[int]) -> bool:
    # In bfloat16 the sums would lose precision: XLA accumulates in float32.
    return images.shape[-1] == 1 and images.dtype == jnp.float32 and set(window_strides) == {1}


def _shifts(images: Images, kernel: Kernel, padding: Sequence[tuple[int, int]]) -> Map:
    return gray.convolution(jnp.pad(images, ((0, 0), *padding, (0, 0))), kernel)
