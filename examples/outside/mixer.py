"""A model from outside the package: a small MLP-Mixer.

Any Flax module from [0, 1] images to float32 logits will do. Methods that compare features, such as
`bat`, need a call that returns logits and features with `features=True`.
"""

import flax.linen as nn
import jax.numpy as jnp


class Mixer(nn.Module):
    """Patches of 4x4 pixels, mixed over positions, then over channels.

    Attributes:
      num_classes: the number of logits.
      width: the number of channels of a patch.
    """

    num_classes: int
    width: int = 32

    @nn.compact
    def __call__(self, images, *, train: bool = False, features: bool = False):
        """Returns the logits, and on request the mean patch; `train` has no effect."""
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
    """Returns the model for images of a shape; `config.model.name` names this function."""
    del image_shape
    return Mixer(num_classes)
