"""The common representation of all data sets."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int32, Int64, Integer, UInt8

from bat_jax import keys
from bat_jax.data.mapped import AT_ONCE, Mapped
from bat_jax.errors import UserError

IDS = np.iinfo(np.int32)  # The range of ids, which devices hold as int32.


@dataclasses.dataclass(frozen=True)
class Split:
    """Images with labels and ids, in the order of the source.

    Attributes:
      images: uint8, NHWC; of a set too large for the host's memory, rows of a file.
      labels: int32 class indices.
      ids: int64; an example's position in the source, used to join external estimates. A subset of
        a split keeps the original ids.
    """

    images: UInt8[np.ndarray, "examples height width channels"] | Mapped
    labels: Int32[np.ndarray, " examples"]
    ids: Int64[np.ndarray, " examples"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Int64[np.ndarray, " rows"]) -> "Split":
        """Returns the given rows, in the given order, with their ids."""
        is_mapped = isinstance(self.images, Mapped)
        images = self.images.take(rows) if is_mapped else self.images[rows]
        return Split(images, self.labels[rows], self.ids[rows])

    def rows(self, ids: Int64[np.ndarray, " ids"]) -> Int64[np.ndarray, " ids"]:
        """Returns the rows of these ids, -1 for ids that are not there."""
        return positions(self.ids, ids)

    def digest(self) -> str:
        """Returns a content hash of the ids, labels and images."""
        digest = hashlib.sha256()
        for array in (self.ids, self.labels, self.images):
            digest.update(f"{array.dtype}{array.shape}".encode())
            for start in range(0, len(array), AT_ONCE):
                digest.update(np.ascontiguousarray(array[start : start + AT_ONCE]).data)
        return digest.hexdigest()[:16]


def positions(
    among: Int64[np.ndarray, " examples"], ids: Int64[np.ndarray, " ids"]
) -> Int64[np.ndarray, " ids"]:
    """Returns the positions of these ids among others, -1 for ids that are not there."""
    if not len(among):
        return np.full(len(ids), -1, np.int64)
    order = np.argsort(among)
    place = np.searchsorted(among, ids, sorter=order)
    rows = order[np.minimum(place, len(order) - 1)]
    return np.where(among[rows] == ids, rows, -1)


class Superclasses(NamedTuple):
    """Groups of classes, such as the 20 coarse labels of CIFAR-100.

    Attributes:
      names: the names of the superclasses.
      of_class: by label, the index in `names` of the class's superclass; -1 if it is unknown.
    """

    names: tuple[str, ...]
    of_class: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training and a test split of one image classification set.

    Attributes:
      name: the name of the set.
      train: the training images.
      test: the test images.
      class_names: the names of the classes, by label.
      classes: for some classes of a set, the label of each in the whole set; None for a whole set.
      superclasses: groups of classes, if the source has them.
      folders: the names of the classes' folders, by label, if they differ from the class names:
        WordNet ids for Tiny ImageNet; a tuple of them for a class whose images are in several.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    classes: tuple[int, ...] | None = None
    superclasses: Superclasses | None = None
    folders: tuple[str | tuple[str, ...], ...] | None = None

    def __post_init__(self) -> None:
        for part, split in (("train", self.train), ("test", self.test)):
            _check(f"{self.name} {part}", split, len(self.class_names))
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise UserError(
                f"{self.name}: training images are {self.train.images.shape[1:]} and test images"
                f" {self.test.images.shape[1:]}; expected the same (height, width, channels)"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """The number of classes, including classes without examples."""
        return len(self.class_names)

    @property
    def unique_names(self) -> tuple[str, ...]:
        """The class names; names that classes share are followed by the label."""
        names = self.class_names
        return tuple(
            f"{name} ({label})" if names.count(name) > 1 else name
            for label, name in enumerate(names)
        )


def from_arrays(
    train_images: UInt8[np.ndarray, "train height width channels"],
    train_labels: Integer[np.ndarray, " train"],
    test_images: UInt8[np.ndarray, "test height width channels"] | None = None,
    test_labels: Integer[np.ndarray, " test"] | None = None,
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
) -> Dataset:
    """Returns a data set from arrays; an image's id is its row.

    Without test images, a random part of the training images becomes the test set, whose ids are
    rows of `train_images`. Validation images are held out by `config.data.validation`.

    Args:
      train_images: NHWC, with 1 or 3 channels.
      train_labels: class indices.
      test_images: NHWC, with the same height, width and channels.
      test_labels: class indices.
      test_fraction: the part of the training images that is the test set, if none is given.
      seed: draws that part.
      class_names: the names of the classes, by label; by default the numbers up to the largest
        label, each of which must occur.
      name: the name of the set, for messages and reports.

    Raises:
      UserError: images are not uint8 or have other shapes, labels have gaps or lack a name, or test
        images lack labels.
    """
    if (test_images is None) != (test_labels is None):
        missing = "labels" if test_labels is None else "images"
        raise UserError(f"{name} test: no {missing}; expected both images and labels, or neither")
    parts = [_arrays(f"{name} train", train_images, train_labels)]
    if test_images is not None:
        parts.append(_arrays(f"{name} test", test_images, test_labels))
    if class_names is None:
        class_names = _numbers(name, np.concatenate([labels for _, labels in parts]))
    for part, (_, labels) in zip(("train", "test"), parts, strict=False):
        # Before they become int32, which would wrap others.
        _check_labels(f"{name} {part}", labels, np.arange(len(labels)), len(class_names))
    splits = [
        Split(images, labels.astype(np.int32), np.arange(len(labels), dtype=np.int64))
        for images, labels in parts
    ]
    if test_images is None:
        # Check the arrays before they are split, so that messages name the user's rows.
        _check(f"{name} train", splits[0], len(class_names))
        splits = _divided(name, splits[0], test_fraction, seed)
    train, test = splits
    return Dataset(name, train, test, tuple(class_names))


def _arrays(what: str, images: object, labels: object) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels as NumPy arrays, with labels checked to be class indices."""
    try:
        pixels, classes = np.asarray(images), np.asarray(labels)
    except ValueError as error:
        raise UserError(f"{what}: {error}; expected arrays, with images of one size") from None
    if not np.issubdtype(classes.dtype, np.integer) or classes.ndim != 1:
        raise UserError(
            f"{what}: labels are {classes.dtype} of shape {classes.shape}; expected integers of"
            f" shape ({len(pixels) if pixels.ndim else 0},), the class indices"
        )
    return pixels, classes


