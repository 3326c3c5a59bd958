"""The shifted views of images that a kernel's taps read, and their weighted sum.

Height and width are the second and third dimensions; the first and last are arbitrary.
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

Images = Float[Array, "first height width last"]
Kernel = Float[Array, "rows columns channels out_channels"]
View = Float[Array, "first out_height out_width last"]


def views(images: Images, kernel: Kernel, stride: int = 1) -> list[View]:
    """Returns, per tap, the input pixel that each output pixel reads, without padding."""
    rows, columns = kernel.shape[:2]
    height, width = images.shape[1] - rows + 1, images.shape[2] - columns + 1
    return [
        images[:, i : i + height : stride, j : j + width : stride]
        for i in range(rows)
        for j in range(columns)
    ]


def weighted_sum(
    seen: Sequence[View], weights: Float[Array, "taps _ 1 1 _"]
) -> Float[Array, "_ out_height out_width _"]:
    """Returns sum_t seen[t] weights[t], with broadcasting."""
    terms = (view * weight for view, weight in zip(seen, weights, strict=True))
    return functools.reduce(jnp.add, terms)
