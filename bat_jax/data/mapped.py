"""Images in a file that is mapped into memory: sets larger than the memory of the host."""

import math
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

# The number of images that are read at a time where all of them are needed once.
AT_ONCE = 1024


class Mapped:
    """Some rows of an array in a file, which are read when they are indexed.

    `images[rows]` is an array in memory, and `np.asarray(images)` all of them.
    """

    def __init__(
        self,
        images: UInt8[np.ndarray, "stored height width channels"],
        rows: Int[np.ndarray, " rows"] | None = None,
    ) -> None:
        """Takes some rows of a mapped array, by default all."""
        self._images = images
        self._rows = np.arange(len(images)) if rows is None else rows
        self.dtype = images.dtype
        self.shape = (len(self._rows), *images.shape[1:])
        self.ndim = images.ndim
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> UInt8[np.ndarray, "..."]:
        """Reads one or several rows, as of an array."""
        return np.array(self._images[self._rows[rows]])

    def __array__(
        self, dtype: Any = None, copy: bool | None = None
    ) -> UInt8[np.ndarray, "rows height width channels"]:
        """Reads all rows."""
        if copy is False:
            raise ValueError("reading rows of a file copies them")
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)

    def take(self, rows: Int[np.ndarray, " kept"]) -> "Mapped":
        """Returns some rows, without reading them."""
        return Mapped(self._images, self._rows[rows])
