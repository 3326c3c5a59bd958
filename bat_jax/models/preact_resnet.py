"""PreActResNet for small images, of 10, 18 or 34 layers.

Source: He et al., Identity Mappings in Deep Residual Networks, arXiv:1603.05027. The stem is that
of `ResNet`. Published robust networks differ in two places: the input of the shortcut, and whether
batch norm and activation precede the head.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bat_jax.kernels import convolution
from bat_jax.kernels.convolution import Convolution
from bat_jax.models.blocks import (
    STEM_STRIDE,
    Map,
    Padding,
    PreActivationBlock,
    Shortcut,
    Stem,
    stages,
)
from bat_jax.models.layers import Activation, Outputs, batch_norm, head, normalize
from bat_jax.models.layers import convolution as layer

# Blocks of each stage, two layers each; with the stem and the head they make the depth.
BLOCKS: dict[int, tuple[int, int, int, int]] = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
}


class PreActResNet(nn.Module):
    """A residual network with activations before the convolutions.

    Attributes:
      num_classes: the number of logits.
      depth: 10, 18 or 34.
      mean: the per-channel mean to subtract from images.
      std: the per-channel standard deviation to divide by.
      width: channels of the stem; 64 in the paper.
      stem: `cifar` or `tiny_imagenet`.
      activation: the activation of all layers; ReLU in the paper.
      shortcut: whether the convolution of a shortcut takes the block's input after batch norm and
        activation (RobustBench's `PreActBlockV2`) or `raw` (its `PreActBlock`).
      shortcut_kernel: the side of that convolution's kernel.
      padding: the padding of strided convolutions, as in `PreActivationBlock`.
      final_norm: whether batch norm and activation precede the pooling (RobustBench's
        `bn_before_fc`).
      axis_name: the mapped axis over which batch norm is synchronised, if any.
      dtype: the type of the computation; parameters are float32.
      conv: computes convolutions, with the arguments of `jax.lax.conv_general_dilated`.
      remat: computes activations within blocks again in the backward pass, to save memory.
    """

    num_classes: int
    depth: int = 18
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    width: int = 64
    stem: Stem = "cifar"
    activation: Activation = nn.relu
    shortcut: Shortcut = "activated"
    shortcut_kernel: int = 1
    padding: Padding = "symmetric"
    final_norm: bool = True
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
            shortcut=self.shortcut,
            shortcut_kernel=self.shortcut_kernel,
            padding=self.padding,
        )
        x = stages(
            x,
            block,
            channels=self.width,
            blocks=BLOCKS[self.depth],
            train=train,
            remat=self.remat,
        )
        if self.final_norm:
            x = self.activation(norm()(x))
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        return head(x, self.num_classes, features_too=features)
