"""The blocks of residual networks.

Sources: He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385, and Identity
Mappings in Deep Residual Networks, arXiv:1603.05027; for the forms of the shortcut, RobustBench,
arXiv:2010.09670.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
from jaxtyping import Array, Float

from bat_jax.kernels.convolution import Convolution
from bat_jax.models.layers import Activation, batch_norm, same_padding
from bat_jax.models.layers import convolution as layer

Stem = Literal["cifar", "tiny_imagenet", "imagenet"]
Padding = Literal["symmetric", "same"]
Shortcut = Literal["activated", "raw"]
Map = Float[Array, "batch height width channels"]
BlockOutput = Float[Array, "batch out_height out_width out_channels"]

STEM_STRIDE: dict[str, int] = {"cifar": 1, "tiny_imagenet": 2}
# The output of a bottleneck has this many times the channels of its 3x3 convolution.
EXPANSION = 4


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


class Bottleneck(nn.Module):
    """The basic block with convolutions of 1x1, 3x3 with the stride, and 1x1 to 4 times `channels`.

    A 1x1 convolution and batch norm are in the shortcut where the shape changes.
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
        wide = EXPANSION * self.channels
        y = self.activation(norm()(convolve(self.channels, kernel=1)(x)))
        y = self.activation(norm()(convolve(self.channels, stride=self.stride)(y)))
        y = norm()(convolve(wide, kernel=1)(y))
        if x.shape != y.shape:
            x = norm()(convolve(wide, kernel=1, stride=self.stride)(x))
        return self.activation(x + y)


class PreActivationBlock(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x)))))), with a convolution of x where the shape changes.

    Attributes:
      channels: the number of output channels.
      stride: the stride of the first convolution and of the shortcut.
      axis_name: the mapped axis over which batch norm is synchronised, if any.
      dtype: the type of the computation; parameters are float32.
      conv: computes convolutions, with the arguments of `jax.lax.conv_general_dilated`.
      activation: ReLU in the paper.
      shortcut: whether its convolution takes the input after batch norm and activation or, `raw`,
        before them.
      shortcut_kernel: the side of its kernel.
      padding: `symmetric`, or `same` as in TensorFlow, which pads a stride of 2 at even sides on
        the right and at the bottom only.
    """

    channels: int
    stride: int
    axis_name: str | None
    dtype: Any
    conv: Convolution
    activation: Activation = nn.relu
    shortcut: Shortcut = "activated"
    shortcut_kernel: int = 1
    padding: Padding = "symmetric"

    @nn.compact
    def __call__(self, x: Map, *, train: bool) -> BlockOutput:
        """Returns the block's output."""
        norm = partial(batch_norm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        convolve = partial(layer, conv=self.conv, dtype=self.dtype)

        def strided(kernel: int) -> nn.Conv:
            sides = None
            if self.padding == "same":
                sides = same_padding(x.shape[1:3], kernel=kernel, stride=self.stride)
            return convolve(self.channels, kernel=kernel, stride=self.stride, padding=sides)

        activated = self.activation(norm()(x))
        y = strided(3)(activated)
        y = convolve(self.channels)(self.activation(norm()(y)))
        if x.shape != y.shape:
            x = strided(self.shortcut_kernel)(x if self.shortcut == "raw" else activated)
        return x + y


def stages(
    x: Map,
    block: Callable[..., nn.Module],
    *,
    channels: int,
    blocks: Sequence[int],
    train: bool,
    remat: bool,
) -> BlockOutput:
    """Returns the output of consecutive stages of blocks, within a compact module.

    Each stage but the first doubles the channels and halves the sides.

    Args:
      x: the input.
      block: makes a block from its channels and stride.
      channels: the number of channels of the first stage.
      blocks: the number of blocks of each stage.
      train: whether batch norm uses the batch's statistics.
      remat: whether to keep only the blocks' inputs for the backward pass, and to compute the rest
        again there.
    """

    def forward(module: nn.Module, x: Map) -> BlockOutput:
        output: BlockOutput = module(x, train=train)
        return output

    apply = nn.remat(forward) if remat else forward
    for stage, count in enumerate(blocks):
        for number in range(count):
            stride = 2 if stage > 0 and number == 0 else 1
            x = apply(block(channels * 2**stage, stride), x)
    return x
