"""Handwritten digits that ship with scikit-learn: real data with nothing to download."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from bat_jax.data.dataset import Dataset, Split
from bat_jax.errors import UserError


def read(path: Path | None) -> Dataset:
    """Reads the 1,797 gray 8x8 images of `sklearn.datasets.load_digits`.

    They are the test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak,
    UCI, https://doi.org/10.24432/C50P49). An id is a position in scikit-learn's order. There is no
    official split: every fourth image (id % 4 == 3), 449 in all, is a test image, and the other
    1,348 are training images. Pixel values of 0 to 16 are scaled to 0 to 255 and rounded.

    Args:
      path: must be None.
    """
    if path is not None:
        raise UserError(f"digits: got path {path}; expected none: the data ship with scikit-learn")
    source = _source()
    images = np.round(source.images[..., np.newaxis] * (255 / 16)).astype(np.uint8)
    whole = Split(images, source.target.astype(np.int32), np.arange(len(images), dtype=np.int64))
    test = whole.ids % 4 == 3
    return Dataset(
        "digits",
        train=whole.take(np.flatnonzero(~test)),
        test=whole.take(np.flatnonzero(test)),
        class_names=tuple(str(name) for name in source.target_names),
    )


@functools.cache
def _source() -> Any:
    """Returns what scikit-learn parses from a compressed table."""
    from sklearn.datasets import load_digits  # Imported here, as it takes a second.

    return load_digits()
