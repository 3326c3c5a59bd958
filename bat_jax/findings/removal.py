"""The training images that runs of finding (b) leave out.

Harm of a training image i on typical test images T of its class, from influence under attack:

    harm(i) = - mean over j in T of infl(i, j)

infl(i, j) is the influence of i on whether an adversarially trained model classifies the attacked
image j correctly (docs/method.md, section 1), so harm is positive where training on i makes typical
images less robust.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from bat_jax import keys
from bat_jax.data.dataset import Split
from bat_jax.errors import UserError
from bat_jax.memorization import Estimates

# Ids of images, in ascending order.
Ids = Int64[np.ndarray, " _"]

BY_HARM = ("harmful", "merely-atypical", "balanced")
"""The removals of `findings.harmful`: harmful images, and two controls."""


class RobustInfluence(NamedTuple):
    """Influence under attack of some training images on some test images of their class.

    Attributes:
      train_ids: ids of the training images.
      test_ids: ids of the test images.
      values: infl(i, j) of training image i on test image j; NaN where it is undefined.
      standard_error: of the values, None if unknown.
    """

    train_ids: Int64[np.ndarray, " train"]
    test_ids: Int64[np.ndarray, " test"]
    values: Float[np.ndarray, "test train"]
    standard_error: Float[np.ndarray, "test train"] | None = None


class Harm(NamedTuple):
    """The harm of training images on typical test images of their class.

    Attributes:
      ids: of the training images.
      values: harm(i).
      standard_error: an upper bound: the mean of the influences' errors, as if they all erred in
        the same direction; NaN where they are unknown.
    """

    ids: Int64[np.ndarray, " ids"]
    values: Float[np.ndarray, " ids"]
    standard_error: Float[np.ndarray, " ids"]

    def certain(self) -> int:
        """Returns how many images are harmful by more than 1.96 standard errors."""
        return int(np.sum(self.values > 1.96 * self.standard_error))


_NOTHING = np.zeros(0)
NONE = Harm(np.zeros(0, np.int64), _NOTHING, _NOTHING)
"""No estimates of harm."""


def robust_influence(estimates: Estimates) -> list[RobustInfluence]:
    """Returns the influence under attack of an estimates file.

    Raises:
      UserError: its members were scored on clean images, or it has no influence.
    """
    if estimates.inputs != "adversarial" or not estimates.influence:
        raise UserError(
            f"{estimates.source}: estimates from {estimates.inputs or 'clean'} images with"
            f" {len(estimates.influence)} blocks of influence; expected influence under attack:"
            " point config.findings.robust_estimates at estimates of members that were scored on"
            " adversarial images"
        )
    return [
        RobustInfluence(
            estimates.train_ids[block.train],
            estimates.test_ids[block.test],
            block.values.T,
            None if block.standard_error is None else block.standard_error.T,
        )
        for block in estimates.influence
    ]


def harm(blocks: Sequence[RobustInfluence], typical: Ids) -> Harm:
    """Returns the harm of every training image with an influence on a typical test image.

    Args:
      blocks: influences, each training image in one block.
      typical: ids of the typical test images to average over.
    """
    ids, values, errors = [], [], []
    for block in blocks:
        rows = np.isin(block.test_ids, typical)
        influence = block.values[rows]
        known = ~np.isnan(influence)
        is_known = known.any(axis=0)
        counts = known.sum(axis=0)[is_known]
        ids.append(block.train_ids[is_known])
        values.append(-np.nansum(influence, axis=0)[is_known] / counts)
        error = np.full(influence.shape, np.nan)
        if block.standard_error is not None:
            error = np.where(known, block.standard_error[rows], 0.0)
        errors.append(error.sum(axis=0)[is_known] / counts)
    order = np.argsort(np.concatenate(ids), kind="stable")
    return Harm(*(np.concatenate(parts)[order] for parts in (ids, values, errors)))


def by_harm(
    part: float,
    train: Split,
    atypical: Ids,
    found: Harm,
    *,
    seed: int,
) -> dict[str, Ids]:
    """Returns the ids of harmful images and of two controls, with equally many of every class.

    - `harmful`: of each class, the most harmful images with harm above 0, atypical or not, as many
      as `part` of its atypical images, rounded down, or all there are.
    - `merely-atypical`: random atypical images that are not among the harmful ones.
    - `balanced`: random images that are not among the harmful ones.

    Args:
      part: at most 1/2, so that enough atypical images are left.
      train: the training images.
      atypical: ids of the atypical training images.
      found: the harm of training images.
      seed: the run's seed, which draws the controls.
    """
    known = dict(zip(found.ids.tolist(), found.values.tolist(), strict=True))
    values = np.array([known.get(number, -np.inf) for number in train.ids.tolist()])
    is_atypical = np.isin(train.ids, atypical)
    rows: list[Int[np.ndarray, " _"]] = []
    for label in np.unique(train.labels):
        of_class = np.flatnonzero(train.labels == label)
        most = int(part * np.sum(is_atypical[of_class]))
        ranked = of_class[np.argsort(-values[of_class], kind="stable")][:most]
        rows.append(ranked[values[ranked] > 0])
    is_harmful = np.zeros(len(train), bool)
    is_harmful[np.concatenate(rows)] = True
    counts = {int(train.labels[of[0]]): len(of) for of in rows if len(of)}
    return {
        "harmful": np.sort(train.ids[is_harmful]),
        "merely-atypical": drawn(train, is_atypical & ~is_harmful, counts, seed=seed, draw=2),
        "balanced": drawn(train, ~is_harmful, counts, seed=seed, draw=3),
    }


def drawn(
    train: Split,
    pool: Bool[np.ndarray, " train"],
    counts: Mapping[int, int],
    *,
    seed: int,
    draw: int,
) -> Ids:
    """Returns ids drawn at random from a pool, with a given number of every class.

    Args:
      train: the training images.
      pool: which of them may be drawn.
      counts: the number by label.
      seed: of the run.
      draw: the number of this draw among those of the seed.
    """
    key = keys.derive(seed, keys.Purpose.REMOVAL, draw)
    order = np.asarray(jax.random.permutation(key, len(train)), np.int64)
    order = order[pool[order]]
    labels = train.labels[order]
    rows = [order[labels == label][:count] for label, count in counts.items()]
    return np.sort(train.ids[np.concatenate(rows)]) if rows else np.zeros(0, np.int64)