def _numbers(name: str, labels: Integer[np.ndarray, " labels"]) -> list[str]:
    """Returns the labels as the names of classes, if no number is missing among them."""
    found = np.unique(labels[labels >= 0])  # A negative label is named with its row elsewhere.
    absent = np.flatnonzero(found != np.arange(len(found)))
    if len(absent):
        raise UserError(
            f"{name}: no label is {absent[0]}, but some are {found[-1]}; expected every number from"
            f" 0 to the largest: renumber the {len(found)} labels"
            " (np.unique(labels, return_inverse=True)), or give class_names"
        )
    return [str(label) for label in found]


def _divided(name: str, split: Split, fraction: float, seed: int) -> list[Split]:
    """Returns training and test images, in the order of the source."""
    size = round(fraction * len(split)) if 0 < fraction < 1 else 0
    if not 0 < size < len(split):
        raise UserError(
            f"{name}: test_fraction is {fraction} of {len(split)} images; expected a part that"
            " leaves images for training and for the test"
        )
    key = keys.derive(seed, keys.Purpose.TEST_SPLIT)
    order = np.asarray(jax.random.permutation(key, len(split)), np.int64)
    return [split.take(np.sort(order[size:])), split.take(np.sort(order[:size]))]


def _check_labels(
    what: str,
    labels: Integer[np.ndarray, " examples"],
    ids: Integer[np.ndarray, " examples"],
    num_classes: int,
) -> None:
    """Raises a UserError if a label is not that of a class."""
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        row = outside[0]
        raise UserError(
            f"{what}: example {ids[row]} has label {labels[row]}; expected 0 to {num_classes - 1}"
        )


def _check(what: str, split: Split, num_classes: int) -> None:
    images, labels, ids = split.images, split.labels, split.ids
    if images.dtype != np.uint8:
        found = f"{images.dtype}"
        is_number = 0 not in images.shape and np.issubdtype(images.dtype, np.number)
        if is_number and not np.all(np.isfinite(images)):
            found += f" with {int(np.count_nonzero(~np.isfinite(images)))} values not finite"
        elif is_number:
            found += f" from {np.min(images):.4g} to {np.max(images):.4g}"
        raise UserError(
            f"{what}: images are {found}; expected uint8 values from 0 to 255: convert floats in"
            " [0, 1] by np.round(255 * images).astype(np.uint8)"
        )
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UserError(
            f"{what}: images have shape {images.shape}; expected (examples, height, width, 1 or 3)"
        )
    if not len(images) == len(labels) == len(ids):
        raise UserError(
            f"{what}: {len(images)} images, {len(labels)} labels and {len(ids)} ids; expected the"
            " same number of each"
        )
    if not len(images):
        raise UserError(f"{what}: no images; expected at least one")
    if labels.dtype != np.int32:
        raise UserError(f"{what}: labels are {labels.dtype}; expected int32")
    _check_labels(what, labels, ids, num_classes)
    check_ids(what, ids)
    if len(np.unique(ids)) != len(ids):
        raise UserError(f"{what}: some ids occur twice; expected each example once")


def check_ids(what: str, ids: Int64[np.ndarray, " examples"]) -> None:
    """Raises a UserError for the first id outside the int32 range."""
    outside = np.flatnonzero((ids < IDS.min) | (ids > IDS.max))
    if len(outside):
        raise UserError(
            f"{what}: the example in row {outside[0]} has id {ids[outside[0]]}; expected"
            f" {IDS.min} to {IDS.max}"
        )
