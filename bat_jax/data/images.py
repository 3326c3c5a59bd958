"""Decodes images (JPEG, PNG, ...) into one uint8 array."""

import contextlib
import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import psutil
from jaxtyping import UInt8

from bat_jax.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow opens more formats: some (EPS) run programs, some (PPM) are silently cut to 8 bits.
_FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
# Pillow's modes with 8 bits per channel and no transparency, and their numbers of channels.
_CHANNELS = {"1": 1, "L": 1, "P": 3, "RGB": 3}
# The maximum bytes of an image, both as a file and as pixels: far more than classifiers use.
LIMIT = 64 << 20


def decode(
    names: Sequence[str],
    read: Callable[[str], bytes],
    *,
    where: str,
    remedy: str,
    shape: tuple[int, int, int] | None = None,
) -> UInt8[np.ndarray, "images height width channels"]:
    """Decodes images of one size, in threads: Pillow releases Python's lock while decoding.

    Args:
      names: the files of the images, at least one.
      read: returns the content of a file.
      where: the folder or archive, for messages.
      remedy: what a user should do about a damaged image.
      shape: height, width and channels of the result, 1 for gray or 3 for RGB. None takes the size
        of the first image, and RGB if any image is in colour.

    Returns:
      The images in the order of `names`. In RGB results, gray images are repeated.
    """
    with _quiet_pillow(), ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:

        def opened(name: str) -> "Image":
            return _open(read(name), f"{where}: {name}", remedy)

        if shape is None:
            width, height = opened(names[0]).size
            channels = max(pool.map(lambda name: _CHANNELS[opened(name).mode], names))
            shape = (height, width, channels)
            if math.prod(shape) > LIMIT:
                raise UserError(
                    f"{where}: the first image is {width} wide and {height} high,"
                    f" {math.prod(shape):,} bytes of pixels; expected at most {LIMIT:,}; resize the"
                    " images"
                )
        check_memory(len(names), shape, where=where)
        images = np.empty((len(names), *shape), np.uint8)

        def fill(row: int) -> None:
            images[row] = _pixels(opened(names[row]), f"{where}: {names[row]}", shape, remedy)

        for _ in pool.map(fill, range(len(names))):  # Raises the first error.
            pass
    return images


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Silences Pillow's warnings, which concern metadata or repeat exceptions."""
    logger = logging.getLogger("PIL")
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(before)


def check_memory(count: int, shape: tuple[int, int, int], *, where: str) -> None:
    """Raises if `count` images of (height, width, channels) bytes do not fit in free memory."""
    needed, free = count * math.prod(shape), psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"{where}: {count} images, {shape[1]} wide and {shape[0]} high, need"
            f" {needed / 2**30:.1f} GiB, and this machine has {free / 2**30:.1f} GiB free;"
            " expected a set that fits in memory; use fewer or smaller images"
        )


def _open(content: bytes, where: str, remedy: str) -> "Image":
    from PIL import Image  # Readers of raw arrays do not need it.

    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{where}: has more than {LIMIT:,} bytes of pixels; expected at most that many;"
            " resize or remove it"
        ) from error
    except Exception as error:  # Damaged headers raise errors of many types.
        raise UserError(
            f"{where}: is not an image that can be read; expected one of {', '.join(_FORMATS)};"
            f" {remedy}"
        ) from error
    # Pillow silently reduces 16-bit colours to 8; only the decoder's mode reveals it.
    if image.mode not in _CHANNELS or ";16" in str(image.tile):
        raise UserError(
            f"{where}: has pixels of mode {image.mode}"
            f"{' with 16 bits' if ';16' in str(image.tile) else ''}; expected gray or RGB of 8 bits"
            " without transparency; convert it"
        )
    # Palettes, and PNGs of the other modes, may declare transparent colours separately.
    if "transparency" in image.info:
        raise UserError(
            f"{where}: has transparent colours; expected gray or RGB of 8 bits without"
            " transparency; convert it"
        )
    # Cameras store a JPEG with its preview as MPO, whose first frame is the photograph.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise UserError(
            f"{where}: has several frames or pages; expected one image a file; split or remove it"
        )
    return image


def _pixels(
    image: "Image", where: str, shape: tuple[int, int, int], remedy: str
) -> UInt8[np.ndarray, "height width channels"]:
    height, width, channels = shape
    if image.size != (width, height):  # Known before decoding.
        raise UserError(
            f"{where}: is {image.size[0]} wide and {image.size[1]} high; expected {width} and"
            f" {height}, one size for all images; resize or remove it"
        )
    try:
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except Exception as error:  # Damaged pixels raise errors of many types.
        reason = " ".join(str(error).split())
        raise UserError(
            f"{where}: is a damaged image ({reason}); expected a whole one; {remedy}"
        ) from error
    return pixels.reshape(shape)
