"""How a convolution is lowered: by XLA's own operation, or as patches and matrix products.

Both are the same sums in another order, as are `bat_jax.kernels.gray` (gray images alone) and
`bat_jax.kernels.batch_last`; `bat_jax.kernels.winograd` saves half of the products. XLA's CPU back
end runs its convolutions many times slower inside a loop than outside of one, and those of several
models at once as one grouped convolution; matrix products keep their speed in either place. On GPU
and TPU its own convolutions are right.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bat_jax import backend
from bat_jax.backend import Lowering
from bat_jax.kernels import gray, winograd

_WINOGRAD_CHANNELS = 32  # Measured; fewer were not.
Operation = Callable[..., Float[Array, "batch out_height out_width out_channels"]]


def operation(lowering: Lowering) -> Operation:
    """Returns what `flax.linen.Conv` takes as `conv_general_dilated`.

    `automatic` is XLA's own operation, but on CPU shifts and sums for one-channel images and
    Winograd's products where they apply. `patches` has the shifts too, wherever it runs. A network
    that cannot keep the batch last (`bat_jax.kernels.batch_last`) has patches where asked to.
    """
    if lowering in ("patches", "batch_last"):
        return functools.partial(_shifts_if_gray, otherwise=_patches_and_products)
    if lowering == "automatic" and backend.is_cpu_style():
        return functools.partial(_shifts_if_gray, otherwise=_winograd_if_it_applies)
    return jax.lax.conv_general_dilated


def _shifts_if_gray(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns channels out_channels"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    otherwise: Operation,
    **options: Any,
) -> Float[Array, "batch out_height out_width out_channels"]:
    # In bfloat16 the sums would lose what XLA keeps by adding up in float32.
    if images.shape[-1] == 1 and images.dtype == jnp.float32 and set(window_strides) == {1}:
        return gray.convolution(jnp.pad(images, ((0, 0), *padding, (0, 0))), kernel)
    return otherwise(images, kernel, window_strides, padding, **options)


def _winograd_if_it_applies(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns channels out_channels"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "batch out_height out_width out_channels"]:
    is_3x3 = kernel.shape[:2] == (3, 3) and set(window_strides) == {1} and set(padding) == {(1, 1)}
    # With fewer channels the products are too small to be worth their preparation; in bfloat16 the
    # sums before them would lose what XLA keeps by adding up in float32.
    is_wide = min(kernel.shape[2:]) >= _WINOGRAD_CHANNELS and images.dtype == jnp.float32
    if is_3x3 and is_wide and images.shape[1] % winograd.OUTPUTS == 0:
        return winograd.convolution(images, kernel)
    return jax.lax.conv_general_dilated(images, kernel, window_strides, padding, **options)


def _patches_and_products(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns channels out_channels"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    precision: Any = None,
    **layout: Any,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """Returns the convolution of NHWC images with an HWIO kernel, neither dilated nor grouped.

    A product for every row of the kernel, rather than one for all: a third of the patches to write
    and to read again, for sums that stay in the cache.
    """
    del layout  # Flax names its own, which is this one.
    rows, columns, _, out_channels = kernel.shape
    down, right = window_strides
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    height = (padded.shape[1] - rows) // down + 1
    width = (padded.shape[2] - columns) // right + 1

    def of_row(row: int) -> Float[Array, "places out_channels"]:
        seen = padded[:, row : row + (height - 1) * down + 1 : down]
        starts = range(columns)
        views = [seen[:, :, start : start + (width - 1) * right + 1 : right] for start in starts]
        # Two dimensions, not four: the CPU back end has its fastest product for them.
        patches = jnp.concatenate(views, axis=-1).reshape(-1, columns * images.shape[-1])
        return jnp.dot(patches, kernel[row].reshape(-1, out_channels), precision=precision)

    total = sum((of_row(row) for row in range(1, rows)), of_row(0))
    return total.reshape(len(images), height, width, out_channels)
