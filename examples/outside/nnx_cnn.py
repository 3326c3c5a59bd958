"""A model from outside the package in Flax NNX: convolutions with batch norm.

    bat-jax --config=page.py --config.model.name=nnx_cnn:create

Its parameters and batch statistics become those of the train state; the module stays as it is.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx


class Network(nnx.Module):
    """Two convolutions and a head. It has no features, which PGD-AT does not need."""

    def __init__(self, num_classes: int, channels: int, *, rngs: nnx.Rngs):
        self.first = nnx.Conv(channels, 16, (3, 3), rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(32, num_classes, rngs=rngs)

    def __call__(self, images):
        """Returns the logits."""
        x = nnx.relu(self.first(images - 0.5))
        x = nnx.relu(self.norm(self.second(x)))
        return self.head(jnp.mean(x, axis=(1, 2)))


def create(num_classes: int, image_shape: tuple[int, int, int]) -> Callable[[nnx.Rngs], Network]:
    """Returns a function of `nnx.Rngs`, so that the run's seed draws the parameters."""
    return lambda rngs: Network(num_classes, image_shape[-1], rngs=rngs)
