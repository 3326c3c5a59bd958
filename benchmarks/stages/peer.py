"""The PyTorch side of a comparison: a process of its own on the same device, asked in turns."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sides

from stages.machine import is_installed

_SCRIPT = Path(__file__).with_name("torch_side.py")


class PeerError(RuntimeError):
    """The peer could not do what it was asked."""


class Peer:
    """PyTorch in its process, started at the first question."""

    def __init__(self) -> None:
        """Starts nothing yet."""
        self._side: sides.Side | None = None

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Returns the answer to a question of torch_side.py.

        Raises:
          PeerError: the peer failed; the message says how.
        """
        try:
            if self._side is None:
                self._side = sides.Side([sys.executable, str(_SCRIPT)], {})
            answer = self._side.ask(question)
        except SystemExit as error:
            self._side = None
            raise PeerError(str(error)) from None
        except BaseException:
            # Its answer, still to come, would be taken for that to the next question.
            self.end()
            raise
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def end(self) -> None:
        """Ends the process, and frees its memory of the device."""
        if self._side is not None:
            self._side.end()
        self._side = None


@contextlib.contextmanager
def peer() -> Iterator[Peer]:
    """Gives a peer, whose process ends with the block."""
    found = Peer()
    try:
        yield found
    finally:
        found.end()


def missing(*packages: str) -> str | None:
    """Returns why there is no peer, or None."""
    absent = [name for name in packages if not is_installed(name)]
    return f"{' and '.join(absent)} cannot be imported: no peer" if absent else None
