"""Looks at a growing number of seeds, with as few false verdicts as a single look.

The numbers of seeds n_1 < ... < n_K of all looks are declared beforehand. Look k tests a difference
at the level alpha / K, alpha = 5 %:

    I_k = d_k +- t_{1 - alpha / (2 K), n_k - 1} s_k / sqrt(n_k)

d_k and s_k are the mean and the standard deviation of the first n_k seeds. The first I_k on one
side of 0 settles the difference; later looks change nothing. By Bonferroni's inequality,

    P(some I_k misses the true difference) <= sum_k alpha / K = alpha,

however the looks depend on one another, and exactly for as few seeds as there are.

References:
  Jennison & Turnbull, Interim Analyses: The Repeated Confidence Interval Approach, Journal of the
  Royal Statistical Society B 51, 1989.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bat_jax.evaluation.statistics import over_seeds
from bat_jax.findings.power import LEVEL


class Settled(NamedTuple):
    """What the looks so far say of a difference.

    Attributes:
      sign: 1 or -1 once it is settled above or below 0; else 0.
      seeds: of the look that settled it, or of the last look if none did; None while it is open.
      last: the seeds of the last declared look.
    """

    sign: int
    seeds: int | None
    last: int

    def __str__(self) -> str:
        """`settled at 5 seeds`, `open until 8 seeds` or `not settled by the last look, 8 seeds`."""
        if self.seeds is None:
            return f"open until {self.last} seeds"
        if self.sign:
            return f"settled at {self.seeds} seeds"
        return f"not settled by the last look, {self.last} seeds"


def level(looks: Sequence[int]) -> float:
    """Returns the level of each look's test: 5 % over the number of looks."""
    return LEVEL / max(len(looks), 1)


def over_looks(
    values: Sequence[float], *, images: int | None, looks: Sequence[int]
) -> dict[str, Any]:
    """Returns `over_seeds`, and `looks` if any are declared.

    Args:
      values: one difference per seed, in the order in which seeds were added.
      images: how many images each was measured on.
      looks: the declared numbers of seeds. Those reached so far get an `interval`.
    """
    found = over_seeds(values, images=images)
    if looks:
        confidence = 1 - level(looks)
        found["looks"] = []
        for seeds in looks:
            look: dict[str, Any] = {"seeds": seeds}
            if seeds <= len(values):
                part = over_seeds(values[:seeds], images=images, confidence=confidence)
                look["interval"] = part["interval"]
            found["looks"].append(look)
    return found


def settled(value: Mapping[str, Any]) -> Settled:
    """Returns whether the looks so far settle a difference.

    Args:
      value: from `over_looks`, with `looks`.
    """
    looks = value["looks"]
    last = looks[-1]["seeds"]
    for look in looks:
        if "interval" in look:
            low, high = look["interval"]
            if low > 0 or high < 0:
                return Settled(1 if low > 0 else -1, look["seeds"], last)
    return Settled(0, last if "interval" in looks[-1] else None, last)
