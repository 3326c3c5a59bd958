"""A request to stop, heard between two steps instead of in the middle of one."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


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
    """Whether SIGTERM or SIGINT has come. A second signal ends the process at once."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.requested: signal.Signals | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator["Interruption"]:
        """Notes the signals while the block runs; the handlers before it come back after."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.getsignal(number) for number in numbers}

        def note(number: int, frame: FrameType | None) -> None:
            del frame
            self.requested = signal.Signals(number)
            for known, handler in before.items():
                signal.signal(known, handler)

        for number in numbers:
            signal.signal(number, note)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def end(self, message: str) -> NoReturn:
        """Raises `Interrupted` for the signal that has come."""
        assert self.requested is not None
        raise Interrupted(self.requested, message)
