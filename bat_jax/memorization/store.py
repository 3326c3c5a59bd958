"""The members trained so far, a file a round; a round is there whole or not at all."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from bat_jax.errors import UserError
from bat_jax.runtime import distributed, files
from bat_jax.runtime.storage import AnyPath

# Probabilities are kept as multiples of 2^-15: then their sums, and those of their squares, are
# exact, and the estimates do not depend on how members were grouped into rounds.
_UNIT = 2.0**-15


class Scores(NamedTuple):
    """What some members were trained on, and how they did.

    Attributes:
      members: their numbers.
      masks: whether the member had the example in its subset.
      train: whether it is right on each training example, or the probability of its label.
      test: likewise on each test example.
    """

    members: Int[np.ndarray, "members"]
    masks: Bool[np.ndarray, "members train"]
    train: Shaped[np.ndarray, "members train"]
    test: Shaped[np.ndarray, "members test"]


class Store:
    """The scores of members, by number."""

    def __init__(self, folder: AnyPath, *, train: int, test: int):
        """Opens the folder, or makes it.

        Args:
          folder: where the files are.
          train: how many training examples were scored.
          test: how many test examples.

        Raises:
          UserError: a file of it cannot be read.
        """
        self._folder, self._train, self._test = folder, train, test
        folder.mkdir(exist_ok=True)
        if distributed.is_main():
            files.remove_partial(folder)
        self._file_of: dict[int, AnyPath] = {}
        for path in sorted(folder.glob("*.npz")):
            self._file_of |= dict.fromkeys(self._read(path).members.tolist(), path)

    def missing(self, members: int) -> Int[np.ndarray, "missing"]:
        """Returns which of the first so many members are not there yet."""
        numbers = range(members)
        return np.array([m for m in numbers if m not in self._file_of], np.int64)

    def append(self, scores: Scores) -> None:
        """Adds a round."""
        path = self._folder / f"{scores.members[0]:06d}-{scores.members[-1]:06d}.npz"
        arrays = {
            "members": scores.members,
            "masks": np.packbits(scores.masks, axis=1),
            "train": _packed(scores.train),
            "test": _packed(scores.test),
        }
        files.write_npz(path, arrays)
        self._file_of |= dict.fromkeys(scores.members.tolist(), path)

    def read(self, members: int) -> Iterator[Scores]:
        """Yields the scores of the first so many members, file by file."""
        for path in sorted(set(self._file_of.values())):
            scores = self._read(path)
            rows = scores.members < members
            if rows.any():
                yield Scores(*(values[rows] for values in scores))

    def _read(self, path: AnyPath) -> Scores:
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                members = file["members"]
                shape = (len(members), self._train)
                masks = _bits(file["masks"], self._train)
                train = _unpacked(file["train"], self._train)
                test = _unpacked(file["test"], self._test)
            if masks.shape != shape or train.shape != shape or len(test) != len(members):
                raise ValueError("arrays of other shapes")
            return Scores(members, masks, train, test)
        # A damaged file makes zipfile, zlib or NumPy raise, of no common class.
        except Exception as error:
            raise UserError(
                f"{path}: cannot be read ({error}); expected the scores of members: remove it, and"
                " they are trained again"
            ) from None


def _packed(scores: Shaped[np.ndarray, "members examples"]) -> Shaped[np.ndarray, "members places"]:
    if scores.dtype == np.bool_:
        return np.packbits(scores, axis=1)
    return np.round(scores / _UNIT).astype(np.uint16)


def _unpacked(
    stored: Shaped[np.ndarray, "members places"], examples: int
) -> Shaped[np.ndarray, "members examples"]:
    if stored.dtype == np.uint8:
        return _bits(stored, examples)
    return (stored * _UNIT)[:, :examples]


def _bits(
    stored: Shaped[np.ndarray, "members places"], examples: int
) -> Bool[np.ndarray, "members examples"]:
    return np.unpackbits(stored, axis=1, count=examples).astype(bool)
