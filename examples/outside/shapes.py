"""A data set from outside the package: arrays, here of noisy bars in 8x8 pixels."""

from pathlib import Path

import numpy as np

from bat_jax.data import Dataset, from_arrays

_NAMES = ("rising", "falling", "cross", "plus")


def _draw(generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    labels = generator.integers(0, len(_NAMES), count)
    images = generator.integers(0, 80, (count, 8, 8, 1))
    places = np.arange(8)
    for image, label in zip(images, labels, strict=True):
        rising, falling = label in (0, 2), label in (1, 2)
        if rising:
            image[places, 7 - places] += 160
        if falling:
            image[places, places] += 160
        if label == 3:
            image[4] += 160
            image[:, 4] += 160
    return np.clip(images, 0, 255).astype(np.uint8), labels


def load(path: Path | None = None) -> Dataset:
    """Returns 800 training and 200 test images; `config.data.name` names this function.

    Args:
      path: `config.data.path`, which is not used.
    """
    del path
    generator = np.random.default_rng(0)
    train, test = _draw(generator, 800), _draw(generator, 200)
    return from_arrays(*train, *test, class_names=_NAMES, name="shapes")
