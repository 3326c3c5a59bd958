"""A request to stop, heard between two steps instead of in the middle of one.

Of several processes one may hear it alone, as when a single host of a pod is taken away: all of
them stop, at the same step.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import jax

from bat_jax.runtime import distributed


class Interrupted(Exception):
    """A signal ended the run, and what it had is saved.

    Attributes:
      signal: which one.
    """

    def __init__(self, number: signal.Signals, message: str):
        """Tells what is saved."""
        super().__init__(
            f"stopped by {number.name}: {message}; run the same command to go on from there"
        )
        self.signal = number


class Interruption:
    """Whether SIGTERM or SIGINT has come. A second signal ends the process at once.

    Attributes:
      requested: the signal to stop for; of several processes, one that all of them know of.
    """

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.requested: signal.Signals | None = None
        self._heard = 0
        self._pending: jax.Array | None = None

    @contextlib.contextmanager
    def listening(self, at_end: str) -> Iterator["Interruption"]:
        """Notes the signals while the block runs; the handlers before it come back after.

        Outside the main thread, where Python has no signals, none are noted.

        Args:
          at_end: what is saved and what is not when the block has ended.

        Raises:
          Interrupted: the block has ended, and a signal that came while it ran was not acted on.
        """
        with self._noting():
            yield self
            if self.settle():
                self.end(at_end)
        # It came while the processes asked one another, or after that.
        if self._note(self._heard):
            self.end(at_end)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.getsignal(number) for number in numbers}
        is_alone = jax.process_count() == 1

        def note(number: int, frame: FrameType | None) -> None:
            del frame
            self._heard = number
            if is_alone:
                self.requested = signal.Signals(number)
            for known, handler in before.items():
                signal.signal(known, handler)

        for number in numbers:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def poll(self) -> bool:
        """Returns whether to stop now; to be called by every process after the same steps.

        The processes ask one another on their devices, and each reads the answer one call later,
        when it is long there: no device waits.
        """
        if jax.process_count() == 1:
            return self._note(self._heard)
        previous, self._pending = self._pending, distributed.largest(self._heard)
        return previous is not None and self._note(int(previous))

    def settle(self) -> bool:
        """Returns whether any process has been asked to stop until now, waiting for the answer."""
        return self._note(distributed.anywhere(self._heard))

    def _note(self, number: int) -> bool:
        if number:
            self.requested = signal.Signals(number)
        return bool(number)

    def end(self, message: str) -> NoReturn:
        """Raises `Interrupted` for the signal that has come."""
        assert self.requested is not None
        raise Interrupted(self.requested, message)
