"""Graceful interruption: stops between steps rather than in the middle of one.

If only one of several processes receives a signal, as when one host of a pod is preempted, all
processes stop at the same step.
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
    """A signal ended the run, whose progress is saved.

    Attributes:
      signal: the signal.
    """

    def __init__(self, number: signal.Signals, message: str):
        """Builds the message, which states what is saved."""
        super().__init__(
            f"stopped by {number.name}: {message}; run the same command to resume from there"
        )
        self.signal = number


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived where nothing records it; finished parts of the work are saved."""


@contextlib.contextmanager
def terminating() -> Iterator[None]:
    """Raises `Terminated` on SIGTERM while the block runs, as Python raises KeyboardInterrupt.

    A second signal has its usual effect. Does nothing outside the main thread, where Python cannot
    handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        signal.signal(number, before)
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop) or signal.SIG_DFL
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Interruption:
    """Records SIGTERM or SIGINT. A second signal ends the process immediately.

    Attributes:
      requested: the signal to stop for, agreed on by all processes.
    """

    def __init__(self) -> None:
        """Starts without a recorded signal."""
        self.requested: signal.Signals | None = None
        self._heard = 0
        self._pending: jax.Array | None = None

    @contextlib.contextmanager
    def listening(self, at_end: str) -> Iterator["Interruption"]:
        """Records signals while the block runs; restores the previous handlers afterwards.

        Does nothing outside the main thread, where Python cannot handle signals.

        Args:
          at_end: what is saved and what is not at the end of the block.

        Raises:
          Interrupted: the block ended before acting on a recorded signal.
        """
        with self._noting():
            yield self
            if self.settle():
                self.end(at_end)
        # The signal arrived during or after the last poll.
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
        """Returns whether to stop now; every process must call it after the same steps.

        The processes agree by a reduction on their devices, and read its result one call later,
        when it is available: no device waits.
        """
        if jax.process_count() == 1:
            return self._note(self._heard)
        previous, self._pending = self._pending, distributed.largest(self._heard)
        return previous is not None and self._note(int(previous))

    def settle(self) -> bool:
        """Returns whether any process has received a signal so far; waits for the result."""
        return self._note(distributed.anywhere(self._heard))

    def _note(self, number: int) -> bool:
        if number:
            self.requested = signal.Signals(number)
        return bool(number)

    def end(self, message: str) -> NoReturn:
        """Raises `Interrupted` for the recorded signal."""
        assert self.requested is not None
        raise Interrupted(self.requested, message)
