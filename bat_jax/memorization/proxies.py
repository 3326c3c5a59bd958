"""Cheap proxies of memorization from one training run, for when an ensemble is too expensive.

An example that is hard throughout training is probably atypical. Two by-products of the trainer
(`bat_jax.memorization.history`) measure how hard it was:

    mean loss(i)  = sum of the losses of i / number of presentations of i
    forgetting(i) = number of times i was right and then wrong; infinite if it was never right

An example that is never learned is never forgotten either; it ranks above all others, as in Toneva
et al., arXiv:1812.05159. The mean ranks examples as the sum does, except for those that incomplete
batches left out of an epoch. Unlike memorization, neither proxy separates rare examples from
ambiguous ones: the correlations show how well they replace it.

The sum of the losses is the Cumulative Sample Loss of Ravikumar et al. (ICML 2025). It and two more
proxies, input curvature and loss sensitivity, are also functions of any model:
`cumulative_loss`, `curvature` and `loss_sensitivity`.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int64

from bat_jax.data.dataset import Split, positions
from bat_jax.errors import UserError
from bat_jax.memorization.estimates import Estimates
from bat_jax.memorization.history import History
from bat_jax.memorization.landscape import cumulative_loss, curvature, loss_sensitivity
from bat_jax.memorization.ranking import Measured, auroc, cosine, pearson, rank_correlation
from bat_jax.runtime.arrays import Expected, read
from bat_jax.runtime.files import write_npz
from bat_jax.runtime.storage import AnyPath, as_path

__all__ = [
    "Comparison",
    "Proxies",
    "compare",
    "compare_values",
    "cumulative_loss",
    "curvature",
    "load",
    "loss_sensitivity",
    "save",
]

FILE = "train_examples.npz"

_COLUMNS = {
    "ids": Expected("integers", ("examples",), low=0, unique=True),
    "labels": Expected("integers", ("examples",), low=0),
    "presented": Expected("integers", ("examples",), low=0),
    "loss_sum": Expected("numbers", ("examples",)),
    "forgotten": Expected("integers", ("examples",), low=0),
    "ever_correct": Expected("booleans", ("examples",)),
    "dataset": Expected("text", optional=True),
}


@dataclasses.dataclass(frozen=True)
class Proxies:
    """The proxies of one training run. NaN marks examples that were never trained on.

    Attributes:
      source: the file, for messages.
      ids: indices of the examples in the source's order.
      labels: class indices.
      mean_loss: mean loss, in nats.
      forgetting: forgetting counts, infinite for examples that were never right.
      dataset: name of the data set; None in files written before it was recorded.
    """

    source: str
    ids: Int64[np.ndarray, " examples"]
    labels: Int[np.ndarray, " examples"]
    mean_loss: Float[np.ndarray, " examples"]
    forgetting: Float[np.ndarray, " examples"]
    dataset: str | None = None


class Comparison(NamedTuple):
    """A proxy against memorization estimates, over the training examples that have both.

    Attributes:
      proxy: the proxy.
      memorization: mem(i) of the same examples.
      rank_correlation: Spearman's rank correlation of the two.
      auroc: probability that an atypical example has a higher proxy than a typical one.
      atypical: number of atypical examples.
      pearson: Pearson's correlation of the two.
      cosine: their cosine similarity.
    """

    proxy: Float[np.ndarray, " known"]
    memorization: Float[np.ndarray, " known"]
    rank_correlation: Measured
    auroc: Measured
    atypical: int
    pearson: Measured
    cosine: Measured


def save(path: AnyPath, images: Split, history: History, *, dataset: str | None = None) -> None:
    """Writes the history of a run's training images, a row for each image, without pickles.

    Args:
      path: the file.
      images: the training split.
      history: the history of its rows, as NumPy arrays.
      dataset: name of the data set; without it, readers compare labels alone.
    """
    arrays: dict[str, Any] = {
        "ids": images.ids,
        "labels": images.labels,
        "presented": history.presented,
        "loss_sum": history.loss_sum,
        "forgotten": history.forgotten,
        "ever_correct": history.ever_correct,
    }
    if dataset is not None:
        arrays["dataset"] = dataset
    write_npz(path, {name: np.asarray(array) for name, array in arrays.items()})


def load(path: str | AnyPath) -> Proxies:
    """Reads the proxies of a run from its `train_examples.npz`. Pickled arrays are refused.

    Raises:
      UserError: the file is missing or cannot be read, or an array of it is wrong.
    """
    columns = read(as_path(path), _COLUMNS, f"the training examples of a run ({FILE})")
    presented = columns["presented"]
    is_known = presented > 0
    forgetting = np.where(columns["ever_correct"], columns["forgotten"], np.inf)
    return Proxies(
        source=str(path),
        ids=columns["ids"],
        labels=columns["labels"],
        mean_loss=np.where(is_known, columns["loss_sum"] / np.maximum(presented, 1), np.nan),
        forgetting=np.where(is_known, forgetting, np.nan),
        dataset=str(columns["dataset"]) if "dataset" in columns else None,
    )


def compare(
    proxies: Proxies, estimates: Estimates, *, threshold: float = 0.15
) -> dict[str, Comparison]:
    """Returns `mean_loss` and `forgetting`, each compared with estimates of the same data set.

    Args:
      proxies: the proxies of a run.
      estimates: memorization estimates, joined by id.
      threshold: examples with memorization above it are atypical.

    Raises:
      UserError: the two are of different data sets, or the labels of an example disagree.
    """
    names = proxies.dataset, estimates.dataset
    if None not in names and names[0] != names[1]:
        raise UserError(
            f"{proxies.source}: training examples of {names[0]}, and {estimates.source} has"
            f" estimates of {names[1]}; expected both of the same data set"
        )
    rows = positions(estimates.train_ids, proxies.ids)
    disagree = np.flatnonzero((rows >= 0) & (estimates.train_labels[rows] != proxies.labels))
    if len(disagree):
        row = disagree[0]
        raise UserError(
            f"{proxies.source}: training example {proxies.ids[row]} has label"
            f" {proxies.labels[row]}, in {estimates.source}"
            f" {estimates.train_labels[rows[row]]} ({len(disagree)} disagree); expected estimates"
            " of the same data set"
        )
    memorization = np.where(rows >= 0, estimates.memorization[rows], np.nan)
    is_known = ~np.isnan(memorization) & ~np.isnan(proxies.mean_loss)
    memorization = memorization[is_known]
    found = {}
    for name, values in (("mean_loss", proxies.mean_loss), ("forgetting", proxies.forgetting)):
        found[name] = compare_values(values[is_known], memorization, threshold=threshold)
    return found


def compare_values(
    proxy: Float[np.ndarray, " examples"],
    memorization: Float[np.ndarray, " examples"],
    *,
    threshold: float = 0.15,
) -> Comparison:
    """Compares any proxy with memorization, over the examples for which neither is NaN.

    Pearson's correlation and the cosine take an infinite proxy as 1 above the largest finite one,
    and a negative infinite one as 1 below the least.

    Args:
      proxy: a value for each example, higher for examples that are more memorized.
      memorization: mem(i) of the same examples.
      threshold: examples with memorization above it are atypical.
    """
    is_known = ~np.isnan(memorization) & ~np.isnan(proxy)
    proxy, memorization = proxy[is_known], memorization[is_known]
    is_atypical = memorization > threshold
    known = proxy[np.isfinite(proxy)]
    low, high = (known.min() - 1, known.max() + 1) if len(known) else (-1.0, 1.0)
    finite = np.clip(proxy, low, high)
    return Comparison(
        proxy=proxy,
        memorization=memorization,
        rank_correlation=rank_correlation(proxy, memorization),
        auroc=auroc(proxy, is_atypical),
        atypical=int(is_atypical.sum()),
        pearson=pearson(finite, memorization),
        cosine=cosine(finite, memorization),
    )
