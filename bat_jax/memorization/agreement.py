"""Whether standard errors can be trusted: two halves of the ensemble against each other."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Agreement(NamedTuple):
    """How far two halves of an ensemble are apart in memorization.

    Attributes:
      variance: of the halves' difference over its predicted spread; 1 where the standard errors
        say how far estimates are off.
      examples: how many have a standard error above 0, which the variance is over.
    """

    variance: float
    examples: int


def of_halves(
    first: Float[np.ndarray, "train"],
    second: Float[np.ndarray, "train"],
    *,
    standard_error: Float[np.ndarray, "train"],
) -> Agreement:
    """Compares the halves of an ensemble.

    A half has twice the variance of the whole, the difference of two halves four times as much:

        z_i = (mem_1(i) - mem_2(i)) / (2 standard error(i)),  variance = mean(z^2)

    with the standard errors of the whole: those of a half are 0 too often, where a single model
    was wrong.

    Args:
      first: memorization by the one half of the models.
      second: by the other.
      standard_error: of memorization by all of them.
    """
    difference = first - second
    usable = np.isfinite(difference) & (standard_error > 0)
    z = difference[usable] / (2 * standard_error[usable])
    return Agreement(
        variance=float(np.mean(z**2)) if usable.any() else float("nan"),
        examples=int(usable.sum()),
    )
