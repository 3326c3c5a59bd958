"""Memorization and influence estimates: the file, and the typical and atypical sets it implies.

Source: Feldman & Zhang, What Neural Networks Memorize and Why, arXiv:2008.03703. The layout is that
of the `cifar100_infl_matrix.npz` they released; keys beside theirs are read where present.
"""

import dataclasses
import hashlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from bat_jax.data.dataset import Dataset, Split
from bat_jax.errors import UserError
from bat_jax.memorization.estimator import Influence
from bat_jax.runtime.files import read_npz, write_npz
from bat_jax.runtime.storage import AnyPath, as_path

# Keys of our files beside those of the released layout, and the fields they hold.
_OUR_KEYS = {
    "tr_mem_se": "memorization_se",
    "tr_in_count": "in_count",
    "tr_out_count": "out_count",
    "dataset": "dataset",
    "statistic": "statistic",
    "training": "training",
    "inputs": "inputs",
}


@dataclasses.dataclass(frozen=True)
class Estimates:
    """Estimates for a data set.

    Attributes:
      source: the file they were read from, for messages.
      memorization: mem(i) of the training examples, NaN where nothing can be said.
      train_labels: of the training examples.
      test_labels: of the test examples.
      train_ids: the training examples' places in the source's order.
      test_ids: the test examples', likewise.
      influence: blocks of the influence matrix; none where it was not estimated.
      memorization_se: standard errors of mem(i); None in a released file, as all that follows.
      in_count: how many models had the example in their subset.
      out_count: how many had not.
      dataset: the data set's name.
      statistic: `correct` or `probability`, what the models were scored by.
      training: the method that trained them.
      inputs: `clean` or `adversarial`, what they were scored on.
    """

    source: str
    memorization: Float[np.ndarray, "train"]
    train_labels: Int[np.ndarray, "train"]
    test_labels: Int[np.ndarray, "test"]
    train_ids: Int64[np.ndarray, "train"]
    test_ids: Int64[np.ndarray, "test"]
    influence: tuple[Influence, ...]
    memorization_se: Float[np.ndarray, "train"] | None = None
    in_count: Int[np.ndarray, "train"] | None = None
    out_count: Int[np.ndarray, "train"] | None = None
    dataset: str | None = None
    statistic: str | None = None
    training: str | None = None
    inputs: str | None = None

    def digest(self) -> str:
        """Returns a hash of every number: equal if and only if the estimates are the same."""
        digest = hashlib.sha256()
        for array in (
            self.memorization,
            self.train_ids,
            self.test_ids,
            *(array for block in self.influence for array in block[:3]),
        ):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


class Typicality(NamedTuple):
    """Ids of the typical and atypical examples; an example with NaN memorization is neither.

    Attributes:
      train_typical: mem(i) <= t.
      train_atypical: mem(i) > t.
      test_typical: the other test examples; None without influence.
      test_atypical: those j for which some atypical i has infl(i, j) > t; None without influence.
    """

    train_typical: Int64[np.ndarray, "train_typical"]
    train_atypical: Int64[np.ndarray, "train_atypical"]
    test_typical: Int64[np.ndarray, "test_typical"] | None
    test_atypical: Int64[np.ndarray, "test_atypical"] | None


def load(path: str | AnyPath) -> Estimates:
    """Reads estimates, ours or in the released layout. Pickled arrays are refused.

    Raises:
      UserError: the file is missing, truncated, or not such a file.
    """
    what = "memorization estimates (memorization.npz, or the released cifar100_infl_matrix.npz)"
    return _from_arrays(str(path), read_npz(as_path(path), what))


