"""Layers that models share: input normalisation, convolutions, batch norm, the linear head."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bat_jax.kernels import batch_last
from bat_jax.kernels import convolution as forms
from bat_jax.kernels.convolution import Convolution

Logits = Float[Array, "batch classes"]
Features = Float[Array, "batch features"]
Outputs = Logits | tuple[Logits, Features]
Activation = Callable[[Array], Array]


def normalize(
    images: Float[Array, "batch height width channels"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: Any,
) -> Float[Array, "batch height width channels"]:
    """Returns (images - mean) / std per channel."""
    channels = (1, 1, 1, -1)
    shifted = images - jnp.asarray(mean, images.dtype).reshape(channels)
    return (shifted / jnp.asarray(std, images.dtype).reshape(channels)).astype(dtype)


def convolution(
    channels: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    use_bias: bool = False,
    padding: Sequence[tuple[int, int]] | None = None,
    conv: Convolution,
    dtype: Any,
) -> nn.Conv:
    """Returns a square convolution.

    The padding is explicit because SAME pads strided convolutions on one side only, unlike most of
    the published architectures.

    Args:
      channels: the number of output channels.
      kernel: the side of the kernel.
      stride: the stride in both directions.
      use_bias: whether to add a bias per channel.
      padding: the padding before and after, in both directions; by default kernel // 2.
      conv: computes the convolution, with the arguments of `jax.lax.conv_general_dilated`.
      dtype: the type of the computation; parameters are float32.
    """
    pad = kernel // 2
    return nn.Conv(
        channels,
        (kernel, kernel),
        strides=stride,
        padding=((pad, pad), (pad, pad)) if padding is None else padding,
        use_bias=use_bias,
        kernel_init=jax.nn.initializers.he_normal(),
        conv_general_dilated=conv,
        dtype=dtype,
    )


def plain_convolution(
    channels: int, *, stride: int = 1, conv: Convolution, dtype: Any
) -> nn.Conv | batch_last.Conv:
    """Returns a 3x3 convolution with a bias per channel.

    It maps `[batch, height, width, channels]`, or `[channels, height, width, batch]` if `conv` is
    `kernels.convolution.batch_last`.

    Args:
      channels: the number of output channels.
      stride: the stride in both directions.
      conv: computes the convolution, with the arguments of `jax.lax.conv_general_dilated`.
      dtype: the type of the computation; parameters are float32.
    """
    if conv is forms.batch_last:
        return batch_last.Conv(channels, stride, dtype=dtype)
    return convolution(channels, stride=stride, use_bias=True, conv=conv, dtype=dtype)


def same_padding(sides: Sequence[int], *, kernel: int, stride: int) -> tuple[tuple[int, int], ...]:
    """Returns TensorFlow's SAME padding, before and after, for every side of a map.

    Outputs have ceil(side / stride) places; an odd number of zeros has one more at the end.
    """
    totals = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in sides]
    return tuple((total // 2, total - total // 2) for total in totals)


class BatchNorm(nn.BatchNorm):
    """Flax's batch norm, which mixes bfloat16 and float32, under any promotion rule.

    The class keeps its name because Flax names parameters after it.
    """

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Calls `flax.linen.BatchNorm` with standard promotion."""
        with jax.numpy_dtype_promotion("standard"):
            return super().__call__(*arguments, **options)


def batch_norm(
    *, train: bool, axis_name: str | None = None, axis: int = -1, dtype: Any
) -> BatchNorm:
    """Returns batch norm with momentum 0.9 and epsilon 1e-5.

    Args:
      train: whether to normalise by the batch's statistics and update the running ones.
      axis_name: the mapped axis over which to take the statistics of the global batch, if any.
      axis: the dimension of the channels.
      dtype: the type of the output; statistics are float32.
    """
    return BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        axis_name=axis_name,
        axis=axis,
        dtype=dtype,
    )


def head(features: Features, num_classes: int, *, features_too: bool) -> Outputs:
    """Returns the float32 logits of a linear layer, and on request the float32 features."""
    features = features.astype(jnp.float32)
    logits = nn.Dense(num_classes, name="head")(features)
    return (logits, features) if features_too else logits
