"""Decodes images (JPEG, PNG, ...) into one uint8 array."""

import contextlib
import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import UInt8

from bat_jax.errors import UserError, in_short
from bat_jax.runtime import memory

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow opens more formats: some (EPS) run programs, some (PPM) are silently cut to 8 bits.
_FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
# Pillow's modes with 8 bits per channel and no transparency, and their numbers of channels.
_CHANNELS = {"1": 1, "L": 1, "P": 3, "RGB": 3}
# Photographs that are resized may also be made for print, as 22 of ImageNet are.
_CHANNELS_RESIZED = {**_CHANNELS, "CMYK": 3}
# The number of images that are decoded between two reads of the list.
_QUEUED = 4096
# The maximum bytes of an image, as a file and as pixels of the result: far more than classifiers
# use.
LIMIT = 64 << 20

Allocate: TypeAlias = Callable[[int, tuple[int, int, int]], np.ndarray]
"""Returns an array for a number of images of (height, width, channels)."""


def in_memory(where: str) -> Allocate:
    """Returns a function that allocates images in memory, if they fit.

    Args:
      where: the folder or archive, for messages.
    """

    def allocate(
        count: int, shape: tuple[int, int, int]
    ) -> UInt8[np.ndarray, "images height width channels"]:
        check_memory(count, shape, where=where)
        return np.empty((count, *shape), np.uint8)

    return allocate


def decode(
    names: Sequence[str],
    read: Callable[[str], bytes],
    *,
    where: str,
    remedy: str,
    shape: tuple[int, int, int] | None = None,
    side: int | None = None,
    allocate: Allocate | None = None,
) -> UInt8[np.ndarray, "images height width channels"]:
    """Decodes images of one size, in threads: Pillow releases Python's lock while decoding.

    With a `side`, images may have any sizes: the central square of each, as large as fits, is
    resized to it bilinearly, with weights as wide as the pixels of the result.

    Args:
      names: the files of the images, at least one.
      read: returns the content of a file.
      where: the folder or archive, for messages.
      remedy: what a user should do about a damaged image.
      shape: height, width and channels of the result, 1 for gray or 3 for RGB. None takes the size
        of the first image, and RGB if any image is in colour.
      side: height and width of the result in pixels, in place of those of `shape`.
      allocate: returns the array of the result; by default one in memory.

    Returns:
      The images in the order of `names`. In RGB results, gray images are repeated.
    """
    with _quiet_pillow(), ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        modes = _CHANNELS if side is None else _CHANNELS_RESIZED

        def opened(name: str) -> "Image":
            return _open(read(name), f"{where}: {name}", remedy, modes)

        if shape is None:
            width, height = opened(names[0]).size if side is None else (side, side)
            shape = (height, width, _channels(pool, names, lambda name: modes[opened(name).mode]))
            if math.prod(shape) > LIMIT:
                raise UserError(
                    f"{where}: the first image is {width} wide and {height} high,"
                    f" {math.prod(shape):,} bytes of pixels; expected at most {LIMIT:,}; resize the"
                    " images"
                )
        images = (allocate or in_memory(where))(len(names), shape)

        def fill(row: int) -> None:
            at = f"{where}: {names[row]}"
            images[row] = _pixels(opened(names[row]), at, shape, remedy, is_resized=bool(side))

        for start in range(0, len(names), _QUEUED):
            for _ in pool.map(fill, range(start, min(start + _QUEUED, len(names)))):
                pass  # Raises the first error.
    return images


def _channels(
    pool: ThreadPoolExecutor, names: Sequence[str], channels_of: Callable[[str], int]
) -> int:
    """Returns 3 if any image is in colour, else 1."""
    for start in range(0, len(names), _QUEUED):
        if max(pool.map(channels_of, names[start : start + _QUEUED])) == 3:
            return 3
    return 1


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
    needed, free = count * math.prod(shape), memory.available()
    if needed > free:
        raise UserError(
            f"{where}: {count} images, {shape[1]} wide and {shape[0]} high, need"
            f" {needed / 2**30:.1f} GiB, and this machine has {free / 2**30:.1f} GiB free;"
            " expected a set that fits in memory; use fewer or smaller images"
        )


def _open(content: bytes, where: str, remedy: str, modes: Mapping[str, int]) -> "Image":
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
    if image.mode not in modes or ";16" in str(image.tile):
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
    image: "Image",
    where: str,
    shape: tuple[int, int, int],
    remedy: str,
    *,
    is_resized: bool = False,
) -> UInt8[np.ndarray, "height width channels"]:
    height, width, channels = shape
    if not is_resized and image.size != (width, height):  # Known before decoding.
        raise UserError(
            f"{where}: is {image.size[0]} wide and {image.size[1]} high; expected {width} and"
            f" {height}, one size for all images; resize or remove it"
        )
    try:
        converted = image.convert("L" if channels == 1 else "RGB")
        if is_resized:
            converted = _resized(converted, height)
        pixels = np.asarray(converted)
    except Exception as error:  # Damaged pixels raise errors of many types.
        raise UserError(
            f"{where}: is a damaged image ({in_short(error)}); expected a whole one; {remedy}"
        ) from error
    return pixels.reshape(shape)


def _resized(image: "Image", side: int) -> "Image":
    """Returns the central square of an image, resized bilinearly."""
    from PIL.Image import Resampling

    width, height = image.size
    length = min(width, height)
    left, top = (width - length) // 2, (height - length) // 2
    square = image.crop((left, top, left + length, top + length))
    return square.resize((side, side), Resampling.BILINEAR)
