"""The typical and atypical examples that a threshold on the estimates implies."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from bat_jax.memorization.estimates import Estimates


class Typicality(NamedTuple):
    """Ids of the typical and atypical examples; an example with NaN memorization is neither.

    Attributes:
      train_typical: mem(i) <= t.
      train_atypical: mem(i) > t.
      test_typical: the other test examples; None without influence.
      test_atypical: those j for which some atypical i has infl(i, j) > t; None without influence.
    """

    train_typical: Int64[np.ndarray, " train_typical"]
    train_atypical: Int64[np.ndarray, " train_atypical"]
    test_typical: Int64[np.ndarray, " test_typical"] | None
    test_atypical: Int64[np.ndarray, " test_atypical"] | None


def split(
    estimates: Estimates,
    threshold: float = 0.15,
    *,
    among: Int64[np.ndarray, " ids"] | None = None,
) -> Typicality:
    """Returns the ids of typical and atypical examples for a threshold t on both estimates.

    Args:
      estimates: memorization, and influence if the test examples are to be split too.
      threshold: t.
      among: ids of the training examples that can make a test example atypical, by default all
        with an estimate. Examples that are not trained on have no influence.
    """
    memorized = estimates.memorization > threshold
    is_known = ~np.isnan(estimates.memorization)
    test_typical = test_atypical = None
    if estimates.influence:
        sources = memorized
        if among is not None:
            sources = memorized & np.isin(estimates.train_ids, among)
        influenced = _influenced(estimates, sources, threshold)
        test_typical = estimates.test_ids[~influenced]
        test_atypical = estimates.test_ids[influenced]
    return Typicality(
        train_typical=estimates.train_ids[~memorized & is_known],
        train_atypical=estimates.train_ids[memorized],
        test_typical=test_typical,
        test_atypical=test_atypical,
    )


def helped_by_chance(estimates: Estimates, threshold: float = 0.15) -> int:
    """Returns how many test examples have infl(i, j) < -t for an atypical i.

    If no training example truly harms a test example and noise is symmetric, it puts as many above
    t. It is skewed: with more models that have i than lack it, noise puts more above t where most
    models are right, and fewer where most are wrong. The number of atypical test examples means
    little unless it is much larger.
    """
    memorized = estimates.memorization > threshold
    return int(_influenced(estimates, memorized, threshold, sign=-1).sum())


def _influenced(
    estimates: Estimates, sources: Bool[np.ndarray, " train"], threshold: float, *, sign: int = 1
) -> Bool[np.ndarray, " test"]:
    """Returns which test examples have sign * infl(i, j) > t for a source i."""
    found = np.zeros(len(estimates.test_ids), bool)
    for block in estimates.influence:
        found[block.test] |= np.any(
            (sign * block.values > threshold) & sources[block.train, None], axis=0
        )
    return found
