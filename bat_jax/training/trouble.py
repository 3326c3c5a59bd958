"""Classifies the reasons why a checkpoint could not be read: damage, structure, or the system."""

import logging
import re
import time
from collections.abc import Callable
from typing import NamedTuple

import jax

from bat_jax.runtime.files import reason
from bat_jax.runtime.storage import AnyPath, is_remote

log = logging.getLogger(__name__)

# Seconds to wait before retrying a failed read.
PAUSES = (0.1, 1.0)
# Outcomes of reading a checkpoint, in order of severity.
WHOLE, DAMAGED, FOREIGN, FAILED = range(4)
# These mean that the checkpoint's files were changed; every other OSError is the system's.
MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
# Prefixes of TensorStore's messages when the system, not the content, is at fault.
_STATUS = re.compile(
    "(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|PERMISSION_DENIED|RESOURCE_EXHAUSTED"
    "|UNAUTHENTICATED|UNAVAILABLE|UNKNOWN): "
)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or a system error prevented reading it."""


class Trouble(NamedTuple):
    """Why a checkpoint could not be read.

    Attributes:
      kind: `DAMAGED`, `FOREIGN` or `FAILED`.
      reason: the text for messages.
    """

    kind: int
    reason: str


def classified(error: Exception, step: int) -> Trouble:
    """Classifies a read error; re-raises errors of memory and devices."""
    if isinstance(error, MemoryError | jax.errors.JaxRuntimeError):
        raise error
    log.debug("checkpoint %d: %s", step, error)
    return Trouble(FAILED if _is_of_the_system(error) else DAMAGED, reason(error))


def _is_of_the_system(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, MISSING):
            return True
        if _STATUS.match(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def persistently(read: Callable[[], bytes], path: AnyPath) -> bytes:
    """Returns the result of `read`, retried after system errors.

    Raises:
      CheckpointError: every attempt failed.
    """
    for pause in (*PAUSES, None):
        try:
            return read()
        except MISSING:
            raise
        except OSError as error:
            if pause is None:
                raise unreadable(path, reason(error)) from error
            time.sleep(pause)
    raise AssertionError("unreachable")


def irregular(checkpoint: AnyPath) -> AnyPath | None:
    """Returns a part of a checkpoint that is not a file, such as a FIFO, which may block."""
    if is_remote(checkpoint):
        return None
    parts = checkpoint.rglob("*")
    try:
        return next((p for p in parts if p.exists() and not (p.is_file() or p.is_dir())), None)
    except OSError:  # For example, a concurrent run has removed the checkpoint.
        return None


def unreadable(path: AnyPath, why: str) -> CheckpointError:
    """Returns the error for a file that the system did not let the program read."""
    return CheckpointError(
        f"{path}: cannot be read ({why}); nothing was changed: check the disk or the network, and"
        " run the same command again"
    )
