"""Verdicts of attacks the last of which were run on a random sample of the images only."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from bat_jax.attacks import anytime


class Standing(NamedTuple):
    """How many images would stand if all attacks were run on all of them, with an interval."""

    low: int
    estimate: float
    high: int


@dataclasses.dataclass(frozen=True)
class Sampled:
    """The verdicts on all images, some of which not all attacks were run on.

    Attributes:
      stands: whether an image is classified correctly under all attacks that were run on it.
      in_population: whether it withstood the attacks that were run on all images.
      is_drawn: whether it was drawn from them, and the last attacks were run.
      part: the number of the part of the images that it was drawn from; every part has a random
        order of its own.
    """

    stands: Bool[np.ndarray, " images"]
    in_population: Bool[np.ndarray, " images"]
    is_drawn: Bool[np.ndarray, " images"]
    part: Int[np.ndarray, " images"]

    @property
    def not_run(self) -> Bool[np.ndarray, " images"]:
        """Whether an image stands, but not all attacks were run on it."""
        return self.stands & self.in_population & ~self.is_drawn

    def standing(self, rows: Any, confidence: float) -> Standing:
        """Returns how many of some images would stand, chosen without regard to the draws.

        Within any group of images, the drawn ones are a random sample of the group in random order.
        Every part has its own interval (`anytime.limits`); with as many parts, each is given its
        share of 1 - confidence, and the ends are added.

        Args:
          rows: the images, as an index.
          confidence: of the interval.
        """
        num_parts = int(self.part.max()) + 1
        each = 1 - (1 - confidence) / num_parts
        low, estimate, high = 0, 0.0, 0
        for number in range(num_parts):
            in_part = self.part[rows] == number
            population = int((self.in_population[rows] & in_part).sum())
            is_drawn = self.is_drawn[rows] & in_part
            broken = int((is_drawn & ~self.stands[rows]).sum())
            drawn = int(is_drawn.sum())
            limits = anytime.limits(population, drawn, broken, confidence=each)
            # What stands now is certain to be no less.
            most = int((self.stands[rows] & in_part).sum())
            rate = broken / drawn if drawn else self._rate()
            low += min(population - limits.high, most)
            high += min(population - limits.low, most)
            estimate += population * (1 - rate)
        return Standing(low, float(np.clip(estimate, low, high)), high)

    def _rate(self) -> float:
        """Returns the fraction of all drawn images that were broken."""
        return float(np.mean(~self.stands[self.is_drawn]))


class SampleRecord(NamedTuple):
    """What results.json holds of a sample.

    Attributes:
      attacks: those that were run on the sample.
      images: how many images it was drawn from.
      drawn: how many were drawn.
      broken: how many of these were broken.
      interval: of the accuracy on the test images if the attacks were run on all of them; 95 %.
    """

    attacks: tuple[str, ...]
    images: int
    drawn: int
    broken: int
    interval: tuple[float, float]

    @classmethod
    def of(
        cls, sampled: Sampled, attacks: tuple[str, ...], interval: tuple[float, float]
    ) -> "SampleRecord":
        """Returns the record of a sample."""
        images, drawn = int(sampled.in_population.sum()), int(sampled.is_drawn.sum())
        broken = int((sampled.is_drawn & ~sampled.stands).sum())
        return cls(attacks, images, drawn, broken, interval)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "SampleRecord":
        """Reads a record in the format of results.json."""
        low, high = content["interval"]
        images, drawn, broken = (int(content[name]) for name in ("images", "drawn", "broken"))
        return cls(tuple(content["attacks"]), images, drawn, broken, (float(low), float(high)))

    def to_json(self) -> dict[str, Any]:
        """Returns the record in the format of results.json."""
        return {
            **self._asdict(),
            "attacks": list(self.attacks),
            "interval": list(self.interval),
        }

    def __str__(self) -> str:
        """The record in words, for tables and pages."""
        low, high = (f"{100 * end:.2f}" for end in self.interval)
        return (
            f"{' and '.join(self.attacks)} on {self.drawn:,} of {self.images:,} images, of which"
            f" they broke {self.broken:,}: on all, robust accuracy is {low} to {high} % (95 %)"
        )
