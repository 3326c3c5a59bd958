"""Wide residual networks.

Source: Zagoruyko & Komodakis, Wide Residual Networks, arXiv:1605.07146.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bat_jax.kernels import convolution
from bat_jax.kernels.convolution import Convolution
from bat_jax.models.blocks import STEM_STRIDE, Map, Padding, PreActivationBlock, Stem, stages
from bat_jax.models.layers import Activation, Outputs, batch_norm, head, normalize
from bat_jax.models.layers import convolution as layer


class WideResNet(nn.Module):
    """WRN-depth-widening: three stages of pre-activation blocks.

    Attributes:
      num_classes: the number of logits.
      depth: 6 n + 4 for n blocks per stage.
      widening: the stages have `widening`, 2 `widening` and 4 `widening` times the stem's channels.
      mean: the per-channel mean to subtract from images.
      std: the per-channel standard deviation to divide by.
      width: channels of the stem, 16 in the paper.
      stem: `cifar`, or `tiny_imagenet`, whose stride of 2 reduces 64x64 images to 32x32.
      activation: the activation of all layers; ReLU in the paper.
      padding: the padding of strided convolutions, as in `PreActivationBlock`.
      axis_name: the mapped axis over which batch norm is synchronised, if any.
      dtype: the type of the computation; parameters are float32.
      conv: computes convolutions, with the arguments of `jax.lax.conv_general_dilated`.
      remat: computes activations within blocks again in the backward pass, to save memory.
    """

    num_classes: int
    depth: int
    widening: int = 10
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    width: int = 16
    stem: Stem = "cifar"
    activation: Activation = nn.relu
    padding: Padding = "symmetric"
    axis_name: str | None = None
    dtype: Any = jnp.float32
    conv: Convolution = convolution.xla
    remat: bool = False

    @nn.compact
    def __call__(self, images: Map, *, train: bool = False, features: bool = False) -> Outputs:
        """Returns the logits, and on request the pooled features."""
        norm = partial(batch_norm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        x = normalize(images, self.mean, self.std, self.dtype)
        convolve = partial(layer, conv=self.conv, dtype=self.dtype)
        x = convolve(self.width, stride=STEM_STRIDE[self.stem])(x)
        block = partial(
            PreActivationBlock,
            axis_name=self.axis_name,
            dtype=self.dtype,
            conv=self.conv,
            activation=self.activation,
            padding=self.padding,
        )
        blocks = (self.depth - 4) // 6
        x = stages(
            x,
            block,
            channels=self.widening * self.width,
            blocks=(blocks,) * 3,
            train=train,
            remat=self.remat,
        )
        x = self.activation(norm()(x))
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        return head(x, self.num_classes, features_too=features)
