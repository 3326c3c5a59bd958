"""A designed search: two levels of up to eleven options of BAT in 24 variants.

The variants are the twelve rows of Plackett & Burman's design and their mirror images (fold-over).
Every option has its second level in half of the variants, and every pair of options in all four
combinations equally often. The fold-over keeps main effects free of interactions of two options.
With x = -1, 1 for the two levels, the values of variant v and seed s follow

    value_vs = seed_s + sum_f x_vf effect_f / 2 + error_vs,

so effect_f = mean value at the second level - mean value at the first, over 12 n runs each for n
seeds. Its standard error is 2 sigma / sqrt(24 n), with sigma^2 the residual variance on
24 n - n - F degrees of freedom for F options: interactions count as error, which widens intervals.
The values are places (`places`), so that a variant that does not train counts as the last and no
more.

References:
  Plackett & Burman, The Design of Optimum Multifactorial Experiments, Biometrika 33, 1946.
  Box, Hunter & Hunter, Statistics for Experimenters, 2005, chapters 6 and 7.
  Conover & Iman, Rank Transformations as a Bridge Between Parametric and Nonparametric Statistics,
  The American Statistician 35, 1981.
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
      mean: mean value at the second level minus that at the first.
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


def places(scores: Float[np.ndarray, "24 seeds"]) -> Float[np.ndarray, "24 seeds"]:
    """Returns the place of each variant among those of its seed, 1 for the lowest score.

    Equal scores share the mean of their places.
    """
    # Rounding makes equal sums of accuracies equal.
    return stats.rankdata(np.round(scores, 9), axis=0)


def effects(values: Float[np.ndarray, "24 seeds"], factors: Factors) -> list[Effect]:
    """Returns the effect of each option.

    Args:
      values: places, by variant and seed.
      factors: the options.
    """
    columns, seeds = matrix()[:, : len(factors)], values.shape[1]
    centered = values - values.mean(axis=0)
    halves = columns.T @ centered / values.size
    means = 2 * halves.sum(axis=1)
    residual = centered - (columns @ halves.sum(axis=1))[:, None]
    freedom = values.size - seeds - len(factors)
    error = 2 * np.sqrt(np.sum(residual**2) / freedom / values.size)
    reach = float(stats.t.ppf(0.975, freedom) * error)
    return [
        Effect(name, float(mean), (float(mean) - reach, float(mean) + reach))
        for name, mean in zip(factors, means, strict=True)
    ]


def medians(scores: Float[np.ndarray, "24 seeds"], factors: Factors) -> dict[str, float]:
    """Returns the median score at the second level of each option minus that at the first."""
    second = matrix()[:, : len(factors)].T > 0
    return {
        name: float(np.median(scores[chosen]) - np.median(scores[~chosen]))
        for name, chosen in zip(factors, second, strict=True)
    }


def winner(found: Sequence[Effect], factors: Factors) -> dict[str, Any]:
    """Returns the options that the search chooses.

    An option takes its second level if the whole interval of its effect on the place lies above 0,
    and keeps its first one otherwise.
    """
    return {effect.factor: factors[effect.factor][int(effect.interval[0] > 0)] for effect in found}
