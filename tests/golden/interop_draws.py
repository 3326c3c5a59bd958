"""Weights and images that PyTorch and the tests draw alike, so that no file needs to hold them."""

import zlib

import numpy as np


def image_batch(side: int, channels: int) -> np.ndarray:
    """Returns three [0, 1] images of different contrast, NHWC."""
    contrast = np.float32([1.0, 0.5, 0.1]).reshape(3, 1, 1, 1)
    return _uniform("images", (3, side, side, channels), 0, 1) * contrast


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a tensor of a PyTorch network, a function of its name and shape.

    Weights are small enough for logits of a few units at any depth; batch statistics are far from 0
    and 1.
    """
    *_, last = name.split(".")
    if last == "num_batches_tracked":
        return np.zeros((), np.int64)
    if last == "weight" and len(shape) > 1:
        bound = (3 / np.prod(shape[1:])) ** 0.5
        return _uniform(name, shape, -bound, bound)
    if last in ("weight", "running_var"):
        return _uniform(name, shape, 0.5, 1.5)
    return _uniform(name, shape, -0.3, 0.3)


def _uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    # RandomState's streams are frozen; default_rng's may change with NumPy.
    draw = np.random.RandomState(zlib.crc32(name.encode()))
    return draw.uniform(low, high, shape).astype(np.float32)
