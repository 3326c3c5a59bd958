"""3x3 convolutions with half the multiplications, for the CPU back end.

Winograd's F(4, 3) computes four outputs of a 3-tap filter with six products instead of twelve. It
is applied along the height only; along the width and the channels, each of the six products is an
ordinary 1x3 convolution. (In both directions it would save more products, but the extra additions
and memory traffic cost more than that.) It is exact in real numbers; in float32 its error is about
three times that of plain sums.

Source: Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Images = Float[Array, "batch height width channels"]
Kernel = Float[Array, "3 3 channels out_channels"]
Map = Float[Array, "batch height width out_channels"]

OUTPUTS = 4  # Per tile, from OUTPUTS + 2 inputs; must divide the height.
# y = A ((G g) * (B d)), for inputs d, taps g and outputs y.
_B = np.asarray(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
_G = np.asarray(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float32,
)
_A = np.asarray(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    np.float32,
)
_LAYOUT = ("NHWC", "HWIO", "NHWC")


@jax.custom_vjp
def convolution(images: Images, kernel: Kernel) -> Map:
    """Returns the convolution of stride 1, padded by 1 on every side.

    It differentiates in reverse mode only.

    Args:
      images: shape `[batch, height, width, channels]`, the height a multiple of `OUTPUTS`.
      kernel: shape `[3, 3, channels, out_channels]`.
    """
    batch, height, width, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (0, 0), (0, 0)))
    # The barrier prevents recomputing the images for every product.
    padded = jax.lax.optimization_barrier(padded)
    rows = [padded[:, tap : tap + height - OUTPUTS + 1 : OUTPUTS] for tap in range(OUTPUTS + 2)]
    products = [
        jax.lax.conv_general_dilated(
            _combined(weights, rows),
            taps[None],
            (1, 1),
            ((0, 0), (1, 1)),
            dimension_numbers=_LAYOUT,
        )
        for weights, taps in zip(_B, jnp.einsum("ti,ijco->tjco", _G, kernel), strict=True)
    ]
    outputs = jnp.stack([_combined(weights, products) for weights in _A], axis=2)
    return outputs.reshape(batch, height, width, -1)


def _forward(images: Images, kernel: Kernel) -> tuple[Map, tuple[Images, Kernel]]:
    return convolution(images, kernel), (images, kernel)


def _backward(saved: tuple[Images, Kernel], cotangent: Map) -> tuple[Images, Kernel]:
    images, kernel = saved

    def plain(kernel: Kernel) -> Map:
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=_LAYOUT
        )

    _, pull_back = jax.vjp(plain, kernel)
    return convolution(cotangent, kernel[::-1, ::-1].swapaxes(2, 3)), *pull_back(cotangent)


convolution.defvjp(_forward, _backward)


def _combined(weights: np.ndarray, parts: list[Array]) -> Array:
    """Returns the weighted sum of the parts, skipping those of weight 0."""
    terms = [
        part if weight == 1 else part * weight
        for weight, part in zip(weights, parts, strict=True)
        if weight
    ]
    return sum(terms[1:], terms[0])
