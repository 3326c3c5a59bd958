"""The random sample of images that AutoAttack's slow attacks are run on, with a tolerance."""

import bisect
import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, UInt64

from bat_jax.attacks import anytime, checks
from bat_jax.attacks.anytime import Limits
from bat_jax.attacks.draws import Purpose
from bat_jax.errors import UserError

# The attacks that take most of the time and find the least.
_SLOW = {"fab-t", "square"}


@dataclasses.dataclass(frozen=True)
class Sample:
    """What is known of a population of images some of which were drawn and attacked.

    Attributes:
      attacks: the attacks that were run on the drawn images.
      order: the population: positions of the images that withstood the attacks before, in the
        order in which they are drawn.
      drawn: how many of them were drawn so far.
      broken: how many of the drawn images were broken.
      confidence: of `limits`.
      limits: how many images of the population the attacks would break.
    """

    attacks: tuple[str, ...]
    order: Int[np.ndarray, " population"] = dataclasses.field(repr=False)
    drawn: int
    broken: int
    confidence: float
    limits: Limits

    @classmethod
    def of(
        cls, attacks: tuple[str, ...], order: Int[np.ndarray, " population"], confidence: float
    ) -> "Sample":
        """Returns a sample of which no image is drawn yet."""
        return cls(attacks, order, 0, 0, confidence, Limits(0, len(order)))

    def extended(self, is_broken: Bool[np.ndarray, " batch"]) -> "Sample":
        """Returns the sample after the next images in order were attacked.

        Its limits are those after every single image, whatever the batches were.
        """
        drawn, broken, limits = self.drawn, self.broken, self.limits
        for is_one_broken in is_broken:
            drawn, broken = drawn + 1, broken + int(is_one_broken)
            limits = anytime.intersected(limits, self._limits(drawn, broken))
        return dataclasses.replace(self, drawn=drawn, broken=broken, limits=limits)

    def is_within(self, width: float) -> bool:
        """Returns whether the limits are no further apart; never before the first draw."""
        return self.drawn > 0 and _width(self.limits) <= width

    def needed(self, width: float) -> int:
        """Returns how many more images to draw until `is_within`, if none of them is broken."""

        def is_enough(count: int) -> bool:
            latest = self._limits(self.drawn + count, self.broken)
            return _width(anytime.intersected(self.limits, latest)) <= width

        left = len(self.order) - self.drawn
        return 1 + bisect.bisect_left(range(1, left), True, key=is_enough)

    def _limits(self, drawn: int, broken: int) -> Limits:
        return anytime.limits(len(self.order), drawn, broken, confidence=self.confidence)

    @property
    def estimate(self) -> float:
        """How many images the attacks would break if the others broke at the same rate."""
        return float(np.clip(len(self.order) * self.broken / self.drawn, *self.limits))

    def __str__(self) -> str:
        """The sample in words: `fab-t and square on 512 of 5,399 images`."""
        return f"{' and '.join(self.attacks)} on {self.drawn:,} of {len(self.order):,} images"


def _width(limits: Limits) -> int:
    return limits.high - limits.low


def ranks(image_keys: Key[Array, " images"]) -> UInt64[np.ndarray, " images"]:
    """Returns a random number per image; images are drawn in ascending order of them.

    Raises:
      UserError: images have the same key, whose order would not be random.
    """
    words = np.asarray(_words(image_keys)).astype(np.uint64)
    found = (words[:, 0] << np.uint64(32)) | words[:, 1]
    _, first, counts = np.unique(found, return_index=True, return_counts=True)
    if (counts > 1).any():
        repeated = found[first[np.argmax(counts > 1)]]
        one, other = np.flatnonzero(found == repeated)[:2]
        raise UserError(
            f"key: images {one} and {other} have the same key; expected different ones, from which"
            " a tolerance draws its sample: give a single key, or each image its own"
        )
    return found


@jax.jit
def _words(image_keys: Key[Array, " images"]) -> Array:
    return jax.vmap(
        lambda key: jax.random.bits(
            jax.random.fold_in(key, jnp.int32(Purpose.ORDER)), (2,), jnp.uint32
        )
    )(image_keys)


def num_whole(attacks: Sequence[str]) -> int:
    """Returns how many attacks are run on all images, which are the first."""
    return sum(name not in _SLOW for name in attacks)


def slow_ones_last(attacks: Sequence[str]) -> bool:
    """Returns whether the attacks that a tolerance runs on a sample come after the others."""
    return not _SLOW & set(attacks[: num_whole(attacks)])


def check(tolerance: float | None, confidence: float, attacks: Sequence[str]) -> None:
    """Checks a tolerance and what it needs of the other arguments.

    Raises:
      UserError: the tolerance or the confidence is not between 0 and 1, or the slow attacks are not
        the last.
    """
    expected = "a number above 0 and below 1, such as"
    checks.number("confidence", confidence, f"{expected} 0.95", lambda one: 0 < one < 1)
    if tolerance is None:
        return
    expected += " 0.003 for 0.3 points of robust accuracy, or None for the exact verdict"
    checks.number("tolerance", tolerance, expected, lambda one: 0 < one < 1)
    if not slow_ones_last(attacks):
        raise UserError(
            f"attacks: {', '.join(attacks)}; expected {' and '.join(sorted(_SLOW))} after the"
            " others: a tolerance runs them on a sample of the images that the others leave"
        )
