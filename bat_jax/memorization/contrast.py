"""Memorization and influence of the same members on clean and on attacked images.

Both kinds of estimates come from the same subsets and trainings, so that they share noise. What is
compared here is therefore compared across halves of the ensemble, or against the same statistic of
members whose subsets are exchanged at random, which have no influence.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Shaped

from bat_jax import keys
from bat_jax.memorization.aggregates import Halves
from bat_jax.memorization.estimator import Estimator, Influence, InfluenceKind, Statistics
from bat_jax.memorization.ranking import across_halves

SIGNIFICANT = 4.0
"""Standard errors beyond which the influence of a pair is counted."""
_AT_ONCE = 128  # Members whose scores are added at a time.
DRAWS = 5
"""Random exchanges of the members' subsets."""


class Tested(NamedTuple):
    """Members and their scores on the test images.

    Attributes:
      masks: whether the member's subset has the training example.
      scores: correctness, or probabilities of the label, or margins.
      accuracy: the mean score, or for margins the fraction above 0.
    """

    masks: Bool[np.ndarray, "members train"]
    scores: Shaped[np.ndarray, "members test"]
    accuracy: Float[np.ndarray, " members"]


class Signed(NamedTuple):
    """Numbers of pairs of a training and a test example.

    Attributes:
      pairs: with an influence and a standard error above 0.
      helpful: whose influence exceeds `SIGNIFICANT` standard errors.
      harmful: whose influence is below minus `SIGNIFICANT` standard errors.
    """

    pairs: int
    helpful: int
    harmful: int


class Effect(NamedTuple):
    """An estimate and its standard error."""

    value: float
    standard_error: float


def signed(influence: Sequence[Influence]) -> Signed:
    """Counts the pairs of significant influence."""
    counts = np.zeros(3, np.int64)
    for block in influence:
        assert block.standard_error is not None
        known = block.standard_error > 0  # False where it is NaN.
        z = block.values[known] / block.standard_error[known]
        counts += len(z), np.sum(z > SIGNIFICANT), np.sum(z < -SIGNIFICANT)
    return Signed(*counts.tolist())


def by_chance(
    tested: Tested,
    labels: tuple[Shaped[np.ndarray, " train"], Shaped[np.ndarray, " test"]],
    *,
    influence: InfluenceKind,
    estimator: Estimator,
    seed: keys.Seed = 0,
) -> list[Signed]:
    """Returns `signed` of members with the subsets of others, for `DRAWS` random exchanges.

    Such members keep their scores, but no training example has influence on them.

    Args:
      tested: the members.
      labels: of the training and of the test examples.
      influence: the pairs to count: of the same class, or all.
      estimator: of influence.
      seed: of the exchanges.
    """
    found = []
    for draw in range(DRAWS):
        key = keys.derive(seed, keys.Purpose.BOOTSTRAP, draw + 1)
        order = np.asarray(jax.random.permutation(key, len(tested.masks)))
        statistics = Statistics(
            *labels,
            influence=influence,
            binary=tested.scores.dtype == np.bool_,
            estimator=estimator,
        )
        for start in range(0, len(order), _AT_ONCE):
            members = slice(start, start + _AT_ONCE)
            masks = tested.masks[order[members]]
            statistics.update(masks, np.zeros_like(masks), tested.scores[members])
        found.append(signed(statistics.estimated().influence))
    return found


def exchange(
    tested: Tested, memorization: Halves, *, threshold: float, part: float = 0.01
) -> Effect | None:
    """Returns the change of test accuracy as atypical examples replace typical ones in training.

    The slope of the members' accuracy over the number of atypical examples in their subset, whose
    size is fixed, by least squares; in units of `part` of the subset. In either half of the
    members, those examples are atypical whose memorization in the other half exceeds the threshold:
    within a half, members that happen to be bad raise the memorization of what they lack.

    Args:
      tested: all members, in their order.
      memorization: estimates from the even members, and from the odd ones.
      threshold: above it an example is atypical.
      part: the fraction of the subset to exchange.

    Returns:
      The mean of the slopes of the two halves and its standard error, or None if a half has no
      atypical example in varying numbers.
    """
    slopes = []
    for rest, other in ((0, memorization[1]), (1, memorization[0])):
        masks, accuracy = tested.masks[rest::2], tested.accuracy[rest::2]
        number = masks[:, other > threshold].sum(1).astype(np.float64)
        x, y = number - number.mean(), accuracy - accuracy.mean()
        if len(x) < 3 or not x.any():
            return None
        slope = x @ y / (x @ x)
        error = np.sqrt(np.sum((y - slope * x) ** 2) / (len(x) - 2) / (x @ x))
        slopes.append((slope, error))
    unit = part * tested.masks[0].sum()
    values, errors = np.transpose(slopes)
    return Effect(float(values.mean() * unit), float(np.hypot(*errors) / 2 * unit))


class Side(NamedTuple):
    """What the members of a run give on images of one kind, clean or attacked.

    Attributes:
      tested: the members' scores on the test images, in their order.
      halves: memorization from the even and from the odd members.
      influence: influence from all members.
    """

    tested: Tested
    halves: Halves
    influence: tuple[Influence, ...]


def summarize(
    sides: Mapping[str, Side],
    labels: tuple[Shaped[np.ndarray, " train"], Shaped[np.ndarray, " test"]],
    *,
    threshold: float,
    influence: InfluenceKind,
    estimator: Estimator,
) -> dict[str, Any]:
    """Returns the part of results.json that compares clean and attacked images.

    Args:
      sides: `clean` and `robust`.
      labels: of the training and of the test examples.
      threshold: above it an example is atypical.
      influence: the pairs that have an influence.
      estimator: of the influence.
    """
    results: dict[str, Any] = {}
    clean, robust = sides["clean"].halves, sides["robust"].halves
    known = np.isfinite(np.stack([*clean, *robust])).all(0)
    correlation, ceiling = across_halves(
        (clean[0][known], clean[1][known]), (robust[0][known], robust[1][known])
    )
    if np.isfinite([correlation.value, ceiling.value]).all():
        results["rank_correlation"] = {
            "value": correlation.value,
            "interval": list(correlation.interval),
            "ceiling": ceiling.value,
            "ceiling_interval": list(ceiling.interval),
            "n": correlation.n,
        }
    if influence != "none":
        results["influence"] = {
            name: _against_chance(
                signed(side.influence),
                by_chance(side.tested, labels, influence=influence, estimator=estimator),
            )
            for name, side in sides.items()
        }
    results["exchange"] = {
        name: effect._asdict() for name, effect in _effects(sides, threshold) if effect is not None
    }
    return results


def _effects(sides: Mapping[str, Side], threshold: float) -> Iterator[tuple[str, Effect | None]]:
    """Yields the effects of images that are atypical when clean or attacked on both accuracies."""
    for kind, of in sides.items():
        for name, side in sides.items():
            effect = exchange(side.tested, of.halves, threshold=threshold)
            yield f"{kind}_atypical_on_{name}_accuracy", effect


def _against_chance(found: Signed, draws: Sequence[Signed]) -> dict[str, Any]:
    return {
        **found._asdict(),
        "helpful_by_chance": float(np.mean([draw.helpful for draw in draws])),
        "harmful_by_chance": float(np.mean([draw.harmful for draw in draws])),
        "draws": len(draws),
    }
