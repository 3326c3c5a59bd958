"""Callbacks of a training run, for example for experiment trackers."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bat_jax import outside
from bat_jax.errors import UserError
from bat_jax.training.metrics import Log

log = logging.getLogger(__name__)


class Record(NamedTuple):
    """A record of a run; metrics.jsonl has it with a rounded epoch and its finite values.

    Attributes:
      step: the number of steps done.
      epoch: the number of epochs done, possibly a fraction.
      split: `train`, for averages over the steps since the last record; `validation`; or another
        split, such as `train_typical`.
      values: the values by name.
    """

    step: int
    epoch: float
    split: str
    values: Mapping[str, float]


class Callback:
    """An object that is called during a training run; a subclass overrides what it needs.

    With several processes, only the main process calls it. A callback must not affect the run.
    """

    def on_start(self, config: Mapping[str, Any], step: int) -> None:
        """Is called once, before the first step.

        Args:
          config: the resolved config as plain values.
          step: 0, or the step that the run resumes from; records after it are repeated.
        """

    def on_record(self, record: Record) -> None:
        """Is called with every record.

        There is one every `train.log_every` steps and at the end of every epoch, for each
        validation and each tracked split, and for a collapse.
        """

    def on_end(self, results: Mapping[str, Any] | None) -> None:
        """Is called once if `on_start` was.

        Args:
          results: the content of results.json; None if an error or a signal ended the run.
        """


def check(callbacks: Sequence[Callback]) -> None:
    """Raises a UserError unless all are callbacks."""
    if not isinstance(callbacks, Sequence):
        raise UserError(
            f"fit: callbacks is a value of type {type(callbacks).__name__}; expected a list of"
            " callbacks"
        )
    for number, callback in enumerate(callbacks):
        if not isinstance(callback, Callback):
            raise UserError(
                f"fit: callbacks[{number}] is a value of type {type(callback).__name__}; expected"
                " an object of a class derived from bat_jax.training.Callback"
            )


@contextlib.contextmanager
def running(
    callbacks: Sequence[Callback], config: Mapping[str, Any], step: int
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Calls `on_start`, then `on_end` with the results that are passed to the yielded function.

    Raises:
      UserError: a callback raises an exception.
    """
    begun: list[Callback] = []
    found: list[Mapping[str, Any]] = []
    try:
        for callback in callbacks:
            _called(callback, "on_start", config, step)
            begun.append(callback)
        yield found.append
    except BaseException:
        for callback in begun:
            try:
                _called(callback, "on_end", None)
            except UserError as error:  # What ended the run matters more.
                log.warning("%s", error)
        raise
    errors = []
    for callback in callbacks:
        try:
            _called(callback, "on_end", found[0] if found else None)
        except UserError as error:
            errors.append(error)
    if errors:
        raise errors[0]


class Observed:
    """A log that passes its records on to callbacks."""

    def __init__(self, records: Log, callbacks: Sequence[Callback]):
        """Wraps a log."""
        self._records, self._callbacks = records, callbacks

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Records values under their names.

        Raises:
          UserError: a callback raises an exception.
        """
        self._records.write(step, epoch, split, values)
        for callback in self._callbacks:
            _called(callback, "on_record", Record(step, epoch, split, dict(values)))

    def flush(self) -> None:
        """Persists all records."""
        self._records.flush()

    def close(self) -> None:
        """Closes the log."""
        self._records.close()


def _called(callback: Callback, name: str, *values: Any) -> None:
    """Calls a method of a callback, which may raise anything."""
    try:
        getattr(callback, name)(*values)
    except Exception as error:
        raise UserError(
            f"callback {type(callback).__name__}: {name} fails ({outside.raised(error)}); expected"
            " no error: a run with a folder resumes from its last checkpoint"
        ) from error
