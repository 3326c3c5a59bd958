"""Which test images belong to each class or superclass."""

import numpy as np
from jaxtyping import Int64

from bat_jax.data import Dataset, Split
from bat_jax.errors import UserError

KINDS = ("class", "superclass")


def check(dataset: Dataset, kinds: tuple[str, ...]) -> None:
    """Raises a UserError if the data set has no groups of one of the kinds."""
    if "superclass" in kinds and dataset.superclasses is None:
        raise UserError(
            f"config.evaluation.by is {tuple(kinds)}; expected class alone: {dataset.name} as it"
            " was read has no superclasses, which CIFAR-100's binary archive has"
        )


def rows_by(dataset: Dataset, split: Split, kind: str) -> dict[str, Int64[np.ndarray, " rows"]]:
    """Returns the rows of a split by the name of their class or superclass; no group is empty.

    Args:
      dataset: the data set.
      split: one of its splits, or a part of one.
      kind: `class` or `superclass`.
    """
    if kind == "class":
        names, groups = dataset.unique_names, split.labels
    else:
        assert dataset.superclasses is not None  # Checked before.
        names = dataset.superclasses.names
        groups = np.asarray(dataset.superclasses.of_class, np.int32)[split.labels]
    rows = {name: np.flatnonzero(groups == place) for place, name in enumerate(names)}
    return {name: found for name, found in rows.items() if len(found)}
