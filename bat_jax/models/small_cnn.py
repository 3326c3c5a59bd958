"""A small convolutional network for gray images of 8x8 to 32x32 pixels."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from bat_jax.kernels import convolution
from bat_jax.kernels.convolution import Convolution
from bat_jax.models.layers import Activation, Outputs, head, normalize, plain_convolution


class SmallCNN(nn.Module):
    """Three 3x3 convolutions of width, 2 width and 4 width channels, the last two of stride 2.

    A dense layer of 8 width units follows, whose outputs are the penultimate features. There are no
    batch statistics.

    Attributes:
      num_classes: the number of logits.
      mean: the per-channel mean to subtract from images.
      std: the per-channel standard deviation to divide by.
      width: channels of the first convolution.
      activation: the activation of all layers.
      dtype: the type of the computation; parameters are float32.
      conv: computes convolutions, with the arguments of `jax.lax.conv_general_dilated`; with
        `kernels.convolution.batch_last`, the batch is the last dimension between layers.
    """

    num_classes: int
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    width: int = 16
    activation: Activation = nn.relu
    dtype: Any = jnp.float32
    conv: Convolution = convolution.xla

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        features: bool = False,
    ) -> Outputs:
        """Returns the logits, and on request the features; `train` has no effect."""
        x = normalize(images, self.mean, self.std, self.dtype)
        is_batch_last = self.conv is convolution.batch_last
        x = x.transpose(3, 1, 2, 0) if is_batch_last else x
        for multiple, stride in ((1, 1), (2, 2), (4, 2)):
            convolve = plain_convolution(
                multiple * self.width, stride=stride, conv=self.conv, dtype=self.dtype
            )
            x = self.activation(convolve(x))
        if is_batch_last:
            # The dense layer reads its images as columns, which moves no data.
            x = x.transpose(1, 2, 0, 3).reshape(-1, x.shape[-1]).T
        else:
            x = x.reshape(len(x), -1)
        x = self.activation(nn.Dense(8 * self.width, dtype=self.dtype)(x))
        return head(x, self.num_classes, features_too=features)
