"""The scores of the members trained so far, one file for each round, written atomically."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped
from ml_collections import ConfigDict

from bat_jax.errors import UserError
from bat_jax.runtime import distributed, files
from bat_jax.runtime.arrays import ContentError, Expected, read
from bat_jax.runtime.storage import AnyPath

# Probabilities are stored as multiples of 2^-15, margins as multiples of 2^-8 up to 128: sums of
# them and of their squares are then exact, and the estimates do not depend on the grouping of
# members into rounds.
_UNIT = 2.0**-15
_MARGIN_UNIT = 2.0**-8
_LARGEST_MARGIN = 2**15 - 1  # In units.
_SET_ASIDE = "move this file out of its folder, and its members are trained again"

Statistic = Literal["correct", "probability", "margin"]


def recorded(settings: ConfigDict) -> Statistic:
    """Returns the score that members record under `config.memorization`."""
    return "margin" if settings.estimator == "margin" else settings.statistic


class Scores(NamedTuple):
    """The subsets and scores of some members.

    Attributes:
      members: numbers of the members.
      masks: whether the member's subset has the training example.
      train: whether the member is right on the training example, or its probability of the label,
        or its margin: the logit of the label less the largest other one.
      test: the same for the test examples.
      attacked_train: the same as `train` for attacked images, where members are scored on both.
      attacked_test: the same as `test` for attacked images.
    """

    members: Int[np.ndarray, " members"]
    masks: Bool[np.ndarray, "members train"]
    train: Shaped[np.ndarray, "members train"]
    test: Shaped[np.ndarray, "members test"]
    attacked_train: Shaped[np.ndarray, "members train"] | None = None
    attacked_test: Shaped[np.ndarray, "members test"] | None = None

    def of(self, rows: Shaped[np.ndarray, " rows"]) -> "Scores":
        """Returns those of some members, by row or by a boolean for every row."""
        chosen: Any = (None if values is None else values[rows] for values in self)
        return Scores(*chosen)

    def attacked(self) -> "Scores":
        """Returns the scores on attacked images in place of those on clean ones.

        Raises:
          UserError: members were scored on one kind of images alone.
        """
        if self.attacked_train is None or self.attacked_test is None:
            raise UserError("members have no scores on attacked images beside those on clean ones")
        return Scores(self.members, self.masks, self.attacked_train, self.attacked_test)


def joined(parts: Sequence[Scores]) -> Scores:
    """Returns the scores of all members of several parts."""
    whole: Any = (
        None if values[0] is None else np.concatenate(values) for values in zip(*parts, strict=True)
    )
    return Scores(*whole)


class Store:
    """A folder of scores by member."""

    def __init__(
        self,
        folder: AnyPath,
        *,
        train: int,
        test: int,
        statistic: Statistic,
        attacked: bool = False,
        writes: bool = False,
    ):
        """Opens the folder.

        Args:
          folder: the folder of the files.
          train: number of training examples.
          test: number of test examples.
          statistic: the score of the members.
          attacked: whether they are scored on attacked images beside clean ones.
          writes: whether this process, which holds the run's lock, adds rounds: then the folder is
            created, and what an interrupted writer left is removed.

        Raises:
          UserError: a file cannot be read, does not hold such scores, or holds members that another
            file holds too.
        """
        self._folder = folder
        self._train, self._statistic = train, statistic
        self._sizes = {"train": train, "test": test}
        if attacked:
            self._sizes |= {"attacked_train": train, "attacked_test": test}
        if writes:
            folder.mkdir(exist_ok=True)
            if distributed.is_main():
                files.remove_partial(folder)
        self._file_of: dict[int, AnyPath] = {}
        for path in sorted(folder.glob("*.npz")):
            members = self._read(path).members.tolist()
            # The next round is written under the name of its members and must not replace others.
            if not members or path.name != _name(members):
                held = f"members {members[0]} to {members[-1]}" if members else "no members"
                raise UserError(f"{path}: holds {held}; expected those of its name: {_SET_ASIDE}")
            both = [member for member in members if member in self._file_of]
            if both:
                raise UserError(
                    f"{path}: holds member {both[0]}, as {self._file_of[both[0]].name} does"
                    f" ({len(both)} in both); expected every member once: {_SET_ASIDE}"
                )
            self._file_of |= dict.fromkeys(members, path)

    def missing(self, members: int) -> Int[np.ndarray, " missing"]:
        """Returns which of members 0 to `members` - 1 have no scores yet."""
        numbers = range(members)
        return np.array([m for m in numbers if m not in self._file_of], np.int64)

    def append(self, scores: Scores) -> None:
        """Adds a round."""
        path = self._folder / _name(scores.members.tolist())
        arrays = {
            "members": scores.members,
            "masks": np.packbits(scores.masks, axis=1),
            **{name: _packed(getattr(scores, name), self._statistic) for name in self._sizes},
        }
        files.write_npz(path, arrays)
        self._file_of |= dict.fromkeys(scores.members.tolist(), path)

    def read(self, members: int) -> Iterator[Scores]:
        """Yields the scores of members 0 to `members` - 1, file by file."""
        for path in sorted(set(self._file_of.values())):
            scores = self._read(path)
            rows = scores.members < members
            if rows.any():
                yield scores.of(rows)

    def _read(self, path: AnyPath) -> Scores:
        expected = {
            "members": Expected("integers", ("members",), low=0, unique=True),
            "masks": Expected("uint8", ("members", _bytes(self._train))),
            **{name: self._scores(size) for name, size in self._sizes.items()},
        }
        try:
            found = read(path, expected, "the scores of members")
        except ContentError as error:
            field = "estimator" if self._statistic == "margin" else "statistic"
            raise UserError(
                f"{error} (config.memorization.{field} is {self._statistic}): {_SET_ASIDE}"
            ) from None
        return Scores(
            found["members"],
            _bits(found["masks"], self._train),
            *(_unpacked(found[name], size) for name, size in self._sizes.items()),
        )

    def _scores(self, examples: int) -> Expected:
        """Returns the stored form of scores on some examples."""
        if self._statistic == "correct":
            return Expected("uint8", ("members", _bytes(examples)))
        if self._statistic == "margin":
            return Expected("int16", ("members", examples))
        return Expected("uint16", ("members", examples), low=0, high=int(1 / _UNIT))


def _name(members: Sequence[int]) -> str:
    return f"{members[0]:06d}-{members[-1]:06d}.npz"


def _bytes(bits: int) -> int:
    return -(-bits // 8)


def _packed(
    scores: Shaped[np.ndarray, "members examples"], statistic: Statistic
) -> Shaped[np.ndarray, "members places"]:
    if statistic == "correct":
        return np.packbits(scores, axis=1)
    is_legal = ~np.isnan(scores) if statistic == "margin" else (scores >= 0) & (scores <= 1)
    wrong = np.flatnonzero(~is_legal.all(axis=1))
    if len(wrong):
        what = "margins" if statistic == "margin" else "probabilities"
        raise UserError(
            f"config.memorization: {len(wrong)} members have scores that are not {what};"
            " expected finite weights: lower config.train.optimizer.learning_rate"
        )
    if statistic == "probability":
        return np.round(scores / _UNIT).astype(np.uint16)
    # Away from 0, so that every margin keeps its sign.
    units = np.copysign(np.ceil(np.abs(scores) / _MARGIN_UNIT), scores)
    return np.clip(units, -_LARGEST_MARGIN, _LARGEST_MARGIN).astype(np.int16)


def _unpacked(
    stored: Shaped[np.ndarray, "members places"], examples: int
) -> Shaped[np.ndarray, "members examples"]:
    if stored.dtype == np.uint8:
        return _bits(stored, examples)
    return stored * (_MARGIN_UNIT if stored.dtype == np.int16 else _UNIT)


def _bits(
    stored: Shaped[np.ndarray, "members places"], examples: int
) -> Bool[np.ndarray, "members examples"]:
    return np.unpackbits(stored, axis=1, count=examples).astype(bool)
