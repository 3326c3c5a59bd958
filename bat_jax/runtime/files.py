"""Files that appear under their final name only when they are complete."""

import contextlib
import errno
import fcntl
import io
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from bat_jax.errors import UserError
from bat_jax.runtime import storage
from bat_jax.runtime.storage import AnyPath

# Files that `written_whole` and joining processes leave behind when killed.
_PARTIAL = re.compile(r"\..+\.\d+\.part|\.process_\d+\.part")
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})


class NoLocksError(OSError):
    """The file system has no locks."""


@contextlib.contextmanager
def naming(path: AnyPath) -> Iterator[None]:
    """Adds the path to an OSError of the block that lacks one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def open_plain(path: Path, flags: int) -> int:
    """Opens an untrusted file and returns its descriptor.

    Args:
      path: the file.
      flags: for `os.open`. The content does not change.

    Raises:
      UserError: the path is not a regular file, but a symbolic link, a FIFO or a device.
      OSError: the file cannot be opened.
    """
    wrong = f"{path}: is not a regular file; expected one, or none: remove it"
    try:
        # Without O_NONBLOCK, opening a FIFO blocks until its other end opens.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        # ENXIO: a socket, or a FIFO without a reader.
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise UserError(wrong) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(wrong)
    return descriptor


def lock(descriptor: int, operation: int) -> bool:
    """Locks an open file until it is closed; returns False if another process holds it.

    Args:
      descriptor: the file's descriptor.
      operation: the operation for `fcntl.flock`.

    Raises:
      NoLocksError: the file system has no locks.
      OSError: the file cannot be locked.
    """
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise NoLocksError(error.errno, error.strerror) from error
        raise
    return True


def reason(error: BaseException) -> str:
    """Returns a short reason for an error, from the system's message if there is one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    # TensorStore adds the whole specification of an array in brackets.
    words = " ".join(str(error).split()).partition(" [")[0]
    return words.rpartition(": ")[2] or words or type(error).__name__


@contextlib.contextmanager
def written_whole(path: AnyPath) -> Iterator[IO[bytes]]:
    """Opens a temporary file beside `path` and renames it to `path` after the block succeeds.

    In a bucket, uploads once after the block.

    If the block fails (a full disk, a signal), `path` is unchanged and the temporary file is
    removed.

    Raises:
      UserError: `path` is a folder, a FIFO or a device, such as /dev/null, which must not be
        replaced; or its folder does not exist.
    """
    if storage.is_remote(path):
        content = io.BytesIO()
        yield content
        storage.put(path, content.getvalue())
        return
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is not a regular file; expected one to write: name another")
    if not path.parent.is_dir():
        raise UserError(f"{path}: {path.parent} is not a folder; expected one: create it first")
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with naming(path):
            # A symbolic link with that name is replaced, not followed.
            beside.unlink(missing_ok=True)
            with beside.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yields a folder to fill, which gets its name when the block ends without an error.

    Args:
      path: the name; it must not exist, or be an empty folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as place:
        made = Path(place) / "made"
        made.mkdir()
        yield made
        made.replace(path)


def remove_partial(folder: AnyPath) -> None:
    """Removes temporary files that killed processes left in a folder.

    Only for folders without other writers.
    """
    for path in folder.iterdir():
        if _PARTIAL.fullmatch(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)


def write_json(path: AnyPath, content: Mapping[str, Any]) -> None:
    """Writes `content` as indented JSON; rejects NaN, which JSON cannot represent."""
    with written_whole(path) as file:
        file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_npz(path: AnyPath, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as a compressed .npz file without pickles."""
    with written_whole(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
