"""How often a model is right, from its margins: the same quantity with a smaller error.

A model is right on an example if its margin m = z_y - max_{k != y} z_k is above 0. Of n models, a
fraction p is right, with the error of a proportion. Their margins say more: where they are normal,

    q = P(m > 0) = Phi(zeta),  zeta = mean / sd,  Var(zeta) = 1 / n + zeta^2 / (2 (n - 1 + d0)).

Three steps make this robust for few models:

1. Variances of n - 1 degrees of freedom are moderated by a prior of d0 degrees around a quadratic
   in the mean, fitted to all examples (Smyth, Statistical Applications in Genetics and Molecular
   Biology 3:1, 2004, sections 5 and 6.2).
2. With a flat prior, zeta is N(mean / sd, Var(zeta)): q has a posterior mean and variance, in
   closed form (Owen, Annals of Mathematical Statistics 27:1075, 1956). Unlike the delta method,
   this does not claim certainty where all models happen to be right.
3. Margins are not exactly normal: q = Phi(zeta + delta), with a delta of variance tau^2 that the
   proportions p of all examples reveal. The normal fit is efficient, so that p - q_normal has the
   variance Var(p) - Var(q_normal), and the combination of least error is

       q = q_normal + w (p - q_normal),  w = bias^2 / (bias^2 + Var(p) - Var(q_normal)),

   where bias = tau phi(zeta). It tends to p as models are added.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.special import digamma, ndtr, owens_t, polygamma

LEAST = 4
"""The fewest models from whose margins a spread is estimated."""

# Three coefficients, and examples enough to see how far variances scatter around them.
_LEAST_EXAMPLES = 10


class Moments(NamedTuple):
    """The margins of some models on every example.

    Attributes:
      models: n, the number of models; NaN, as the others, below `LEAST`.
      mean: mean margin.
      variance: variance of the margins, with n - 1 degrees of freedom.
    """

    models: Float[np.ndarray, "*shape"]
    mean: Float[np.ndarray, "*out"]
    variance: Float[np.ndarray, "*out"]


def moments(
    count: Int[np.ndarray, "*shape"],
    total: Float[np.ndarray, "*out"],
    squares: Float[np.ndarray, "*out"],
) -> Moments:
    """Returns moments from the number of models and their sums.

    Args:
      count: number of models.
      total: sum of margins.
      squares: sum of squared margins.
    """
    n = np.where(count >= LEAST, count, np.nan)
    mean = total / n
    return Moments(n, mean, np.maximum(squares - n * mean**2, 0.0) / (n - 1))


def probability_correct(
    side: Moments, right: Float[np.ndarray, " examples"]
) -> tuple[Float64[np.ndarray, " examples"], Float64[np.ndarray, " examples"]]:
    """Returns q of every example and its variance, NaN where there are fewer than `LEAST` models.

    Args:
      side: the margins of the models whose subset has the example, or of those whose lacks it.
      right: number of these models whose margin is above 0.
    """
    value = right / side.models
    variance = np.zeros_like(value) * value  # Margins that are all equal leave no doubt.
    known = np.flatnonzero(side.variance > 0)
    if not len(known):
        return value, variance
    part = Moments(*(array[known] for array in side))
    n, proportion = part.models, value[known]
    spread, degrees = moderated(part)
    zeta = part.mean / np.sqrt(spread)
    error = 1 / n + zeta**2 / (2 * degrees)
    # Of q under the posterior of zeta: the mean, the mean of q (1 - q), and the variance.
    scaled, slope = zeta / np.sqrt(1 + error), 1 / np.sqrt(1 + 2 * error)
    normal, scatter = ndtr(scaled), 2 * owens_t(scaled, slope)
    of_normal = np.maximum(normal * ndtr(-scaled) - scatter, 0.0)
    saved = np.maximum(scatter / n - of_normal, 0.0)
    density = np.exp(-((slope * zeta) ** 2)) * slope / (2 * np.pi)  # The mean of phi^2.
    bias = _misfit((proportion - normal) ** 2 - saved, density, saved) * density
    weight = np.divide(bias, bias + saved, out=np.zeros_like(bias), where=bias > 0)
    value[known] = normal + weight * (proportion - normal)
    variance[known] = of_normal + weight * saved
    return value, variance


def moderated(side: Moments) -> tuple[Float64[np.ndarray, " examples"], float | np.ndarray]:
    """Returns variances moderated by those of examples with similar means, and their degrees.

    With few examples there is nothing to fit, and variances are returned as they are.

    Args:
      side: margins with variances above 0.
    """
    own = side.models - 1
    logs = np.log(side.variance) - digamma(own / 2) + np.log(own / 2)
    scale = np.std(side.mean)
    if len(own) < _LEAST_EXAMPLES or scale == 0:
        return side.variance, own
    terms = np.vander((side.mean - side.mean.mean()) / scale, 3)
    fitted = terms @ np.linalg.lstsq(terms, logs, rcond=None)[0]
    scatter = np.sum((logs - fitted) ** 2) / (len(own) - 3) - np.mean(polygamma(1, own / 2))
    # Without scatter beyond that of sampling, the prior is as certain as many models.
    prior = 2 * _inverse_trigamma(max(scatter, 1e-6))
    center = np.exp(fitted + digamma(prior / 2) - np.log(prior / 2))
    return (prior * center + own * side.variance) / (prior + own), prior + own


def difference_of_normals(
    inside: Moments, outside: Moments
) -> tuple[Float64[np.ndarray, "..."], Float64[np.ndarray, "..."]]:
    """Returns Phi(zeta) of one set of models less that of another, and its standard error.

    For influence: margins on one test example have nearly the same shape whether or not the subset
    has a training example, so that departures from the normal cancel, and proportions would only
    add noise.

    Args:
      inside: moments of the models whose subset has the training example, of any shape.
      outside: moments of the others.
    """
    values, variances = [], []
    for side in (inside, outside):
        # Where all margins are equal, their sign is the answer, without an error.
        with np.errstate(divide="ignore", invalid="ignore"):
            zeta = side.mean / np.sqrt(side.variance)
        zeta = np.where((side.mean == 0) & (side.variance == 0), -np.inf, zeta)
        squared = np.minimum(zeta**2, 1e3)
        density = np.exp(-squared) / (2 * np.pi)
        values.append(ndtr(zeta))
        variances.append(density * (1 / side.models + squared / (2 * (side.models - 1))))
    return values[0] - values[1], np.sqrt(variances[0] + variances[1])


def _misfit(
    excess: Float64[np.ndarray, " examples"],
    density: Float64[np.ndarray, " examples"],
    saved: Float64[np.ndarray, " examples"],
) -> float:
    """Returns tau^2 by the method of moments: E(excess) = tau^2 density.

    Args:
      excess: (p - q_normal)^2 less the variance that it has if margins are normal.
      density: mean of phi(zeta)^2.
      saved: Var(p) - Var(q_normal), of which the variance of the excess is about twice the square.
    """
    squared = 0.05**2
    for _ in range(10):
        weights = density / (saved + squared * density + 1e-12) ** 2
        squared = max(np.sum(weights * excess) / np.sum(weights * density), 0.0)
    return float(squared)


def _inverse_trigamma(value: float) -> float:
    """Returns x with trigamma(x) = value, by Newton's method on 1 / trigamma, which is convex."""
    x = 0.5 + 1 / value
    for _ in range(50):
        found = polygamma(1, x)
        step = found * (1 - found / value) / polygamma(2, x)
        x += step
        if abs(step) < 1e-9 * x:
            break
    return float(x)
