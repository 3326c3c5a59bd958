"""Memorization data that others released for CIFAR-100.

Examples are in the order of the original archives, which differs from that of TFDS.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int64

from bat_jax.data.dataset import Split
from bat_jax.errors import UserError
from bat_jax.runtime.arrays import Expected, read
from bat_jax.runtime.storage import AnyPath, as_path

__all__ = [
    "CScores",
    "Pairs",
    "check_cscores",
    "load_cscores",
    "load_pairs",
]

_PAIRS = {
    "tr_idx": Expected("integers", ("pairs",), low=0),
    "tt_idx": Expected("integers", ("pairs",), low=0),
    "infl": Expected("numbers", ("pairs",)),
    "mem": Expected("numbers", ("pairs",)),
}
_CSCORES = {
    "labels": Expected("integers", ("train",), low=0),
    "scores": Expected("numbers", ("train",), low=0, high=1),
}


class Pairs(NamedTuple):
    """Pairs of a memorized training example and a test example that it influences.

    Source: `cifar100_high_infl_pairs_infl0.15_mem0.25.npz` of Feldman & Zhang, arXiv:2008.03703.

    Attributes:
      train: indices of the training examples in the original order.
      test: indices of the test examples in the original order.
      influence: infl(i, j), above 0.15.
      memorization: mem(i), 0.25 or more.
    """

    train: Int64[np.ndarray, " pairs"]
    test: Int64[np.ndarray, " pairs"]
    influence: Float[np.ndarray, " pairs"]
    memorization: Float[np.ndarray, " pairs"]


class CScores(NamedTuple):
    """Consistency scores: high for regular examples, so that 1 - score ranks like memorization.

    Source: `cifar100-cscores-orig-order.npz` of Jiang et al., Characterizing Structural
    Regularities of Labeled Data in Overparameterized Models, arXiv:2002.03206.

    Attributes:
      labels: labels of the training examples, in the original order.
      scores: scores from 0 to 1.
    """

    labels: Int[np.ndarray, " train"]
    scores: Float[np.ndarray, " train"]


def load_pairs(path: str | AnyPath) -> Pairs:
    """Reads high-influence pairs.

    Raises:
      UserError: the file is missing or cannot be read, or an array of it is wrong.
    """
    columns = read(as_path(path), _PAIRS, "high-influence pairs")
    return Pairs(*(columns[name] for name in _PAIRS))


def load_cscores(path: str | AnyPath) -> CScores:
    """Reads C-scores.

    Raises:
      UserError: the file is missing or cannot be read, or an array of it is wrong.
    """
    columns = read(as_path(path), _CSCORES, "C-scores")
    return CScores(*(columns[name] for name in _CSCORES))


def check_cscores(scores: CScores, images: Split) -> None:
    """Raises a UserError unless the labels of the scores match those of the training images."""
    if np.any((images.ids < 0) | (images.ids >= len(scores.labels))):
        raise UserError(f"C-scores: {len(scores.labels)} examples; expected one for every image")
    disagree = np.flatnonzero(scores.labels[images.ids] != images.labels)
    if len(disagree):
        row = disagree[0]
        theirs = scores.labels[images.ids[row]]
        raise UserError(
            f"C-scores: example {images.ids[row]} has label {theirs}, in the data"
            f" {images.labels[row]} ({len(disagree)} disagree); expected the original order"
        )
