"""Selects the training, validation and test images of a run, and their normalisation."""

import dataclasses
import math

import jax
import numpy as np
from jaxtyping import Int64
from ml_collections import ConfigDict

from bat_jax import keys
from bat_jax.data import Dataset, Split, load, select
from bat_jax.data.mapped import AT_ONCE
from bat_jax.errors import UserError
from bat_jax.runtime.schema import read_plain
from bat_jax.runtime.storage import as_path


def data_seed(config: ConfigDict) -> int:
    """Returns the seed that selects validation, training and test images."""
    return config.seed if config.data.seed is None else config.data.seed


def selected(config: ConfigDict, given: Dataset | None) -> Dataset:
    """Returns the data set of a run, with the classes and the test set that the config selects.

    Args:
      config: the whole config; its `data.classes` becomes a tuple of labels.
      given: in place of the data set that the config names.

    Raises:
      UserError: the data cannot be read, or do not suit the config.
    """
    dataset = given or load(
        config.data.name, path=config.data.path, side=config.data.side, cache=config.data.cache
    )
    if config.data.classes is not None:
        dataset = select(dataset, config.data.classes)
        # Names and a number of classes become labels, which readers of the run need no data for.
        config.data.classes = dataset.classes
    dataset = _tested(config, dataset)
    _check_shape(config, dataset)
    return dataset


def scored(config: ConfigDict, dataset: Dataset) -> Dataset:
    """Returns the data set with the test images that members of an ensemble are scored on.

    For other jobs, the data set is returned unchanged.
    """
    if config.job != "memorization":
        return dataset
    test = some_of(dataset.test, config.memorization.test_images, config)
    return dataclasses.replace(dataset, test=test)


def excluded(config: ConfigDict, dataset: Dataset) -> Int64[np.ndarray, " ids"] | None:
    """Returns the ids in the file `config.data.exclude`, in ascending order."""
    path = config.data.exclude
    if path is None:
        return None
    what = "a file of ids, one per line"
    try:
        lines = read_plain(as_path(path), what).decode().split()
        ids = np.unique(np.asarray([int(line) for line in lines], np.int64))
    except UserError as error:
        raise UserError(f"config.data.exclude {error}") from None
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"config.data.exclude {path}: cannot be read ({error}); expected {what}"
        ) from None
    unknown = np.setdiff1d(ids, dataset.train.ids)
    if len(unknown):
        raise UserError(
            f"config.data.exclude {path}: training example {unknown[0]} is not in {dataset.name};"
            " expected ids of its training images"
        )
    return ids


def some_of(test: Split, size: int, config: ConfigDict) -> Split:
    """Returns `size` of the test images, drawn by the seed of the data, or all if it is 0."""
    if not size or size >= len(test):
        return test
    key = keys.derive(data_seed(config), keys.Purpose.SUBSET)
    rows = np.asarray(jax.random.permutation(key, len(test))[:size], np.int64)
    return test.take(np.sort(rows))


def hold_out(config: ConfigDict, dataset: Dataset) -> tuple[Split, Split]:
    """Returns random validation and training images."""
    examples, held_out, subset = len(dataset.train), config.data.validation, config.data.subset
    if held_out + max(subset, 1) > examples:
        both = f"config.data.validation is {held_out} and config.data.subset {subset}; expected"
        those = f"the {examples} training images of {dataset.name}"
        raise UserError(
            f"{both} together at most {those}"
            if subset
            else f"{both} fewer held out than {those}, so that some are left to train on"
        )
    key = keys.derive(data_seed(config), keys.Purpose.VALIDATION_SPLIT)
    order = np.asarray(jax.random.permutation(key, examples), np.int64)
    end = held_out + subset if subset else examples
    if end - held_out == examples:
        return dataset.train.take(order[:0]), dataset.train  # Without a copy.
    # Sorted back into the source's order: the draw selects rows, not their order.
    return (
        dataset.train.take(np.sort(order[:held_out])),
        dataset.train.take(np.sort(order[held_out:end])),
    )


def normalization(config: ConfigDict, images: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the config's mean and standard deviation, or those of the training images."""
    channels = images.images.shape[-1]
    given = config.model.mean, config.model.std
    # The statistics of a large set take minutes.
    found = list(_statistics(images) if None in given else given)
    for number, field in enumerate(("mean", "std")):
        value = config.model[field]
        if value is None:
            continue
        if len(value) != channels or not all(isinstance(v, int | float) for v in value):
            raise UserError(
                f"config.model.{field} is {value!r}; expected {channels} number(s), one per channel"
            )
        if field == "std" and not min(value) > 0:
            raise UserError(f"config.model.std is {value!r}; expected numbers above 0")
        found[number] = tuple(float(v) for v in value)
    return found[0], found[1]


def _tested(config: ConfigDict, dataset: Dataset) -> Dataset:
    """Returns the data set with held-out training images in place of its test images.

    Without `data.tested`, the data set is returned unchanged.
    """
    examples, count = len(dataset.train), config.data.tested
    if not count:
        return dataset
    if count >= examples:
        raise UserError(
            f"config.data.tested is {count}; expected fewer than the {examples} training images of"
            f" {dataset.name}"
        )
    key = keys.derive(data_seed(config), keys.Purpose.TEST_SPLIT, 1)
    order = np.asarray(jax.random.permutation(key, examples), np.int64)
    return dataclasses.replace(
        dataset,
        train=dataset.train.take(np.sort(order[count:])),
        test=dataset.train.take(np.sort(order[:count])),
    )


def _check_shape(config: ConfigDict, dataset: Dataset) -> None:
    """Raises a UserError if a crop could miss the image, or an attack could reach any image."""
    side = min(dataset.image_shape[:2])
    if config.data.crop_padding >= side:
        raise UserError(
            f"config.data.crop_padding is {config.data.crop_padding}; expected less than {side},"
            f" the side of the images of {dataset.name}: a crop could miss the image"
        )
    norm, values = config.attack.norm, math.prod(dataset.image_shape)
    # Of two images in [0, 1].
    largest = {"linf": 1.0, "l2": math.sqrt(values), "l1": float(values)}[norm]
    if config.attack.epsilon > largest:
        raise UserError(
            f"config.attack.epsilon is {config.attack.epsilon}; expected at most {largest:.4g} for"
            f" {norm}, the largest distance of two images of {dataset.name} in [0, 1]"
        )


def _statistics(images: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and standard deviation of every channel, in [0, 1]."""
    channels = images.images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), AT_ONCE):
        pixels = images.images[start : start + AT_ONCE].reshape(-1, channels)
        for channel in range(channels):
            counts[channel] += np.bincount(pixels[:, channel], minlength=256)
    # Computed from the histogram: exact, and without a float copy of the set.
    levels = np.arange(256) / 255
    means, stds = [], []
    for count in counts:
        weights = count / count.sum()
        mean = float(weights @ levels)
        means.append(mean)
        # A constant channel is shifted, not divided by 0.
        stds.append(float(np.sqrt(weights @ (levels - mean) ** 2)) or 1.0)
    return tuple(means), tuple(stds)
