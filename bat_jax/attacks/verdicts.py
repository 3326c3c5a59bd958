"""AutoAttack's verdicts so far."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from bat_jax.attacks.classifier import HostImages
from bat_jax.attacks.verdict_file import Layout

# Values of `Verdicts.broken_by` other than attack numbers.
STANDING = -1
CLEAN_ERROR = -2


class Verdicts:
    """The verdicts on all images so far.

    Attributes:
      clean_logits: of all images.
      broken_by: the number of the attack that broke the image, `CLEAN_ERROR` or `STANDING`.
      is_nan: whether its logits were NaN, clean or attacked.
      flat: per attack, whether a gradient was zero.
      seconds: per attack, the wall time so far.
      adversarial: x', or x for robust images; None if not kept.
      attack: the number of the current attack.
      batches: how many batches of the current attack are done.
      drawn: how many images of a random sample the current and all following attacks were run on,
        beyond those batches.
    """

    def __init__(
        self,
        clean_logits: Float[np.ndarray, "images classes"],
        is_correct: Bool[np.ndarray, " images"],
        num_attacks: int,
        adversarial: HostImages | None,
    ) -> None:
        self.clean_logits = clean_logits
        self.broken_by = np.where(is_correct, STANDING, CLEAN_ERROR).astype(np.int8)
        self.is_nan = np.isnan(clean_logits).any(axis=1)
        self.flat = np.zeros((num_attacks, len(is_correct)), bool)
        self.seconds = np.zeros(num_attacks)
        self.adversarial = adversarial
        self.attack = 0
        self.batches = 0
        self.drawn = 0

    def left_for(self, attack: int) -> Int[np.ndarray, " rows"]:
        """Returns the images that were not broken when an attack began."""
        return np.flatnonzero((self.broken_by == STANDING) | (self.broken_by >= attack))

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what a file holds of the verdicts."""
        content = {
            "broken_by": self.broken_by,
            "is_nan": self.is_nan,
            "flat": self.flat,
            "seconds": self.seconds,
            "progress": np.array([self.attack, self.batches]),
        }
        return {**content, "drawn": np.array(self.drawn)} if self.drawn else content

    def layout(self) -> dict[str, Layout]:
        """Returns the expected form of the arrays, by name."""
        num_attacks, count = self.flat.shape
        return {
            "broken_by": Layout(self.broken_by, (CLEAN_ERROR, num_attacks - 1)),
            "is_nan": Layout(self.is_nan),
            "flat": Layout(self.flat),
            "progress": Layout(np.zeros(2, np.int64), (0, max(num_attacks, count))),
            # Files of earlier versions lack it.
            "seconds": Layout(self.seconds, (0, np.finfo(np.float64).max), is_optional=True),
            "drawn": Layout(np.zeros((), np.int64), (1, count), is_optional=True),
        }

    def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Continues from arrays of the expected form.

        Raises:
          ValueError: more images were drawn than there were to draw.
        """
        self.broken_by, self.is_nan, self.flat = (
            saved[name] for name in ("broken_by", "is_nan", "flat")
        )
        self.seconds = saved.get("seconds", self.seconds)
        self.attack, self.batches = (int(number) for number in saved["progress"])
        self.drawn = int(saved.get("drawn", 0))
        population = len(self.left_for(self.attack))
        if self.drawn > population:
            raise ValueError(f"drawn is {self.drawn}; expected at most {population}")
