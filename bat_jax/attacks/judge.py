"""The verdict on an image: of one evaluation, or of the majority of several draws of the model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from bat_jax.attacks import chosen
from bat_jax.attacks.classifier import HostImages
from bat_jax.attacks.draws import Purpose, folded
from bat_jax.attacks.engine import Engine


@dataclasses.dataclass(frozen=True)
class Judge:
    """Evaluates the model on images, apart from the evaluations of an attack.

    Attributes:
      engine: the model.
      labels: y, of all images.
      keys: one key per image.
      draws: how many draws of a randomised model vote; None for a deterministic model.
      classes: those that count as wrong in all sittings but the first; None for all.
    """

    engine: Engine
    labels: Int[np.ndarray, " images"]
    keys: Key[Array, " images"]
    draws: int | None
    classes: tuple[int, ...] | None = None

    def __call__(
        self, images: HostImages, rows: Int[np.ndarray, " batch"], sitting: int
    ) -> tuple[Float[np.ndarray, "batch classes"], Bool[np.ndarray, " batch"]]:
        """Returns the logits, the mean over draws, and whether the model is right.

        A randomised model is right if more than half of its draws are and no logit is NaN. Draw j
        of sitting i uses the key of (image, JUDGEMENT, i, j).

        Args:
          images: the images to judge.
          rows: their positions among all images.
          sitting: distinguishes judgements, whose draws are independent.
        """
        labels = self.labels[rows]
        if self.draws is None:
            logits = self.engine.logits(images)
            return logits, self._is_right(logits, labels, sitting)
        words = np.asarray(_words(self.keys, jnp.int32(sitting), self.draws))[:, rows]
        drawn = [self.engine.logits(images, key_data) for key_data in words]
        num_right = np.sum([self._is_right(logits, labels, sitting) for logits in drawn], axis=0)
        mean = np.mean(drawn, axis=0)
        return mean, (2 * num_right > self.draws) & ~np.isnan(mean).any(axis=1)

    def _is_right(
        self,
        logits: Float[np.ndarray, "batch classes"],
        labels: Int[np.ndarray, " batch"],
        sitting: int,
    ) -> Bool[np.ndarray, " batch"]:
        if self.classes is None or sitting == 0:
            is_right = logits.argmax(axis=1) == labels
        else:
            is_right = ~chosen.reached(logits, labels, self.classes)
        return is_right & ~np.isnan(logits).any(axis=1)


@functools.partial(jax.jit, static_argnums=2)
def _words(keys: Key[Array, " images"], sitting: Int[Array, ""], draws: int) -> Array:
    """Returns the words of every draw's key for every image."""
    sat = folded(folded(keys, int(Purpose.JUDGEMENT)), sitting)
    return jax.vmap(lambda draw: jax.random.key_data(folded(sat, draw)))(jnp.arange(draws))
