"""Memorization and influence estimates: the file, and the typical and atypical sets it implies.

Source: Feldman & Zhang, What Neural Networks Memorize and Why, arXiv:2008.03703. Files have the
layout of the `cifar100_infl_matrix.npz` that they released, with optional keys of our own.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from bat_jax.data.dataset import Dataset, Split
from bat_jax.errors import UserError
from bat_jax.fields import shown
from bat_jax.memorization.estimator import Influence
from bat_jax.runtime.arrays import Archive, Expected, opened
from bat_jax.runtime.files import write_npz
from bat_jax.runtime.storage import AnyPath, as_path

_MATRIX = "infl_matrix_class"
_WHAT = "memorization estimates (memorization.npz, or the released cifar100_infl_matrix.npz)"
_ARRAYS = {
    "tr_labels": Expected("integers", ("train",), low=0),
    "tt_labels": Expected("integers", ("test",), low=0),
    "tr_mem": Expected("numbers", ("train",), nan=True),
    "tr_ids": Expected("integers", ("train",), low=0, unique=True, optional=True),
    "tt_ids": Expected("integers", ("test",), low=0, unique=True, optional=True),
}
# Our own keys: the field of `Estimates` that each becomes, and what it holds.
_OURS = {
    "tr_mem_se": (
        "memorization_se",
        Expected("numbers", ("train",), low=0, nan=True, optional=True),
    ),
    "tr_in_count": ("in_count", Expected("integers", ("train",), low=0, optional=True)),
    "tr_out_count": ("out_count", Expected("integers", ("train",), low=0, optional=True)),
    "dataset": ("dataset", Expected("text", optional=True)),
    "statistic": ("statistic", Expected("text", optional=True)),
    "estimator": ("estimator", Expected("text", optional=True)),
    "training": ("training", Expected("text", optional=True)),
    "inputs": ("inputs", Expected("text", optional=True)),
    "classes": (
        "classes",
        Expected("integers", ("classes",), low=0, unique=True, optional=True),
    ),
}


@dataclasses.dataclass(frozen=True)
class Estimates:
    """Estimates for a data set. The released file lacks all fields after `influence`.

    Attributes:
      source: the file that they were read from, for messages.
      memorization: mem(i) of the training examples, NaN where it is undefined.
      train_labels: labels of the training examples.
      test_labels: labels of the test examples.
      train_ids: indices of the training examples in the source's order.
      test_ids: indices of the test examples in the source's order.
      influence: blocks of the influence matrix; empty if it was not estimated.
      memorization_se: standard errors of mem(i).
      in_count: number of models whose subset has the example.
      out_count: number of models whose subset lacks the example.
      dataset: name of the data set.
      statistic: the score of the models, `correct` or `probability`.
      training: the method that trained the models.
      inputs: the images that the models were scored on, `clean` or `adversarial`.
      estimator: `margin`; None for the difference of mean scores.
      classes: if the models knew some classes of a set alone, the label there of each label here.
    """

    source: str
    memorization: Float[np.ndarray, " train"]
    train_labels: Int[np.ndarray, " train"]
    test_labels: Int[np.ndarray, " test"]
    train_ids: Int64[np.ndarray, " train"]
    test_ids: Int64[np.ndarray, " test"]
    influence: tuple[Influence, ...]
    memorization_se: Float[np.ndarray, " train"] | None = None
    in_count: Int[np.ndarray, " train"] | None = None
    out_count: Int[np.ndarray, " train"] | None = None
    dataset: str | None = None
    statistic: str | None = None
    training: str | None = None
    inputs: str | None = None
    estimator: str | None = None
    classes: tuple[int, ...] | None = None

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

    train_typical: Int64[np.ndarray, " train_typical"]
    train_atypical: Int64[np.ndarray, " train_atypical"]
    test_typical: Int64[np.ndarray, " test_typical"] | None
    test_atypical: Int64[np.ndarray, " test_atypical"] | None


def load(path: str | AnyPath) -> Estimates:
    """Reads estimates, ours or in the released layout. Pickled arrays are refused.

    Raises:
      UserError: the file is missing or cannot be read, or an array of it is wrong.
    """
    source = str(path)
    with opened(as_path(path), _WHAT) as archive:
        arrays = archive.read(_ARRAYS)
        train, test = len(arrays["tr_labels"]), len(arrays["tt_labels"])
        if not train or not test:
            raise UserError(
                f"{source}: {train} training and {test} test labels; expected some of both"
            )
        ours = archive.read({key: expected for key, (_, expected) in _OURS.items()})
        influence = tuple(_blocks(archive, train=train, test=test))
    fields: dict[str, Any] = {
        _OURS[key][0]: str(value) if _OURS[key][1].kind == "text" else value
        for key, value in ours.items()
    }
    if "classes" in fields:
        fields["classes"] = tuple(fields["classes"].tolist())
    return Estimates(
        source=source,
        memorization=arrays["tr_mem"],
        train_labels=arrays["tr_labels"],
        test_labels=arrays["tt_labels"],
        train_ids=arrays.get("tr_ids", np.arange(train)),
        test_ids=arrays.get("tt_ids", np.arange(test)),
        influence=influence,
        **fields,
    )


def save(path: AnyPath, estimates: Estimates) -> None:
    """Writes estimates in the released layout, with our own keys.

    Influence is written class by class and, if all pairs are known, also as one matrix `infl`.
    """
    arrays: dict[str, Any] = {
        "tr_labels": estimates.train_labels,
        "tt_labels": estimates.test_labels,
        "tr_mem": estimates.memorization,
        "tr_ids": estimates.train_ids,
        "tt_ids": estimates.test_ids,
    }
    for key, (field, _) in _OURS.items():
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
    among: Int64[np.ndarray, " ids"] | None = None,
) -> Typicality:
    """Returns the ids of typical and atypical examples for a threshold t on both estimates.

    Args:
      estimates: memorization, and influence if the test examples are to be split too.
      threshold: t.
      among: ids of the training examples that can make a test example atypical, by default all
        with an estimate. Examples that are not trained on have no influence.
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
    """Returns how many test examples have infl(i, j) < -t for an atypical i.

    If no training example truly harms a test example, noise alone puts the same number above t.
    The number of atypical test examples means little unless it is much larger.
    """
    memorized = estimates.memorization > threshold
    return int(_influenced(estimates, memorized, threshold, sign=-1).sum())


