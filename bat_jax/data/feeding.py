"""Images for the steps: resident on the devices, or a batch at a time from the host."""

import collections
import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int32, UInt8

from bat_jax import parallel
from bat_jax.data.device import DeviceSplit, StreamedSplit, TrainData
from bat_jax.data.mapped import Mapped

# How many batches are on their way while a step computes.
_AHEAD = 2


class Feed(Protocol):
    """Gives the data of each step.

    Attributes:
      labels: of all examples.
    """

    labels: Int32[Array, " examples"]

    def batches(
        self, order: Int32[Array | np.ndarray, "steps batch"], first: int
    ) -> Iterator[TrainData]:
        """Yields the data of the steps of an epoch.

        Args:
          order: rows of the epoch's batches.
          first: the step of the epoch to begin with.
        """


class Resident:
    """Gives all images to every step."""

    def __init__(self, data: DeviceSplit):
        """Takes the images on the devices."""
        self._data = data
        self.labels = data.labels

    def batches(
        self, order: Int32[Array | np.ndarray, "steps batch"], first: int
    ) -> Iterator[TrainData]:
        """Yields the same arrays for every step."""
        return itertools.repeat(self._data, len(order) - first)


class Streamed:
    """Gives each step its batch, gathered on the host and copied while earlier steps compute.

    Every process reads the images of its own devices only.
    """

    def __init__(
        self,
        images: UInt8[np.ndarray, "examples height width channels"] | Mapped,
        rest: DeviceSplit,
        mesh: Mesh,
    ):
        """Prepares a feed.

        Args:
          images: on the host, in RAM or mapped from a file.
          rest: labels, ids and memorization on the devices, with no images.
          mesh: the devices.
        """
        self._images, self._rest = images, rest
        self.labels = rest.labels
        self._sharding = NamedSharding(mesh, parallel.SHARED)

    def batches(
        self, order: Int32[Array | np.ndarray, "steps batch"], first: int
    ) -> Iterator[TrainData]:
        """Yields the batches of the steps, with two more on their way."""
        rows = np.asarray(order)
        waiting: collections.deque[Future[Array]] = collections.deque()
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
            for step in range(first, len(rows) + _AHEAD):
                if step < len(rows):
                    waiting.append(pool.submit(self._copied, rows[step]))
                if step - first >= _AHEAD and waiting:
                    _, *others = self._rest
                    yield StreamedSplit(waiting.popleft().result(), *others)

    def _copied(self, rows: Int32[np.ndarray, " batch"]) -> Array:
        """Returns the images of rows, each device's share on that device."""
        shape = (len(rows), *self._images.shape[1:])

        def share(index: Any) -> UInt8[np.ndarray, "share height width channels"]:
            return self._images[rows[index[0]]]

        return jax.make_array_from_callback(shape, self._sharding, share)