def save(path: AnyPath, estimates: Estimates) -> None:
    """Writes estimates in the released layout, with our keys beside it.

    Influence is written a class at a time; where all pairs are known, as one matrix `infl` too.
    """
    arrays: dict[str, Any] = {
        "tr_labels": estimates.train_labels,
        "tt_labels": estimates.test_labels,
        "tr_mem": estimates.memorization,
        "tr_ids": estimates.train_ids,
        "tt_ids": estimates.test_ids,
    }
    for key, field in _OUR_KEYS.items():
        value = getattr(estimates, field)
        if value is not None:
            arrays[key] = np.asarray(value)
    for block in estimates.influence:
        if block.values.shape == (len(estimates.train_ids), len(estimates.test_ids)):
            arrays["infl"], arrays["infl_se"] = block.values, _errors(block)
        for label in np.unique(estimates.train_labels[block.train]):
            rows = np.flatnonzero(estimates.train_labels[block.train] == label)
            columns = np.flatnonzero(estimates.test_labels[block.test] == label)
            part = np.ix_(rows, columns)
            arrays[f"tr_classidx_{label}"] = block.train[rows]
            arrays[f"tt_classidx_{label}"] = block.test[columns]
            arrays[f"infl_matrix_class{label}"] = block.values[part]
            arrays[f"infl_se_class{label}"] = _errors(block)[part]
    write_npz(path, arrays)


