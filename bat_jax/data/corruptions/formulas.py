"""Corruptions of a few lines, for data sets that have no corrupted version.

Source of the formulas and constants: the code of Hendrycks & Dietterich, arXiv:1903.12261, which
made CIFAR-10-C (for sides up to 32) and Tiny-ImageNet-C (for larger ones). Random draws differ from
theirs, so that accuracies on the published files differ slightly.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int64, UInt8

from bat_jax import keys
from bat_jax.data.corruptions.files import SEVERITIES
from bat_jax.errors import UserError

Unit = Float[np.ndarray, "images height width channels"]
# A stream of draws for each image. RandomState's draws never change, so files can be made again.
Draws = Sequence[np.random.RandomState]

_SMALL_SIDE = 32
_CHUNK = 1000  # Images at a time, for their draws in memory.


class _Formula(NamedTuple):
    """A corruption.

    Attributes:
      small: the constant of every severity, for sides up to 32.
      large: the same for larger sides.
      apply: returns the corrupted images from those in [0, 1], the constant and draws.
    """

    small: tuple[float, ...]
    large: tuple[float, ...]
    apply: Callable[[Unit, float, Draws], Unit]


def corrupted(
    images: UInt8[np.ndarray, "images height width channels"],
    ids: Int64[np.ndarray, " images"],
    name: str,
    severity: int,
    *,
    seed: int,
) -> UInt8[np.ndarray, "images height width channels"]:
    """Returns corrupted images; an image's draws follow from the seed and its id.

    Args:
      images: NHWC.
      ids: the ids of the images.
      name: one of `MADE`.
      severity: from 1 to 5.
      seed: the seed of the draws.

    Raises:
      UserError: the corruption or the severity does not exist.
    """
    if name not in MADE or severity not in SEVERITIES:
        raise UserError(
            f"corruption: {name!r} of severity {severity}; expected one of {', '.join(MADE)}, of"
            f" severity {SEVERITIES[0]} to {SEVERITIES[-1]}"
        )
    formula = _FORMULAS[name]
    is_small = max(images.shape[1:3]) <= _SMALL_SIDE
    constant = (formula.small if is_small else formula.large)[severity - 1]
    step = 10 * MADE.index(name) + severity
    key = keys.derive(seed, keys.Purpose.CORRUPTION, step)
    seeds = np.asarray(jax.random.key_data(keys.per_image(key, ids.astype(np.int32))))
    parts = []
    for start in range(0, len(images), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        unit = images[chunk].astype(np.float64) / 255
        draws = [np.random.RandomState(words) for words in seeds[chunk]]
        found = formula.apply(unit, constant, draws)
        # Cut off rather than rounded, as in the published sets.
        parts.append((255 * np.clip(found, 0, 1)).astype(np.uint8))
    return np.concatenate(parts)


def _gaussian_noise(images: Unit, constant: float, draws: Draws) -> Unit:
    """Returns x + c n, n ~ N(0, 1)."""
    return images + constant * _normal(images, draws)


def _shot_noise(images: Unit, constant: float, draws: Draws) -> Unit:
    """Returns Poisson(c x) / c."""
    pairs = zip(images, draws, strict=True)
    return np.stack([draw.poisson(constant * image) for image, draw in pairs]) / constant


def _impulse_noise(images: Unit, constant: float, draws: Draws) -> Unit:
    """Returns 0 and 1 with probability c / 2 each, else x, per pixel and channel."""
    uniform = np.stack([draw.uniform(size=images.shape[1:]) for draw in draws])
    return np.where(uniform < constant / 2, 0.0, np.where(uniform > 1 - constant / 2, 1.0, images))


def _speckle_noise(images: Unit, constant: float, draws: Draws) -> Unit:
    """Returns x + c x n, n ~ N(0, 1)."""
    return images + constant * images * _normal(images, draws)


def _brightness(images: Unit, constant: float, draws: Draws) -> Unit:
    """Adds c to the value of HSV, the largest channel; keeps hue and saturation."""
    del draws
    value = images.max(axis=-1, keepdims=True)
    brighter = np.minimum(value + constant, 1)
    # Black has no saturation: all channels become the new value.
    return np.where(value > 0, images * (brighter / np.where(value > 0, value, 1)), brighter)


def _contrast(images: Unit, constant: float, draws: Draws) -> Unit:
    """Returns m + c (x - m), with the mean m of each channel."""
    del draws
    mean = images.mean(axis=(1, 2), keepdims=True)
    return mean + constant * (images - mean)


def _pixelate(images: Unit, constant: float, draws: Draws) -> Unit:
    """Resizes to int(c side) pixels and back, by the mean over boxes."""
    del draws
    from PIL import Image

    height, width = images.shape[1:3]

    def pixelated(image: Image.Image) -> Image.Image:
        small = image.resize((int(constant * width), int(constant * height)), Image.Resampling.BOX)
        return small.resize((width, height), Image.Resampling.BOX)

    return _by_pillow(images, pixelated)


def _jpeg_compression(images: Unit, constant: float, draws: Draws) -> Unit:
    """Compresses as JPEG of quality c."""
    del draws
    from PIL import Image

    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(constant))
        return Image.open(file)

    return _by_pillow(images, compressed)


def _by_pillow(images: Unit, change: Callable[..., object]) -> Unit:
    """Returns the images changed one by one, as 8-bit gray or RGB images of Pillow."""
    from PIL import Image

    is_gray = images.shape[-1] == 1
    levels = np.rint(255 * images).astype(np.uint8)
    changed = [
        np.asarray(change(Image.fromarray(one[..., 0] if is_gray else one))) for one in levels
    ]
    # Halfway between two levels, so that truncation restores the level.
    return (np.stack(changed).reshape(images.shape) + 0.5) / 255


def _normal(images: Unit, draws: Draws) -> Unit:
    return np.stack([draw.normal(size=images.shape[1:]) for draw in draws])


_FORMULAS: Mapping[str, _Formula] = MappingProxyType(
    {
        "gaussian_noise": _Formula(
            (0.04, 0.06, 0.08, 0.09, 0.1), (0.04, 0.08, 0.12, 0.15, 0.18), _gaussian_noise
        ),
        "shot_noise": _Formula((500, 250, 100, 75, 50), (250, 100, 50, 30, 15), _shot_noise),
        "impulse_noise": _Formula(
            (0.01, 0.02, 0.03, 0.05, 0.07), (0.01, 0.02, 0.05, 0.08, 0.14), _impulse_noise
        ),
        "brightness": _Formula((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5), _brightness),
        "contrast": _Formula((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05), _contrast),
        "pixelate": _Formula((0.95, 0.9, 0.85, 0.75, 0.65), (0.9, 0.8, 0.7, 0.6, 0.5), _pixelate),
        "jpeg_compression": _Formula((80, 65, 58, 50, 40), (65, 58, 50, 40, 25), _jpeg_compression),
        "speckle_noise": _Formula(
            (0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.25, 0.3, 0.35), _speckle_noise
        ),
    }
)
MADE = tuple(_FORMULAS)
"""The corruptions that `corrupted` makes."""
