"""Joins estimates to the examples of a data set, by id."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64

from bat_jax.data.dataset import Dataset, Split, positions
from bat_jax.errors import UserError
from bat_jax.fields import shown
from bat_jax.memorization.estimates import Estimates
from bat_jax.memorization.estimator import Influence


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
    train = positions(labels, estimates.train_labels.astype(np.int64))
    test = positions(labels, estimates.test_labels.astype(np.int64))
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
    train, test = positions(rows, block.train), positions(columns, block.test)
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
    if not len(chosen.train_ids):
        raise UserError(
            f"{estimates.source}: has no training examples of the classes"
            f" {shown(dataset.classes)}; expected estimates of these"
        )
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
        rows = images.rows(ids)
        if np.any(rows < 0):
            missing = ids[rows < 0][0]
            raise UserError(
                f"{estimates.source}: {part} example {missing} is not in {dataset.name}, or is one"
                " of the images of config.data.tested; expected estimates of this data set with the"
                " same config.data.tested: point config.memorization.estimates at them"
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
    rows = positions(estimates.train_ids, images.ids)
    return np.where(rows >= 0, estimates.memorization[rows], np.nan).astype(np.float32)
