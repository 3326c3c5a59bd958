"""ResNet-18 and PreActResNet-18 for small images.

Sources: He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385, and Identity
Mappings in Deep Residual Networks, arXiv:1603.05027. As usual for CIFAR, the stem is one 3x3
convolution without pooling; for the 64x64 images of Tiny ImageNet its stride is 2, so that the
stages have the same sizes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from bat_jax.kernels import convolution
from bat_jax.kernels.convolution import Convolution
from bat_jax.models.layers import Activation, Outputs, batch_norm, head, normalize
from bat_jax.models.layers import convolution as layer

Stem = Literal["cifar", "tiny_imagenet"]
Map = Float[Array, "batch height width channels"]
BlockOutput = Float[Array, "batch out_height out_width out_channels"]

STEM_STRIDE: dict[str, int] = {"cifar": 1, "tiny_imagenet": 2}
# Blocks of each stage, two layers each; with the stem and the head they make the depth.
BLOCKS: dict[int, tuple[int, int, int, int]] = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
}


class BasicBlock(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))), with a 1x1 convolution where the shape changes."""

    channels: int
    stride: int
    axis_name: str | None
    dtype: Any
    conv: Convolution
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Map, *, train: bool) -> BlockOutput:
        """Returns the block's output."""
        norm = partial(batch_norm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        convolve = partial(layer, conv=self.conv, dtype=self.dtype)
        y = self.activation(norm()(convolve(self.channels, stride=self.stride)(x)))
        y = norm()(convolve(self.channels)(y))
        if x.shape != y.shape:
            x = norm()(convolve(self.channels, kernel=1, stride=self.stride)(x))
        return self.activation(x + y)


class PreActivationBlock(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x)))))), with a 1x1 convolution where the shape changes.

    The 1x1 convolution takes the activated input, as in the published robust models.
    """

    channels: int
    stride: int
    axis_name: str | None
    dtype: Any
    conv: Convolution
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Map, *, train: bool) -> BlockOutput:
        """Returns the block's output."""
        norm = partial(batch_norm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        convolve = partial(layer, conv=self.conv, dtype=self.dtype)
        activated = self.activation(norm()(x))
        y = convolve(self.channels, stride=self.stride)(activated)
        y = convolve(self.channels)(self.activation(norm()(y)))
        if x.shape != y.shape:
            x = convolve(self.channels, kernel=1, stride=self.stride)(activated)
        return x + y


def stages(
    x: Map,
    block: Callable[..., nn.Module],
    *,
    channels: int,
    blocks: Sequence[int],
    train: bool,
) -> BlockOutput:
    """Returns the output of consecutive stages of blocks, within a compact module.

    Each stage but the first doubles the channels and halves the sides.

    Args:
      x: the input.
      block: makes a block from its channels and stride.
      channels: of the first stage.
      blocks: the number of blocks of each stage.
      train: whether batch norm uses the batch's statistics.
    """
    for stage, count in enumerate(blocks):
        for number in range(count):
            stride = 2 if stage > 0 and number == 0 else 1
            x = block(channels * 2**stage, stride)(x, train=train)
    return x


class ResNet18(nn.Module):
    """A residual network of 18 layers, or of 10 or 34.

    Attributes:
      num_classes: the number of logits.
      mean: the per-channel mean to subtract from images.
      std: the per-channel standard deviation to divide by.
      width: channels of the first stage; 64 in the papers.
      stem: `cifar` or `tiny_imagenet`.
      depth: 10, 18 or 34.
      pre_activation: PreActResNet rather than ResNet.
      activation: of all layers; ReLU in the papers.
      axis_name: the mapped axis over which batch norm is synchronised, if any.
      dtype: of the computation; parameters are float32.
      conv: computes convolutions, with the arguments of `jax.lax.conv_general_dilated`.
    """

    num_classes: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    width: int = 64
    stem: Stem = "cifar"
    depth: int = 18
    pre_activation: bool = False
    activation: Activation = nn.relu
    axis_name: str | None = None
    dtype: Any = jnp.float32
    conv: Convolution = convolution.xla

    @nn.compact
    def __call__(self, images: Map, *, train: bool = False, features: bool = False) -> Outputs:
        """Returns the logits, and on request the pooled features."""
        norm = partial(batch_norm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        convolve = partial(layer, conv=self.conv, dtype=self.dtype)
        x = normalize(images, self.mean, self.std, self.dtype)
        x = convolve(self.width, stride=STEM_STRIDE[self.stem])(x)
        if not self.pre_activation:
            x = self.activation(norm()(x))
        block = partial(
            PreActivationBlock if self.pre_activation else BasicBlock,
            axis_name=self.axis_name,
            dtype=self.dtype,
            conv=self.conv,
            activation=self.activation,
        )
        x = stages(x, block, channels=self.width, blocks=BLOCKS[self.depth], train=train)
        if self.pre_activation:
            x = self.activation(norm()(x))
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        return head(x, self.num_classes, features_too=features)
