"""A designed search: two levels of up to eleven options of BAT in 24 variants.

The variants are the twelve rows of Plackett & Burman's design and their mirror images (fold-over).
Every option has its second level in half of the variants, and every pair of options in all four
combinations equally often. The fold-over keeps main effects free of interactions of two options.
With x = -1, 1 for the two levels, the scores of variant v and seed s follow

    score_vs = seed_s + sum_f x_vf effect_f / 2 + error_vs,

so effect_f = mean score at the second level - mean score at the first, over 12 n runs each for n
seeds. Its standard error is 2 sigma / sqrt(24 n), with sigma^2 the residual variance on
24 n - n - F degrees of freedom for F options: interactions count as error, which widens intervals.

References:
  Plackett & Burman, The Design of Optimum Multifactorial Experiments, Biometrika 33, 1946.
  Box, Hunter & Hunter, Statistics for Experimenters, 2005, chapters 6 and 7.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

_GENERATOR = (1, 1, -1, 1, 1, 1, -1, -1, -1, 1, -1)
MOST_FACTORS = len(_GENERATOR)

Factors = Mapping[str, Sequence[Any]]
"""The two levels of each option; the first one is the default."""


class Effect(NamedTuple):
    """The effect of the second level of an option.

    Attributes:
      factor: the option.
      mean: mean score at the second level minus that at the first.
      interval: its 95 % interval.
    """

    factor: str
    mean: float
    interval: tuple[float, float]


def matrix() -> Int[np.ndarray, "24 11"]:
    """Returns the levels, -1 or 1, by variant and column; the first row is all -1."""
    cyclic = [np.roll(_GENERATOR, shift) for shift in range(MOST_FACTORS)]
    half = np.stack([-np.ones(MOST_FACTORS, int), *cyclic])
    return np.concatenate([half, -half])


def variants(factors: Factors) -> dict[str, dict[str, Any]]:
    """Returns the options of the 24 variants by name; none without factors."""
    if not factors:
        return {}
    return {
        f"design-{number:02}": {
            name: levels[int(level > 0)]
            for (name, levels), level in zip(factors.items(), row, strict=False)
        }
        for number, row in enumerate(matrix(), 1)
    }


def effects(scores: Float[np.ndarray, "24 seeds"], factors: Factors) -> list[Effect]:
    """Returns the effect of each option.

    Args:
      scores: by variant and seed.
      factors: the options.
    """
    columns, seeds = matrix()[:, : len(factors)], scores.shape[1]
    centered = scores - scores.mean(axis=0)
    halves = columns.T @ centered / scores.size
    means = 2 * halves.sum(axis=1)
    residual = centered - (columns @ halves.sum(axis=1))[:, None]
    freedom = scores.size - seeds - len(factors)
    error = 2 * np.sqrt(np.sum(residual**2) / freedom / scores.size)
    reach = float(stats.t.ppf(0.975, freedom) * error)
    return [
        Effect(name, float(mean), (float(mean) - reach, float(mean) + reach))
        for name, mean in zip(factors, means, strict=True)
    ]


def winner(found: Sequence[Effect], factors: Factors) -> dict[str, Any]:
    """Returns the options that the search chooses.

    An option takes its second level if the whole interval of its effect on the score lies above 0,
    and keeps its first one otherwise.
    """
    return {effect.factor: factors[effect.factor][int(effect.interval[0] > 0)] for effect in found}
