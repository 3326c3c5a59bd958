"""Intervals and paired tests over images and over seeds."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from scipy import stats


class McNemar(NamedTuple):
    """A comparison of two models' verdicts on the same images.

    Attributes:
      only_first: how many images only the first model classifies correctly.
      only_second: how many images only the second model classifies correctly.
      p_value: of the exact two-sided test that both are equally likely.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Bool[np.ndarray, " images"], second: Bool[np.ndarray, " images"]) -> McNemar:
    """Returns McNemar's exact test of two models' verdicts on the same images.

    The test compares two trained models on images from one distribution. It does not account for
    the randomness of their training.

    References:
      McNemar, Note on the sampling error of the difference between correlated proportions or
      percentages, Psychometrika 12, 1947.
    """
    only_first = int(np.sum(first & ~second))
    only_second = int(np.sum(~first & second))
    discordant = only_first + only_second
    p_value = stats.binomtest(only_first, discordant).pvalue if discordant else 1.0
    return McNemar(only_first, only_second, float(p_value))


def over_seeds(
    values: Sequence[float], *, images: int | None = None, confidence: float = 0.95
) -> dict[str, Any]:
    """Returns the mean over seeds and its interval by Student's t, by default of 95 %.

    A single seed has no interval, because the variance over seeds is unknown. Accuracies of a few
    seeds may coincide by chance, so their standard deviation is taken to be at least one image.

    Args:
      values: one per seed; for a paired test, the difference of two runs with the same seed.
      images: how many images each value was measured on.
      confidence: of the interval.
    """
    mean, n = float(np.mean(values)), len(values)
    found: dict[str, Any] = {"mean": mean, "n": n, "values": [float(value) for value in values]}
    if n > 1:
        deviation = max(float(np.std(values, ddof=1)), 1 / images if images else 0.0)
        error = deviation / float(np.sqrt(n))
        reach = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
        found["interval"] = [mean - reach, mean + reach]
        # Equal values: the sign is certain, or there is no difference.
        if error > 0:
            found["p_value"] = float(2 * stats.t.sf(abs(mean) / error, n - 1))
        else:
            found["p_value"] = 1.0 if mean == 0 else 0.0
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p values adjusted for having been looked at together (Holm's step-down method).

    References:
      Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
      Statistics 6, 1979.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
