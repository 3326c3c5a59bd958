"""A model from outside the package: a small vision transformer, with dropout.

    bat-jax --config=page.py --config.model.name=vit:create

The trainer gives a Flax Linen module a key for dropout, by any name that the module uses for it.
"""

import flax.linen as nn
import jax.numpy as jnp


class Block(nn.Module):
    """Self-attention and two dense layers, each added to its input."""

    dropout: float

    @nn.compact
    def __call__(self, x, *, train: bool):
        """Returns tokens of the same shape."""
        y = nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        x = x + nn.Dropout(self.dropout, deterministic=not train)(y)
        width = x.shape[-1]
        y = nn.Dense(width)(nn.gelu(nn.Dense(2 * width)(nn.LayerNorm()(x))))
        return x + nn.Dropout(self.dropout, deterministic=not train)(y)


class VisionTransformer(nn.Module):
    """Patches as tokens with learned positions, blocks, and the mean token as features.

    Attributes:
      num_classes: the number of logits.
      patch: the side of a patch in pixels.
      width: the size of a token.
      depth: the number of blocks.
      dropout: the share of units to drop in training.
    """

    num_classes: int
    patch: int = 2
    width: int = 32
    depth: int = 2
    dropout: float = 0.1

    @nn.compact
    def __call__(self, images, *, train: bool = False, features: bool = False):
        """Returns the logits, and on request the features."""
        x = nn.Conv(self.width, (self.patch, self.patch), strides=self.patch)(images - 0.5)
        x = x.reshape(len(x), -1, self.width)
        x = x + self.param("positions", nn.initializers.normal(0.02), x.shape[1:])
        for _ in range(self.depth):
            x = Block(self.dropout)(x, train=train)
        found = jnp.mean(nn.LayerNorm()(x), axis=1)
        logits = nn.Dense(self.num_classes, name="head")(found)
        return (logits, found) if features else logits


def create(num_classes: int, image_shape: tuple[int, int, int]) -> VisionTransformer:
    """Returns the model for images of a shape; `config.model.name` names this function."""
    del image_shape
    return VisionTransformer(num_classes)
