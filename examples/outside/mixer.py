"""A model from outside: any Flax module from images in [0, 1] to logits, here a small MLP-Mixer.

It has three duties: `train` and `features` are arguments of its call, logits and features are
float32, and with `features=True` it returns both.
"""

import flax.linen as nn
import jax.numpy as jnp


class Mixer(nn.Module):
    """Patches of 4x4 pixels, mixed over places, then over channels.

    Attributes:
      num_classes: number of logits.
      width: channels of a patch.
    """

    num_classes: int
    width: int = 32

    @nn.compact
    def __call__(self, images, *, train: bool = False, features: bool = False):
        """Returns logits, and the mean patch on request; `train` changes nothing here."""
        del train
        x = nn.Conv(self.width, (4, 4), strides=4)(images - 0.5)
        x = x.reshape(len(x), -1, self.width)
        places = x.shape[1]
        x = x + nn.Dense(places)(nn.gelu(nn.Dense(places)(x.swapaxes(1, 2)))).swapaxes(1, 2)
        x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(self.width)(x)))
        found = jnp.mean(nn.LayerNorm()(x), axis=1)
        logits = nn.Dense(self.num_classes)(found)
        return (logits, found) if features else logits


def create(num_classes: int, image_shape: tuple[int, int, int]) -> Mixer:
    """Returns the model for images of a shape; what `config.model.name` may name."""
    del image_shape
    return Mixer(num_classes)
