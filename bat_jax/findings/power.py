"""The difference that a number of seeds and images can detect.

    d = (d_1 + ... + d_n) / n,   t = d sqrt(n) / s          paired t test over n seeds
    power(D) = P(|T| > t_{1 - level/2, n - 1}),  T ~ noncentral t with n - 1 degrees of freedom
                                                 and noncentrality D sqrt(n) / sigma

A seed's difference d_i is measured on m test images. Its variance has two parts: that of the
trainings, and a binomial one of the images on which the two models disagree, a fraction pi:

    sigma^2 = tau^2 + pi / m

References:
  Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, chapter 2.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, stats

from bat_jax.findings.contrasts import Contrast

POWER = 0.8
LEVEL = 0.05
# What the three seeds of docs/results/fashion_mnist.json show, rounded: two trainings of similar
# methods disagree on 5 to 11 % of the images, and differ by up to 1 point beyond the binomial part.
DISCORDANT = 0.09
BETWEEN_TRAININGS = 0.005
_FEWEST_SEEDS = 2
_QUANTILES = 2000


class Spread(NamedTuple):
    """The spread of a paired difference over seeds.

    Attributes:
      deviation: sigma.
      source: where it comes from, for readers.
    """

    deviation: float
    source: str


def detectable(
    deviation: float, seeds: int, *, level: float = LEVEL, power: float = POWER
) -> float | None:
    """Returns the smallest true difference that the test finds with the given probability.

    Args:
      deviation: sigma, the standard deviation of one seed's difference.
      seeds: n; with fewer than two there is no test, and None is returned.
      level: of the two-sided test.
      power: the probability.
    """
    if seeds < _FEWEST_SEEDS:
        return None
    freedom = seeds - 1
    bound = float(stats.t.ppf(1 - level / 2, freedom))
    # Quantiles of s / sigma. Given s, the test rejects where a normal number exceeds two bounds;
    # SciPy's noncentral t gives NaN for large noncentralities.
    middles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    bounds = bound * np.sqrt(stats.chi2.ppf(middles, freedom) / freedom)

    def missing(noncentrality: float) -> float:
        above = stats.norm.sf(bounds - noncentrality)
        below = stats.norm.cdf(-bounds - noncentrality)
        return float(np.mean(above + below)) - power

    found = optimize.brentq(missing, 0.0, 3 * bound + 5, xtol=1e-6)
    return float(found) * deviation / math.sqrt(seeds)


def of_difference(value: Mapping[str, Any]) -> float | None:
    """Returns the difference that a measured one's own spread and seeds detect.

    With declared looks, the test is that of the last one.

    Args:
      value: a difference over seeds with its 95 % `interval`, and `looks` if they are declared, as
        in results.json.
    """
    if "interval" not in value:
        return None
    low, high = value["interval"]
    seeds = value["n"]
    deviation = (high - low) / 2 * math.sqrt(seeds) / float(stats.t.ppf(0.975, seeds - 1))
    looks = value.get("looks")
    if looks:
        return detectable(deviation, looks[-1]["seeds"], level=LEVEL / len(looks))
    return detectable(deviation, seeds)


def assumed(images: int) -> Spread:
    """Returns the default spread of a difference on some images: tau and pi as above."""
    variance = BETWEEN_TRAININGS**2 + DISCORDANT / max(images, 1)
    text = (
        f"assumed: {100 * BETWEEN_TRAININGS:g} points between trainings, and"
        f" {100 * DISCORDANT:g} % of the images"
    )
    return Spread(math.sqrt(variance), text)


def own(contrast: Contrast) -> Spread:
    """Returns the spread of a measured contrast, of at least one image."""
    deviation = float(np.std(contrast.values, ddof=1)) if len(contrast.values) > 1 else 0.0
    return Spread(max(deviation, 1 / max(contrast.images, 1)), "measured")


def from_pilot(
    contrast: Contrast, pilot: Sequence[Contrast], *, failed: Iterable[str] = ()
) -> Spread:
    """Returns the spread that finished runs predict for a planned contrast.

    The variances of a claim's contrasts of the same kind, clean or robust, are pooled, because a
    few seeds estimate each one badly. The pooled variance is changed from the pilot's images to
    the planned ones: its binomial part pi / m is replaced, or all of it scaled if it is no larger
    than that part.

    Args:
      contrast: as planned.
      pilot: the contrasts of the finished runs.
      failed: arms with a run at chance, which are left out.
    """
    left_out = set(failed)
    kin = [
        other
        for other in pilot
        if (other.claim, other.is_clean) == (contrast.claim, contrast.is_clean)
        and len(other.values) > 1
        and not left_out & set(other.arms)
    ]
    if not kin:
        return assumed(contrast.images)
    freedom = [len(other.values) - 1 for other in kin]
    variances = [own(other).deviation ** 2 for other in kin]
    variance = float(np.average(variances, weights=freedom))
    shares = [other.discordant for other in kin if other.discordant is not None]
    discordant = float(np.mean(shares)) if shares else DISCORDANT
    before = discordant / float(np.mean([other.images for other in kin]))
    now = discordant / max(contrast.images, 1)
    variance = variance - before + now if variance > before else variance * now / before
    return Spread(math.sqrt(variance), f"pilot, {sum(freedom)} degrees of freedom")


def failed_arms(summary: Mapping[str, Any]) -> set[str]:
    """Returns the arms with a run at chance."""
    return {name.rpartition("-seed")[0] for name in summary["at_chance"]}
