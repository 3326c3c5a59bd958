"""Between which radii the smallest adversarial perturbation of each image lies, so far."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from bat_jax.attacks.classifier import HostImages
from bat_jax.attacks.verdict_file import Layout


class Brackets:
    """The radii that are still possible for every image.

    Attributes:
      clean_logits: of all images.
      adversarial: the nearest adversarial image found, else x; None if not kept.
      distance: the distance of the nearest one, as far as it counts; infinite if there is none.
      fab: the same when FAB-T had ended.
      withstood: how many of the radii the image withstands.
      broken_at: the place of the smallest radius that breaks it, or the number of radii.
      flat: per attack, whether a gradient was zero.
      round: the number of the current round.
      batches: how many batches of the current round are done.
      in_round: which images the current round attacks.
    """

    def __init__(
        self,
        clean_logits: Float[np.ndarray, "images classes"],
        is_correct: Bool[np.ndarray, " images"],
        num_radii: int,
        num_attacks: int,
        adversarial: HostImages | None,
    ) -> None:
        self._num_radii = num_radii
        self.clean_logits = clean_logits
        self.adversarial = adversarial
        self.distance = np.where(is_correct, np.inf, 0.0)
        self.fab = self.distance.copy()
        self.withstood = np.zeros(len(is_correct), int)
        self.broken_at = np.where(is_correct, num_radii, 0)
        self.flat = np.zeros((num_attacks, len(is_correct)), bool)
        self.round = 0
        self.batches = 0
        self.in_round = is_correct.copy()

    @property
    def is_open(self) -> Bool[np.ndarray, " images"]:
        """Whether there are radii that an image is neither known to withstand nor broken at."""
        return self.withstood < self.broken_at

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what a file holds of the brackets."""
        return {
            "distance": self.distance,
            "fab": self.fab,
            "withstood": self.withstood,
            "broken_at": self.broken_at,
            "flat": self.flat,
            "in_round": self.in_round,
            "progress": np.array([self.round, self.batches]),
        }

    def layout(self) -> dict[str, Layout]:
        """Returns the expected form of the arrays, by name."""
        most = max(self._num_radii + 1, len(self.distance))
        return {
            "distance": Layout(self.distance, (0, np.inf)),
            "fab": Layout(self.fab, (0, np.inf)),
            "withstood": Layout(self.withstood, (0, self._num_radii)),
            "broken_at": Layout(self.broken_at, (0, self._num_radii)),
            "flat": Layout(self.flat),
            "in_round": Layout(self.in_round),
            "progress": Layout(np.zeros(2, np.int64), (0, most)),
        }

    def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Continues from arrays of the expected form."""
        self.distance, self.fab = saved["distance"], saved["fab"]
        self.withstood, self.broken_at = saved["withstood"], saved["broken_at"]
        self.flat, self.in_round = saved["flat"], saved["in_round"]
        self.round, self.batches = (int(number) for number in saved["progress"])
