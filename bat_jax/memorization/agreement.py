"""Whether standard errors can be trusted: two halves of the ensemble against each other."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Agreement(NamedTuple):
    """How far apart the memorization estimates of two halves of an ensemble are.

    Attributes:
      variance: variance of the halves' difference divided by its predicted spread; 1 if the
        standard errors are right.
      examples: number of examples with a standard error above 0, over which the variance is taken.
    """

    variance: float
    examples: int


def of_halves(
    first: Float[np.ndarray, " train"],
    second: Float[np.ndarray, " train"],
    *,
    standard_error: Float[np.ndarray, " train"],
) -> Agreement:
    """Compares the two halves of an ensemble, for estimates that are differences of means.

    A half has twice the variance of the whole, and the difference of two halves four times as much:

        z_i = (mem_1(i) - mem_2(i)) / (2 standard error(i)),  variance = mean(z^2)

    The standard errors are those of the whole: those of a half are too often 0, where a single
    model was wrong.

    Args:
      first: memorization estimated from one half of the models.
      second: memorization estimated from the other half.
      standard_error: standard errors of memorization estimated from all models.
    """
    difference = first - second
    usable = np.isfinite(difference) & (standard_error > 0)
    z = difference[usable] / (2 * standard_error[usable])
    return Agreement(
        variance=float(np.mean(z**2)) if usable.any() else float("nan"),
        examples=int(usable.sum()),
    )
