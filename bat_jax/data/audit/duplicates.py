"""Finds images that are equal, or nearly so, in time for whole data sets.

Two images x and y are near duplicates if they share all but a small part of their contrast:

    difference(x, y) = rms(x' - y') / max(rms(x'), rms(y')) <= tolerance

x' is x minus the mean of each of its channels; rms is the root of the mean square over all pixels
and channels. A shift of brightness or of a colour changes nothing; noise, compression and small
edits change little.

The search misses no pair. It sorts images by contrast rms(x'), because the triangle inequality
bounds the contrasts of a pair, (1 - tolerance) rms(x') <= rms(y') for the larger rms(x'). Among
these it compares small gray thumbnails by matrix products: means over channels and blocks of pixels
never increase the rms of x' - y' (Jensen's inequality), so thumbnails that differ by more than the
tolerance exclude a pair. What remains is compared at full size.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

_SIDE = 8  # Of a thumbnail, in blocks.
_ROWS, _COLUMNS = 1024, 8192  # Thumbnails compared at once.
_PIXELS = 1 << 24  # Values compared at full size at once.
# Rounding of float32 products of thumbnails, relative to the squared contrast.
_SLACK = 1e-5


class Pairs(NamedTuple):
    """Near duplicates that are not equal, the most alike first.

    Attributes:
      rows: the two rows of each pair, the smaller first.
      difference: the difference of each pair, from 0 to the tolerance.
    """

    rows: Int64[np.ndarray, "pairs 2"]
    difference: Float64[np.ndarray, " pairs"]


def equal(
    images: UInt8[np.ndarray, "images height width channels"],
) -> list[Int64[np.ndarray, " rows"]]:
    """Returns the rows of each group of two or more equal images, by the first row.

    Images are equal if their SHA-256 digests are.
    """
    groups: dict[bytes, list[int]] = {}
    for row, image in enumerate(images):
        digest = hashlib.sha256(np.ascontiguousarray(image).data).digest()
        groups.setdefault(digest, []).append(row)
    return [np.asarray(rows, np.int64) for rows in groups.values() if len(rows) > 1]


def contrast(
    images: UInt8[np.ndarray, "images height width channels"],
) -> Float64[np.ndarray, " images"]:
    """Returns the rms of every image about the means of its channels, in gray levels."""
    found = np.empty(len(images))
    for rows in _slices(len(images), images[0].size):
        found[rows] = np.sqrt(images[rows].var(axis=(1, 2), dtype=np.float64).mean(axis=1))
    return found


def near(images: UInt8[np.ndarray, "images height width channels"], *, tolerance: float) -> Pairs:
    """Returns the pairs of near duplicates that are not equal; constant images have none.

    Args:
      images: any number.
      tolerance: the largest difference, between 0 and 1.
    """
    contrasts = contrast(images)
    order = np.argsort(contrasts, kind="stable")
    order = order[contrasts[order] > 0]
    sorted_contrasts = contrasts[order]
    thumbnails = _thumbnails(images)[order]
    rows, differences = [np.empty((0, 2), np.int64)], [np.empty(0)]
    for pairs in _candidates(thumbnails, sorted_contrasts, tolerance):
        for part in _slices(len(pairs), images[0].size):
            first, second = order[pairs[part, 0]], order[pairs[part, 1]]
            change = _centred(images[first]) - _centred(images[second])
            apart = np.sqrt(np.mean(np.square(change, dtype=np.float64), axis=(1, 2, 3)))
            # The second has the larger contrast.
            difference = apart / contrasts[second]
            is_equal = np.all(images[first] == images[second], axis=(1, 2, 3))
            is_near = (difference <= tolerance) & ~is_equal
            rows.append(np.sort(np.stack([first, second], axis=1)[is_near], axis=1))
            differences.append(difference[is_near])
    pairs, difference = np.concatenate(rows), np.concatenate(differences)
    by_difference = np.lexsort((pairs[:, 1], pairs[:, 0], difference))
    return Pairs(pairs[by_difference], difference[by_difference])


def _candidates(
    thumbnails: Float32[np.ndarray, "images blocks"],
    contrasts: Float64[np.ndarray, " images"],
    tolerance: float,
) -> Iterator[Int64[np.ndarray, "pairs 2"]]:
    """Yields the pairs whose thumbnails differ by no more than the tolerance allows.

    The thumbnails and their contrasts come sorted by contrast.
    """
    squares = np.sum(thumbnails**2, axis=1)
    limits = ((tolerance**2 + _SLACK) * contrasts**2).astype(np.float32)
    for start in range(0, len(thumbnails), _ROWS):
        end = min(start + _ROWS, len(thumbnails))
        # The largest contrast of a partner; a tolerance of 1 sets no limit.
        largest = contrasts[end - 1] / max(1 - tolerance, 1e-9)
        last = int(np.searchsorted(contrasts, largest * (1 + 1e-9), side="right"))
        for left in range(start, last, _COLUMNS):
            right = min(left + _COLUMNS, last)
            products = thumbnails[start:end] @ thumbnails[left:right].T
            apart = squares[start:end, None] + squares[None, left:right] - 2 * products
            first, second = np.nonzero(apart <= limits[None, left:right])
            first, second = first + start, second + left
            yield np.stack([first, second], axis=1)[first < second]


def _thumbnails(
    images: UInt8[np.ndarray, "images height width channels"],
) -> Float32[np.ndarray, "images blocks"]:
    """Returns gray thumbnails minus their mean, scaled so that their norm is an rms.

    Blocks are weighted by their area, so that the norm never exceeds the image's contrast.
    """
    height, width = images.shape[1:3]
    tops = np.unique(np.linspace(0, height, min(_SIDE, height), endpoint=False).astype(int))
    lefts = np.unique(np.linspace(0, width, min(_SIDE, width), endpoint=False).astype(int))
    areas = np.outer(np.diff([*tops, height]), np.diff([*lefts, width]))
    found = np.empty((len(images), areas.size), np.float32)
    for rows in _slices(len(images), images[0].size):
        gray = images[rows].mean(axis=3, dtype=np.float64)
        gray -= gray.mean(axis=(1, 2), keepdims=True)
        sums = np.add.reduceat(np.add.reduceat(gray, tops, axis=1), lefts, axis=2)
        found[rows] = (sums / np.sqrt(areas * height * width)).reshape(len(sums), -1)
    return found


def _centred(
    images: UInt8[np.ndarray, "images height width channels"],
) -> Float32[np.ndarray, "images height width channels"]:
    return images - images.mean(axis=(1, 2), keepdims=True, dtype=np.float32)


def _slices(count: int, size: int) -> Iterator[slice]:
    """Yields slices of rows that hold about `_PIXELS` values together."""
    step = max(1, _PIXELS // size)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
