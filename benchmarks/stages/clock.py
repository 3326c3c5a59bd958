"""Time: of the whole program, of a stage, and the signal that ends what takes longer."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

# Seconds to the next alarm: Python drops an exception that a destructor raises.
_AGAIN = 5.0


class OutOfTime(BaseException):
    """The time of a stage or of the program is over.

    Not an Exception, which libraries catch.
    """


class Clock:
    """Counts down to the end of a box, and of the box that it is in."""

    def __init__(self, seconds: float, *, within: "Clock | None" = None) -> None:
        """Starts a box of `seconds`, which ends no later than the one it is in."""
        self._end = time.monotonic() + seconds
        if within is not None:
            self._end = min(self._end, within._end)

    @property
    def left(self) -> float:
        """Seconds until the end; below 0 afterwards."""
        return self._end - time.monotonic()

    @contextlib.contextmanager
    def limiting(self) -> Iterator[None]:
        """Ends the block when the time is over.

        A training run that listens for SIGTERM gets one: it saves its state and ends. Anything else
        ends in the middle.

        Raises:
          OutOfTime: the time is over.
        """
        is_asked = is_over = False

        def end(number: int, frame: FrameType | None) -> None:
            nonlocal is_asked
            del number, frame
            if is_over:
                return
            if signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, None):
                raise OutOfTime
            if not is_asked:  # A second signal would end a training while it saves.
                is_asked = True
                signal.raise_signal(signal.SIGTERM)

        before = signal.signal(signal.SIGALRM, end)
        # 0 would switch the alarm off.
        signal.setitimer(signal.ITIMER_REAL, max(self.left, 1e-3), _AGAIN)
        try:
            try:
                yield
            finally:
                is_over = True
        finally:  # Also after an alarm in the line above.
            is_over = True
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
