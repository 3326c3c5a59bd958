"""How a convolution is lowered: by XLA's own operation, or as patches and one matrix product.

Both are the same sums in another order, and so is the third form, for gray images alone, of
`bat_jax.models.gray`. XLA's CPU back end runs its convolutions many times slower
inside a loop than outside of one, and those of several models at once as one grouped convolution;
matrix products keep their speed in either place. On GPU and TPU its own convolutions are right.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bat_jax import backend
from bat_jax.models import gray

Lowering = Literal["automatic", "xla", "patches"]
Operation = Callable[..., Float[Array, "batch out_height out_width out_channels"]]


def operation(lowering: Lowering) -> Operation:
    """Returns what `flax.linen.Conv` takes as `conv_general_dilated`.

    `automatic` is XLA's own operation, but on CPU shifts and sums for one-channel images.
    """
    if lowering == "automatic" and backend.is_cpu_style():
        return _shifts_if_gray
    return _patches_and_product if lowering == "patches" else jax.lax.conv_general_dilated


def _shifts_if_gray(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns channels out_channels"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "batch out_height out_width out_channels"]:
    # In bfloat16 the sums would lose what XLA keeps by adding up in float32.
    if images.shape[-1] == 1 and images.dtype == jnp.float32 and set(window_strides) == {1}:
        return gray.convolution(jnp.pad(images, ((0, 0), *padding, (0, 0))), kernel)
    return jax.lax.conv_general_dilated(images, kernel, window_strides, padding, **options)


def _patches_and_product(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns channels out_channels"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    precision: Any = None,
    **layout: Any,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """Returns the convolution of NHWC images with an HWIO kernel, neither dilated nor grouped."""
    del layout  # Flax names its own, which is this one.
    rows, columns, channels, out_channels = kernel.shape
    if rows == columns == 1:
        patches = images[:, :: window_strides[0], :: window_strides[1]]
    else:
        padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
        height = (padded.shape[1] - rows) // window_strides[0] + 1
        width = (padded.shape[2] - columns) // window_strides[1] + 1
        patches = jnp.concatenate(
            [
                padded[
                    :,
                    row : row + (height - 1) * window_strides[0] + 1 : window_strides[0],
                    column : column + (width - 1) * window_strides[1] + 1 : window_strides[1],
                ]
                for row in range(rows)
                for column in range(columns)
            ],
            axis=-1,
        )
    # Two dimensions, not four: the CPU back end has its fastest product for them.
    product = jnp.dot(
        patches.reshape(-1, rows * columns * channels),
        kernel.reshape(-1, out_channels),
        precision=precision,
    )
    return product.reshape(*patches.shape[:3], out_channels)