def _influenced(
    estimates: Estimates, sources: Bool[np.ndarray, " train"], threshold: float, *, sign: int = 1
) -> Bool[np.ndarray, " test"]:
    """Returns which test examples have sign * infl(i, j) > t for a source i."""
    found = np.zeros(len(estimates.test_ids), bool)
    for block in estimates.influence:
        found[block.test] |= np.any(
            (sign * block.values > threshold) & sources[block.train, None], axis=0
        )
    return found


def select(estimates: Estimates, classes: Sequence[int]) -> Estimates:
    """Returns the estimates of some classes, with labels renumbered in the order given.

    The values stay those of models of the set's every class. Estimates of models that knew exactly
    these classes are returned unchanged.

    Raises:
      UserError: the models knew other classes alone.
    """
    if estimates.classes is not None:
        if estimates.classes == tuple(classes):
            return estimates
        raise UserError(
            f"{estimates.source}: estimates of models of the classes {shown(estimates.classes)};"
            f" expected those of all classes, or of {shown(tuple(classes))}: point"
            " config.memorization.estimates at them, or set config.data.classes"
        )
    labels = np.asarray(classes, np.int64)
    train = find_ids(labels, estimates.train_labels.astype(np.int64))
    test = find_ids(labels, estimates.test_labels.astype(np.int64))
    rows, columns = np.flatnonzero(train >= 0), np.flatnonzero(test >= 0)
    by_row = {
        name: value[rows]
        for name in ("memorization", "train_ids", "memorization_se", "in_count", "out_count")
        if (value := getattr(estimates, name)) is not None
    }
    return dataclasses.replace(
        estimates,
        **by_row,
        train_labels=train[rows],
        test_labels=test[columns],
        test_ids=estimates.test_ids[columns],
        influence=tuple(_of_rows(block, rows, columns) for block in estimates.influence),
        classes=tuple(classes),
    )


def _of_rows(
    block: Influence, rows: Int64[np.ndarray, " rows"], columns: Int64[np.ndarray, " columns"]
) -> Influence:
    """Returns a block of influence among some rows and columns, which it numbers anew."""
    train, test = find_ids(rows, block.train), find_ids(columns, block.test)
    part = np.ix_(train >= 0, test >= 0)
    errors = block.standard_error
    return Influence(
        train[train >= 0],
        test[test >= 0],
        block.values[part],
        None if errors is None else errors[part],
    )