def split(
    estimates: Estimates,
    threshold: float = 0.15,
    *,
    among: Int64[np.ndarray, "ids"] | None = None,
) -> Typicality:
    """Returns the ids of typical and atypical examples for a threshold t on both estimates.

    Args:
      estimates: of memorization, and of influence if test examples are to be told apart.
      threshold: t.
      among: ids of the training examples that can make a test example atypical, by default all
        with an estimate. A test example learns nothing from one that is not trained on.
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
    """Returns how many test examples have infl(i, j) < -t of an atypical i.

    Where no training example truly harms a test example, so many are above t by the estimates'
    noise alone: what to compare the number of atypical test examples with.
    """
    memorized = estimates.memorization > threshold
    return int(_influenced(estimates, memorized, threshold, sign=-1).sum())


def _influenced(
    estimates: Estimates, sources: Bool[np.ndarray, "train"], threshold: float, *, sign: int = 1
) -> Bool[np.ndarray, "test"]:
    """Returns for which test examples the influence of a source, times the sign, is above t."""
    found = np.zeros(len(estimates.test_ids), bool)
    for block in estimates.influence:
        found[block.test] |= np.any(
            (sign * block.values > threshold) & sources[block.train, None], axis=0
        )
    return found


def check(estimates: Estimates, dataset: Dataset) -> None:
    """Raises a UserError unless the estimates are of this data set: its name, ids and labels."""
    if estimates.dataset not in (None, dataset.name):
        raise UserError(
            f"{estimates.source}: estimates of {estimates.dataset}; expected those of"
            f" {dataset.name}: point config.memorization.estimates at them"
        )
    for part, ids, labels, images in (
        ("train", estimates.train_ids, estimates.train_labels, dataset.train),
        ("test", estimates.test_ids, estimates.test_labels, dataset.test),
    ):
        rows = find(images, ids)
        if np.any(rows < 0):
            missing = ids[rows < 0][0]
            raise UserError(
                f"{estimates.source}: {part} example {missing} is not in {dataset.name}; expected"
                " estimates of this data set: point config.memorization.estimates at them"
            )
        disagree = np.flatnonzero(images.labels[rows] != labels)
        if len(disagree):
            row = disagree[0]
            raise UserError(
                f"{estimates.source}: {part} example {ids[row]} has label {labels[row]}, in"
                f" {dataset.name} {images.labels[rows[row]]} ({len(disagree)} disagree); expected"
                " estimates in the order of this data set"
            )


def of_examples(estimates: Estimates, images: Split) -> Float[np.ndarray, "examples"]:
    """Returns mem(i) for every image of a split, joined by id; NaN where there is no estimate."""
    rows = find_ids(estimates.train_ids, images.ids)
    return np.where(rows >= 0, estimates.memorization[rows], np.nan).astype(np.float32)


def find(images: Split, ids: Int64[np.ndarray, "ids"]) -> Int64[np.ndarray, "ids"]:
    """Returns the rows of a split that hold these ids, -1 for an id it does not have."""
    return find_ids(images.ids, ids)


def find_ids(
    among: Int64[np.ndarray, "examples"], ids: Int64[np.ndarray, "ids"]
) -> Int64[np.ndarray, "ids"]:
    """Returns where these ids are among others, -1 for one that is not there."""
    order = np.argsort(among)
    place = np.searchsorted(among, ids, sorter=order)
    rows = order[np.minimum(place, len(order) - 1)]
    return np.where(among[rows] == ids, rows, -1)


def _from_arrays(source: str, arrays: dict[str, Any]) -> Estimates:
    missing = [key for key in ("tr_labels", "tt_labels", "tr_mem") if key not in arrays]
    if missing:
        raise UserError(
            f"{source}: has no {', '.join(missing)}; expected the layout of"
            " cifar100_infl_matrix.npz (tr_labels, tt_labels, tr_mem, infl_matrix_class<K>)"
        )
    train, test = len(arrays["tr_labels"]), len(arrays["tt_labels"])
    if not train or not test:
        raise UserError(f"{source}: {train} training and {test} test labels; expected some of both")
    memorization = arrays["tr_mem"]
    if memorization.shape != (train,):
        raise UserError(
            f"{source}: tr_mem has shape {memorization.shape}; expected ({train},), as tr_labels"
        )
    blocks = []
    if "infl" in arrays:
        everything = (np.arange(train), np.arange(test))
        blocks.append(_block(source, arrays, ("infl", "infl_se"), everything))
    for name in arrays:
        if name.startswith("infl_matrix_class") and "infl" not in arrays:
            number = name.removeprefix("infl_matrix_class")
            rows = _places(source, arrays, f"tr_classidx_{number}", train)
            columns = _places(source, arrays, f"tt_classidx_{number}", test)
            keys = (name, f"infl_se_class{number}")
            blocks.append(_block(source, arrays, keys, (rows, columns)))
    ours: dict[str, Any] = {
        field: str(arrays[key]) if arrays[key].ndim == 0 else arrays[key]
        for key, field in _OUR_KEYS.items()
        if key in arrays
    }
    return Estimates(
        source=source,
        memorization=memorization,
        train_labels=arrays["tr_labels"],
        test_labels=arrays["tt_labels"],
        train_ids=arrays.get("tr_ids", np.arange(train)).astype(np.int64),
        test_ids=arrays.get("tt_ids", np.arange(test)).astype(np.int64),
        influence=tuple(blocks),
        **ours,
    )


def _block(
    source: str,
    arrays: dict[str, Any],
    keys: tuple[str, str],
    places: tuple[Int64[np.ndarray, "rows"], Int64[np.ndarray, "columns"]],
) -> Influence:
    """Returns a block of influence and, where the file has them, its standard errors."""
    rows, columns = places
    for key in keys:
        if key in arrays and arrays[key].shape != (len(rows), len(columns)):
            raise UserError(
                f"{source}: {key} has shape {arrays[key].shape}; expected"
                f" ({len(rows)}, {len(columns)}), the lengths of its index sets"
            )
    return Influence(rows, columns, arrays[keys[0]], arrays.get(keys[1]))


def _errors(block: Influence) -> Float[np.ndarray, "rows columns"]:
    """Returns the standard errors of a block, NaN where they are not known."""
    if block.standard_error is None:
        return np.full(block.values.shape, np.nan, np.float32)
    return block.standard_error


def _places(source: str, arrays: dict[str, Any], name: str, size: int) -> Int64[np.ndarray, "rows"]:
    """Returns an index set of the file, its entries checked to be rows of the estimates."""
    if name not in arrays:
        raise UserError(f"{source}: has no {name}; expected one beside its influence matrix")
    places = arrays[name].astype(np.int64)
    if np.any((places < 0) | (places >= size)):
        raise UserError(f"{source}: {name} has entries out of range; expected 0 to {size - 1}")
    return places
