"""Bounds on how many of a population are broken, from a random sample that may stop at any time.

Draw without replacement, in uniformly random order, from S images of which an unknown number B is
broken; after t draws, b were. The draws up to t have the probability

    L_t(B) = (B)_b (S - B)_{t-b} / (S)_t,    (n)_k = n (n - 1) ... (n - k + 1),

and under a prior on B, a mixture of beta-binomial distributions with weights w_j, the probability

    M_t = sum_j w_j Beta(a_j + b, c_j + t - b) / Beta(a_j, c_j).

At the true B, the ratio R_t(B) = M_t / L_t(B) is a nonnegative supermartingale that begins at 1,
and a martingale as long as the next image may be broken or not. By Ville's inequality, it ever
reaches 1 / alpha with probability at most alpha. Therefore the sets {B : R_t(B) < 1 / alpha}
contain the true B at all t together with probability at least 1 - alpha, whatever stops the draws.
The prior affects their size only.

References:
  Waudby-Smith & Ramdas, Confidence sequences for sampling without replacement, arXiv:2006.04347.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betaln, gammaln

# What `log_evidence` accepts: counts that broadcast against one another.
Counts = int | np.integer | Int[np.ndarray, "..."]

# Three priors of equal weight: no image is broken; few are, Beta(1, 200); any number, Beta(1, 1).
_LOG_WEIGHT = -np.log(3.0)
_BETAS = ((1.0, 200.0), (1.0, 1.0))

# Allowance for rounding in log R_t(B), which makes intervals wider, never narrower.
_ROUNDING = 1e-6


class Limits(NamedTuple):
    """The least and the largest number of broken images that the draws are consistent with."""

    low: int
    high: int


def log_evidence(
    broken: Counts, *, population: int, drawn: Counts, found: Counts
) -> Float[np.ndarray, "..."]:
    """Returns log R_t(B), the evidence against a number of broken images.

    It is infinite for impossible numbers: below b, or above S - t + b.

    Args:
      broken: B, from 0 to `population`.
      population: S.
      drawn: t.
      found: b, how many of the drawn images were broken.
    """
    broken, drawn, found = np.broadcast_arrays(broken, drawn, found)
    stood = drawn - found
    is_possible = (broken >= found) & (population - broken >= stood)
    some = np.where(is_possible, broken, found)
    log_likelihood = (
        _log_falling(some, found)
        + _log_falling(np.where(is_possible, population - broken, stood), stood)
        - _log_falling(population, drawn)
    )
    parts = [np.where(found == 0, 0.0, -np.inf)]
    parts += [betaln(a + found, c + stood) - betaln(a, c) for a, c in _BETAS]
    log_mixture = _LOG_WEIGHT + np.logaddexp.reduce(parts)
    return np.where(is_possible, log_mixture - log_likelihood, np.inf)


def limits(population: int, drawn: int, found: int, *, confidence: float = 0.95) -> Limits:
    """Returns the interval of the numbers B that the draws so far do not exclude.

    The intervals at all t contain the true B together with probability `confidence` or more, so
    that one may look after every draw. Once all images are drawn, the interval is exact.

    Args:
      population: S.
      drawn: t.
      found: b, how many of the drawn images were broken.
      confidence: 1 - alpha.
    """
    broken = np.arange(found, population - drawn + found + 1)
    evidence = log_evidence(broken, population=population, drawn=drawn, found=found)
    # L_t is log-concave in B, so that the set is an interval. It is not empty, because M_t is a
    # mean of L_t over B.
    kept = broken[evidence < -np.log1p(-confidence) + _ROUNDING]
    return Limits(int(kept[0]), int(kept[-1]))


def intersected(earlier: Limits, latest: Limits) -> Limits:
    """Returns what two intervals have in common, which contains the true B if both do.

    Of disjoint intervals, one of which has missed, the latest is returned: it alone is certain to
    be possible.
    """
    both = Limits(max(earlier.low, latest.low), min(earlier.high, latest.high))
    return both if both.low <= both.high else latest


def _log_falling(n: Counts, k: Counts) -> Float[np.ndarray, "..."]:
    """Returns log (n)_k for 0 <= k <= n."""
    return gammaln(np.asarray(n) + 1.0) - gammaln(np.asarray(n) - np.asarray(k) + 1.0)
