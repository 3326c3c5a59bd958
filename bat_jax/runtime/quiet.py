"""Hides messages of Orbax and TensorStore about errors that they also raise.

Orbax logs every error of its threads, and Python prints it again; TensorStore's callbacks find the
event loop closed when a checkpoint could not be read. The program receives the same errors and
reports them in one line. Messages of other packages are shown.
"""

import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from types import TracebackType

_ORBAX = "/orbax/checkpoint/"
_CLOSED = "Event loop is closed"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides these messages while the block runs."""
    # Orbax logs through absl; gcsfs logs the errors that it raises.
    absl, gcsfs = logging.getLogger("absl"), logging.getLogger("gcsfs")
    level = gcsfs.level
    of_threads, unraisable = threading.excepthook, sys.unraisablehook

    def of_thread(arguments: threading.ExceptHookArgs) -> None:
        if not _is_of_orbax(arguments.exc_traceback):
            of_threads(arguments)

    def ignored(arguments: "sys.UnraisableHookArgs") -> None:
        if not (
            isinstance(arguments.exc_value, RuntimeError) and _CLOSED in str(arguments.exc_value)
        ):
            unraisable(arguments)

    absl.addFilter(_is_foreign)
    gcsfs.setLevel(logging.CRITICAL)
    threading.excepthook, sys.unraisablehook = of_thread, ignored
    try:
        yield
    finally:
        absl.removeFilter(_is_foreign)
        gcsfs.setLevel(level)
        threading.excepthook, sys.unraisablehook = of_threads, unraisable


def _is_foreign(record: logging.LogRecord) -> bool:
    """Returns whether a record comes from a package other than Orbax."""
    return _ORBAX not in record.pathname


def _is_of_orbax(error: TracebackType | None) -> bool:
    return any(_ORBAX in frame.filename for frame in traceback.extract_tb(error))
