"""Some classes of a data set, as a data set of their own."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bat_jax.data.dataset import Dataset, Split, Superclasses
from bat_jax.errors import UserError
from bat_jax.fields import shown


def select(dataset: Dataset, classes: Sequence[int | str]) -> Dataset:
    """Returns the images of some classes, with labels renumbered in the order given.

    Images keep their order and their ids, so that files by id still fit. Selecting the classes that
    a data set already consists of returns it unchanged.

    Args:
      dataset: the data set.
      classes: two or more labels or class names; one whole number k is the first k classes.

    Raises:
      UserError: a class is unknown or occurs twice, or there are fewer than two.
    """
    if dataset.classes is not None and dataset.classes == tuple(classes):
        return dataset
    labels = resolve(dataset, classes)
    source = range(dataset.num_classes) if dataset.classes is None else dataset.classes
    new = np.full(dataset.num_classes, -1, np.int32)
    new[list(labels)] = np.arange(len(labels), dtype=np.int32)

    def kept(split: Split) -> Split:
        chosen = split.take(np.flatnonzero(new[split.labels] >= 0))
        return dataclasses.replace(chosen, labels=new[chosen.labels])

    return dataclasses.replace(
        dataset,
        train=kept(dataset.train),
        test=kept(dataset.test),
        class_names=tuple(dataset.class_names[label] for label in labels),
        classes=tuple(source[label] for label in labels),
        superclasses=_superclasses(dataset, labels),
        folders=dataset.folders and tuple(dataset.folders[label] for label in labels),
    )


def _superclasses(dataset: Dataset, labels: Sequence[int]) -> Superclasses | None:
    """Returns the superclasses of some classes, without superclasses that have none of them."""
    if dataset.superclasses is None:
        return None
    names, of_class = dataset.superclasses
    groups = [of_class[label] for label in labels]
    kept = sorted(set(groups) - {-1})
    places = {-1: -1, **{group: place for place, group in enumerate(kept)}}
    return Superclasses(
        tuple(names[group] for group in kept), tuple(places[group] for group in groups)
    )


def resolve(dataset: Dataset, classes: Sequence[int | str]) -> tuple[int, ...]:
    """Returns the labels of classes given by label, by name or by their number.

    Raises:
      UserError: a class is unknown or occurs twice, or there are fewer than two.
    """
    given, known = f"config.data.classes is {shown(tuple(classes))}", dataset.num_classes
    if len(classes) == 1 and isinstance(classes[0], int | np.integer):
        if not 2 <= classes[0] <= known:
            raise UserError(
                f"{given}, the first {classes[0]} classes; expected 2 to {known}, the number of"
                f" classes of {dataset.name}"
            )
        return tuple(range(classes[0]))
    labels = []
    for entry in classes:
        if isinstance(entry, int | np.integer):
            if not 0 <= entry < known:
                raise UserError(f"{given}; expected labels of {dataset.name}, 0 to {known - 1}")
            labels.append(int(entry))
        elif entry in dataset.class_names:
            labels.append(dataset.class_names.index(entry))
        else:
            raise UserError(
                f"{given}; expected class names of {dataset.name}, such as"
                f" {shown(dataset.class_names[0])}: check the spelling of {shown(entry)}"
            )
    if len(set(labels)) < len(labels):
        raise UserError(f"{given}; expected each class of {dataset.name} once")
    if len(labels) < 2:
        raise UserError(f"{given}; expected two classes or more")
    return tuple(labels)
