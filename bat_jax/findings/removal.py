"""The training images that runs of finding (b) leave out.

Harm of a training image i on typical test images T of its class, from influence under attack:

    harm(i) = - mean over j in T of infl(i, j)

infl(i, j) is the influence of i on whether an adversarially trained model classifies the attacked
image j correctly (docs/method.md, section 1), so harm is positive where training on i makes typical
images less robust.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Int64
from ml_collections import ConfigDict

from bat_jax import keys
from bat_jax.data.dataset import Split
from bat_jax.errors import UserError
from bat_jax.memorization import Estimates

# Ids of images, in ascending order.
Ids = Int64[np.ndarray, " _"]

_WITHOUT = "pgd_at-without-"

CONTROLS = ("merely-atypical", "balanced")
"""The controls of a removal of harmful images."""


class Removal(NamedTuple):
    """Images that a run leaves out, and the equally many that its control leaves out.

    Attributes:
      part: how many, as a fraction of the atypical training images.
      kind: `atypical` or `harmful`.
      control: `random` for atypical images, one of `CONTROLS` for harmful ones.
    """

    part: float
    kind: str = "atypical"
    control: str = "random"

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Removal":
        """Reads the removal of a row of results.json."""
        return cls(row["part"], *(("harmful", row["against"]) if "against" in row else ()))

    @property
    def arms(self) -> tuple[str, str]:
        """The arm without these images, and that of the control."""
        return arm(self.kind, self.part), arm(self.control, self.part)


def removals(settings: ConfigDict) -> list[Removal]:
    """Returns the removals of `config.findings`: of atypical images, then of harmful ones."""
    return [
        *(Removal(part) for part in settings.removed),
        *(Removal(part, "harmful", control) for part in settings.harmful for control in CONTROLS),
    ]


def arm(kind: str, part: float) -> str:
    """Returns the name of the runs that leave out a part of images of a kind."""
    return f"{_WITHOUT}{round(100 * part)}%-{kind}"


def is_removal(name: str) -> bool:
    """Returns whether an arm leaves out training images."""
    return name.startswith(_WITHOUT)


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


NONE = Harm(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
"""No estimates of harm."""


def harm(estimates: Estimates, typical: Ids) -> Harm:
    """Returns the harm of every training image with an influence on a typical test image.

    Args:
      estimates: of members that were scored on adversarial images, with influence.
      typical: ids of the typical test images to average over.

    Raises:
      UserError: the members were scored on clean images, or there is no influence.
    """
    check(estimates)
    ids, values, errors = [], [], []
    for block in estimates.influence:
        columns = np.isin(estimates.test_ids[block.test], typical)
        influence = block.values[:, columns]
        same_class = (
            estimates.train_labels[block.train][:, None]
            == estimates.test_labels[block.test][columns]
        )
        known = ~np.isnan(influence) & same_class
        is_known = known.any(axis=1)
        counts = known.sum(axis=1)[is_known]
        ids.append(estimates.train_ids[block.train][is_known])
        values.append(-np.where(known, influence, 0.0).sum(axis=1)[is_known] / counts)
        error = np.full(influence.shape, np.nan)
        if block.standard_error is not None:
            error = np.where(known, block.standard_error[:, columns], 0.0)
        errors.append(error.sum(axis=1)[is_known] / counts)
    order = np.argsort(np.concatenate(ids), kind="stable")
    return Harm(*(np.concatenate(parts)[order] for parts in (ids, values, errors)))


def check(estimates: Estimates) -> None:
    """Raises a UserError unless estimates are of influence on attacked images."""
    if estimates.inputs != "adversarial" or not estimates.influence:
        raise UserError(
            f"{estimates.source}: estimates from {estimates.inputs or 'clean'} images with"
            f" {len(estimates.influence)} blocks of influence; expected influence under attack:"
            " point config.findings.robust_estimates at estimates of members that were scored on"
            " adversarial images"
        )


def removed(
    settings: ConfigDict, train: Split, atypical: Ids, found: Harm, *, seed: int
) -> Iterator[tuple[str, Ids]]:
    """Yields the arms of finding (b) and the ids that each leaves out.

    Args:
      settings: `config.findings`.
      train: the training images.
      atypical: ids of the atypical training images.
      found: the harm of training images.
      seed: the run's seed.
    """
    for part in settings.removed:
        sets = by_typicality(part, train, atypical, seed=seed, is_balanced=settings.balanced)
        yield from ((arm(kind, part), ids) for kind, ids in sets.items())
    for part in settings.harmful:
        sets = by_harm(part, train, atypical, found, seed=seed)
        yield from ((arm(kind, part), ids) for kind, ids in sets.items())


def by_typicality(
    part: float, train: Split, atypical: Ids, *, seed: int, is_balanced: bool = False
) -> dict[str, Ids]:
    """Returns the ids of random `atypical` images, and of equally many `random` ones.

    Args:
      part: the fraction of the atypical training images.
      train: the training images.
      atypical: ids of the atypical training images.
      seed: the run's seed.
      is_balanced: whether the random ones have as many images of each class as the atypical ones.
    """
    size = round(part * len(atypical))
    chosen = _shuffled(atypical, seed=seed, draw=0)[:size]
    if is_balanced:
        labels, counts = np.unique(train.labels[np.isin(train.ids, chosen)], return_counts=True)
        of_class = dict(zip(labels.tolist(), counts.tolist(), strict=True))
        control = drawn(train, np.ones(len(train), bool), of_class, seed=seed, draw=1)
    else:
        control = _shuffled(train.ids, seed=seed, draw=1)[:size]
    return {"atypical": np.sort(chosen), "random": np.sort(control)}


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
    order = _shuffled(np.arange(len(train)), seed=seed, draw=draw)
    order = order[pool[order]]
    labels = train.labels[order]
    rows = [order[labels == label][:count] for label, count in counts.items()]
    return np.sort(train.ids[np.concatenate(rows)]) if rows else np.zeros(0, np.int64)


def _shuffled(values: Int64[np.ndarray, " _"], *, seed: int, draw: int) -> Int64[np.ndarray, " _"]:
    key = keys.derive(seed, keys.Purpose.REMOVAL, draw)
    return values[np.asarray(jax.random.permutation(key, len(values)), np.int64)]