def matched(estimates: Estimates, dataset: Dataset) -> Estimates:
    """Returns the estimates of a data set's classes, checked against it.

    Raises:
      UserError: they are those of another set, of other examples, or of other classes.
    """
    if dataset.classes is None:
        if estimates.classes is not None:
            raise UserError(
                f"{estimates.source}: estimates of models of the classes"
                f" {shown(estimates.classes)}; expected those of all classes of {dataset.name}, or"
                " config.data.classes set to these"
            )
        check(estimates, dataset)
        return estimates
    chosen = select(estimates, dataset.classes)
    check(chosen, dataset)
    for part, before, after, images in (
        ("train", estimates.train_ids, chosen.train_ids, dataset.train),
        ("test", estimates.test_ids, chosen.test_ids, dataset.test),
    ):
        lost = np.setdiff1d(before[np.isin(before, images.ids)], after)
        if len(lost):
            raise UserError(
                f"{estimates.source}: {part} example {lost[0]} is in none of the classes"
                f" {shown(dataset.classes)}, and in {dataset.name} it is ({len(lost)} disagree);"
                " expected estimates in the order of this data set"
            )
    return chosen


def check(estimates: Estimates, dataset: Dataset) -> None:
    """Raises a UserError unless name, ids and labels of the estimates match the data set."""
    if estimates.dataset is not None and estimates.dataset != dataset.name:
        found = " ".join(estimates.dataset.split())  # One line, whatever the file holds.
        raise UserError(
            f"{estimates.source}: estimates of {found}; expected those of"
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


def of_examples(estimates: Estimates, images: Split) -> Float[np.ndarray, " examples"]:
    """Returns mem(i) of every image of a split, joined by id; NaN where there is no estimate."""
    rows = find_ids(estimates.train_ids, images.ids)
    return np.where(rows >= 0, estimates.memorization[rows], np.nan).astype(np.float32)


def find(images: Split, ids: Int64[np.ndarray, " ids"]) -> Int64[np.ndarray, " ids"]:
    """Returns the rows of these ids in a split, -1 for ids that it lacks."""
    return find_ids(images.ids, ids)


def find_ids(
    among: Int64[np.ndarray, " examples"], ids: Int64[np.ndarray, " ids"]
) -> Int64[np.ndarray, " ids"]:
    """Returns the positions of these ids among others, -1 for ids that are not there."""
    if not len(among):
        return np.full(len(ids), -1, np.int64)
    order = np.argsort(among)
    place = np.searchsorted(among, ids, sorter=order)
    rows = order[np.minimum(place, len(order) - 1)]
    return np.where(among[rows] == ids, rows, -1)


def _blocks(archive: Archive, *, train: int, test: int) -> Iterator[Influence]:
    """Yields the blocks of influence of a file: all pairs at once if it has them, or by class."""
    if "infl" in archive.names:
        yield _block(
            archive, ("infl", "infl_se"), ("train", "test"), (np.arange(train), np.arange(test))
        )
        return
    for name in archive.names:
        if name.startswith(_MATRIX):
            number = name.removeprefix(_MATRIX)
            axes = f"tr_classidx_{number}", f"tt_classidx_{number}"
            places = archive.read(
                {
                    axis: Expected("integers", (axis,), rows_of=rows_of, unique=True)
                    for axis, rows_of in zip(axes, ("train", "test"), strict=True)
                }
            )
            yield _block(
                archive, (name, f"infl_se_class{number}"), axes, (places[axes[0]], places[axes[1]])
            )


def _block(
    archive: Archive,
    keys: tuple[str, str],
    axes: tuple[str, str],
    places: tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " columns"]],
) -> Influence:
    """Returns a block of influence, with its standard errors if the file has them."""
    key, error_key = keys
    found = archive.read(
        {
            key: Expected("numbers", axes, nan=True),
            error_key: Expected("numbers", axes, low=0, nan=True, optional=True),
        }
    )
    return Influence(*places, found[key], found.get(error_key))


def _errors(block: Influence) -> Float[np.ndarray, "rows columns"]:
    """Returns the standard errors of a block, NaN if they are unknown."""
    if block.standard_error is None:
        return np.full(block.values.shape, np.nan, np.float32)
    return block.standard_error
