"""What a stage measures with: skips what the file has, keeps to its time, survives a failure."""

import dataclasses
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bat_jax.runtime.interruption import Interrupted
from stages.clock import Clock, OutOfTime
from stages.records import FAILED, SKIPPED, Records

Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of the program.

    Attributes:
      records: the figures measured so far.
      clock: of the whole program.
      smoke: whether to run at toy size.
      data: the folder of CIFAR-100, ready to be read; None without data.
      released: the folder that may hold C-scores and high-influence pairs.
      work: the folder of runs and weights, which a later run goes on with.
      seeds: of the trainings.
      methods: of the trainings.
    """

    records: Records
    clock: Clock
    smoke: bool
    data: Path | None
    released: Path | None
    work: Path
    seeds: tuple[int, ...]
    methods: tuple[str, ...]


class Stage:
    """A stage's time and its figures."""

    def __init__(self, name: str, run: Run, *, box: float) -> None:
        """Starts the time of a stage.

        Args:
          name: of the stage, which its keys begin with.
          run: the run of the program.
          box: the stage's seconds.
        """
        self.name, self.run = name, run
        self.clock = Clock(box, within=run.clock)

    def measure(
        self,
        key: str,
        function: Callable[[], Mapping[str, Any]],
        *,
        precision: str,
        seeds: Sequence[int] = (0,),
        needs: float = 0.0,
        by_card: bool = True,
    ) -> Values | None:
        """Returns the values of a key: those of the file, or else the function's, which it appends.

        Args:
          key: what is measured, within the stage.
          function: measures it.
          precision: of the products, for the record.
          seeds: of the draws, for the record.
          needs: seconds below which there is no point in starting.
          by_card: whether figures of another card do not count.

        Returns:
          The values; None where there was too little time, or where the function failed.
        """
        records, key = self.run.records, f"{self.name}/{key}"
        about: dict[str, Any] = {"precision": precision, "seeds": seeds}
        found = records.find(key, by_card=by_card)
        if found is not None:
            records.show(key, "in the file already", **about)
            return found
        if self.clock.left < needs:
            why = f"needs {needs:.0f} s, and {max(self.clock.left, 0):.0f} s are left"
            records.missing(key, SKIPPED, why, **about)
            return None
        began = time.monotonic()
        try:
            with self.clock.limiting():
                values = dict(function())
        except (Exception, OutOfTime) as error:
            if self._is_out_of_time(error):
                why = f"out of time after {time.monotonic() - began:.0f} s"
                records.missing(key, SKIPPED, why, **about)
                return None
            if isinstance(error, Interrupted):
                raise
            traceback.print_exc()
            why = f"{type(error).__name__}: {error}"[:500]
            records.missing(key, FAILED, why, **about)
            return None
        records.measured(key, values, seconds=time.monotonic() - began, **about)
        return values

    def find(self, key: str, *, by_card: bool = True) -> Values | None:
        """Returns the values that the file has of a key, or None."""
        return self.run.records.find(f"{self.name}/{key}", by_card=by_card)

    def has(self, key: str, *, by_card: bool = True) -> bool:
        """Returns whether the file has values of a key."""
        return self.find(key, by_card=by_card) is not None

    def note(self, key: str, text: str, *, precision: str, seeds: Sequence[int] = (0,)) -> None:
        """Records a line of progress."""
        self.run.records.note(f"{self.name}/{key}", text, precision=precision, seeds=seeds)

    def skip(self, key: str, why: str, *, precision: str, seeds: Sequence[int] = (0,)) -> None:
        """Records why something is not measured."""
        key = f"{self.name}/{key}"
        self.run.records.missing(key, SKIPPED, why, precision=precision, seeds=seeds)

    def _is_out_of_time(self, error: BaseException) -> bool:
        # A training run that was stopped before the time was over was stopped by the user.
        return isinstance(error, OutOfTime) or (
            isinstance(error, Interrupted) and self.clock.left <= 0
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether a device, of JAX or of PyTorch, had too little memory."""
    text = f"{type(error).__name__} {error}"
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "OutOfMemory" in text


def with_smaller_batches(
    batch: int, attempt: Callable[[int], Mapping[str, Any]], *, least: int = 1
) -> Values:
    """Returns what a function measures with the largest batch that fits, and which that is.

    Args:
      batch: the first to try; it is halved where memory runs out.
      attempt: the function of the batch.
      least: the smallest batch to try.
    """
    failed: list[int] = []
    while True:
        try:
            return {**attempt(batch), "batch": batch, **({"too_large": failed} if failed else {})}
        except Exception as error:
            if not is_out_of_memory(error) or batch // 2 < least:
                raise
        # Outside the handler, whose traceback would keep the arrays of the attempt.
        failed.append(batch)
        batch //= 2
