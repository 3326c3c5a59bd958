"""ResNet of 18 or 50 layers.

Source: He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385. As usual for
CIFAR, the stem is one 3x3 convolution without pooling; for the 64x64 images of Tiny ImageNet its
stride is 2, so that the stages have the same sizes. For images of about 224x224 the stem is that of
the paper.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bat_jax.kernels import convolution
from bat_jax.kernels.convolution import Convolution
from bat_jax.models.blocks import STEM_STRIDE, BasicBlock, Bottleneck, Map, Stem, stages
from bat_jax.models.layers import Activation, Outputs, batch_norm, head, normalize
from bat_jax.models.layers import convolution as layer

# By depth: the block, and the number of blocks of each stage.
STAGES: dict[int, tuple[type[nn.Module], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(nn.Module):
    """A residual network with activations after the sums.

    Attributes:
      num_classes: the number of logits.
      depth: 18 or 50.
      mean: the per-channel mean to subtract from images.
      std: the per-channel standard deviation to divide by.
      width: channels of the stem; 64 in the paper.
      stem: `cifar`; `tiny_imagenet`, of stride 2; or `imagenet`, a 7x7 convolution and a 3x3
        max-pooling, both of stride 2.
      activation: the activation of all layers; ReLU in the paper.
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
    axis_name: str | None = None
    dtype: Any = jnp.float32
    conv: Convolution = convolution.xla
    remat: bool = False

    @nn.compact
    def __call__(self, images: Map, *, train: bool = False, features: bool = False) -> Outputs:
        """Returns the logits, and on request the pooled features."""
        norm = partial(batch_norm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        convolve = partial(layer, conv=self.conv, dtype=self.dtype)
        x = normalize(images, self.mean, self.std, self.dtype)
        if self.stem == "imagenet":
            x = self.activation(norm()(convolve(self.width, kernel=7, stride=2)(x)))
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        else:
            x = self.activation(norm()(convolve(self.width, stride=STEM_STRIDE[self.stem])(x)))
        block, blocks = STAGES[self.depth]
        make = partial(
            block,
            axis_name=self.axis_name,
            dtype=self.dtype,
            conv=self.conv,
            activation=self.activation,
        )
        x = stages(x, make, channels=self.width, blocks=blocks, train=train, remat=self.remat)
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        return head(x, self.num_classes, features_too=features)
