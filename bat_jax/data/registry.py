"""Loads data sets by name."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from bat_jax import outside
from bat_jax.data import (
    cifar,
    digits,
    fashion_mnist,
    image_folder,
    tfds_source,
    tiny_imagenet,
    tiny_superclasses,
)
from bat_jax.data.dataset import Dataset
from bat_jax.data.places import expanded
from bat_jax.errors import UserError

_READERS: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": digits.read,
    "fashion_mnist": fashion_mnist.read,
    "cifar10": cifar.read_cifar10,
    "cifar100": cifar.read_cifar100,
    "tiny_imagenet": tiny_imagenet.read,
    "tiny_imagenet_superclasses": tiny_superclasses.read,
}


def load(
    name: str,
    *,
    path: str | os.PathLike[str] | None = None,
    side: int | None = None,
    cache: str | None = None,
) -> Dataset:
    """Reads a data set into memory.

    Args:
      name: `digits`, `fashion_mnist`, `cifar10`, `cifar100`, `tiny_imagenet`,
        `tiny_imagenet_superclasses`, `tfds:<name>` for an image classification set of TensorFlow
        Datasets, `folder:<path>` for your own images, or `package.module:Name` for a function of
        the path that returns a `Dataset`.
      path: the archive or folder of the set; for `tfds:<name>`, TFDS's `data_dir`. None looks in
        the default places, which each reader documents, and may download.
      side: for `folder:<path>`, resizes images of any sizes: the central square of each becomes
        one of this side, in pixels.
      cache: for `folder:<path>`, the folder that keeps the decoded images for later runs; by
        default the folder of the images, and `none` keeps nothing.

    Returns:
      Training and test images (uint8, NHWC) with labels, ids and class names.

    Raises:
      UserError: the name is unknown, or the data are missing or damaged.
    """
    place = None if path is None else expanded(path)
    try:
        if place is not None and not place.exists():
            raise UserError(
                f"{name}: path {place} does not exist; expected the set's archive or folder"
            )
        return _read(name, place, side, cache)
    except OSError as error:  # Such as a folder without read permission.
        raise UserError(
            f"{name}: {error.filename or place} cannot be read ({error.strerror}); expected the"
            " set's files; check the path, its permissions and the disk"
        ) from error


def _read(name: str, place: Path | None, side: int | None, cache: str | None) -> Dataset:
    kind, _, rest = name.partition(":")
    if kind != "folder" and side is not None:
        raise UserError(
            f"config.data.side is {side}; expected None for {name}, whose images have one size:"
            " config.model.resize resizes them on the device"
        )
    if kind != "folder" and cache is not None:
        raise UserError(
            f"config.data.cache is {cache!r}; expected None for {name}, whose images are not"
            " decoded from files of their own"
        )
    if name in _READERS:
        return _READERS[name](place)
    if kind == "tfds" and rest:
        return tfds_source.read(rest, name=name, data_dir=place)
    if kind == "folder" and rest:
        if place is not None:
            raise UserError(f"{name}: got path {place} too; expected the folder in the name alone")
        return image_folder.read(expanded(rest), side=side, cache=cache)
    if outside.is_outside(name):
        return _from_outside(name, place)
    known = ", ".join([*_READERS, "tfds:<name>", "folder:<path>", "package.module:Name"])
    raise UserError(f"data set {name!r} is unknown; expected one of {known}")


def _from_outside(name: str, place: Path | None) -> Dataset:
    """Returns the data set that a user's function reads from the path, if any."""
    read = outside.load(name, "data.name")
    expected = "a function of a path, or of None"
    found = outside.call(read, name, "data.name", expected, place)
    if not isinstance(found, Dataset):
        raise UserError(
            f"config.data.name is {name!r}, which gives a {type(found).__name__}; expected a"
            " bat_jax.data.Dataset, as bat_jax.data.from_arrays makes it"
        )
    return dataclasses.replace(found, name=name)
