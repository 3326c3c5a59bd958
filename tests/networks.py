"""Networks that compile quickly, for tests of the trainer."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bat_jax import parallel
from bat_jax.models.layers import batch_norm


class Plain(nn.Module):
    """A convolution and a dense layer."""

    num_classes: int

    @nn.compact
    def __call__(self, x, *, train=False, features=False):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x - 0.5)).reshape(len(x), -1)
        logits = nn.Dense(self.num_classes, name="head")(x)
        return (logits, x) if features else logits


class Normalized(nn.Module):
    """A convolution with batch norm, over a device's share or the global batch, and dropout."""

    sync: bool
    num_classes: int = 10
    dtype: Any = jnp.float32
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, *, train=False, features=False):
        x = nn.Conv(4, (3, 3), dtype=self.dtype)(x)
        axis_name = parallel.AXIS if self.sync else None
        x = batch_norm(train=train, axis_name=axis_name, dtype=self.dtype)(x)
        x = nn.relu(x).mean(axis=(1, 2)).astype(jnp.float32)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = nn.Dense(self.num_classes)(x)
        return (logits, x) if features else logits


def create(num_classes, image_shape):
    """Returns `Plain`, for `config.model.name`."""
    del image_shape
    return Plain(num_classes)


def in_bfloat16(num_classes, image_shape):
    """Returns a network with batch norm and dropout that computes in bfloat16."""
    del image_shape
    return Normalized(sync=True, num_classes=num_classes, dtype=jnp.bfloat16, dropout=0.25)
