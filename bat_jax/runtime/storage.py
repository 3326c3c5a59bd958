"""Paths on a disk or in a bucket of Google Cloud Storage.

Both kinds of path support the same reads, listings and joins, but writes differ: an object of a
bucket appears when its upload is complete, and supports neither appending nor locks.
"""

import errno
import importlib.util
import os
from pathlib import Path
from typing import TypeAlias

from etils import epath

from bat_jax.errors import UserError, in_short

AnyPath: TypeAlias = Path | epath.Path

_BUCKETS = "gs://"


def as_path(path: str | os.PathLike[str]) -> AnyPath:
    """Returns a path on a disk, or in a bucket if it begins with `gs://`.

    A leading `~` or `~user` is the home folder.

    Raises:
      UserError: the user does not exist, the scheme is unknown, the bucket has no name, or gcsfs is
        not installed.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{path!r}: is not a path; expected text or a pathlib.Path")
    text = os.fspath(path)
    if "\0" in text:
        raise UserError(f"{text!r}: has a NUL character; expected a path without one")
    if "://" not in text:
        try:
            return Path(text).expanduser()
        except RuntimeError:
            user = text.partition("/")[0]
            raise UserError(
                f"{text}: the home folder of {user} is not known; expected a user with one: write"
                f" ./{text} for a file of that name"
            ) from None
    if not text.startswith(_BUCKETS):
        raise UserError(
            f"{text}: expected a folder on a disk, or gs://BUCKET/FOLDER; checkpoints cannot be"
            " written to other stores: mount the store as a folder"
        )
    if text.removeprefix(_BUCKETS)[:1] in ("", "/"):
        raise UserError(f"{text}: names no bucket; expected gs://BUCKET/FOLDER")
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(
            f"{text}: buckets need gcsfs, which is not installed; install it with pip install -r"
            " requirements-gcs.txt"
        )
    # If TensorFlow is installed, etils would use it instead of gcsfs, with different errors.
    os.environ.setdefault("EPATH_USE_TF", "false")
    _forget_listings()
    return epath.Path(text)


def is_remote(path: AnyPath) -> bool:
    """Returns whether the path is in a bucket."""
    return not isinstance(path, Path)


def absolute(path: AnyPath) -> AnyPath:
    """Returns the absolute path; bucket paths are always absolute."""
    return path if is_remote(path) else path.absolute()


def put(path: AnyPath, content: bytes) -> None:
    """Writes an object of a bucket atomically.

    Raises:
      OSError: the object cannot be written.
    """
    # Errors of gcsfs, google-auth and aiohttp have no common class.
    try:
        path.write_bytes(content)
    except Exception as error:
        raise OSError(errno.EIO, f"cannot be written ({_reason(error)})", str(path)) from error


def check_writable(folder: AnyPath) -> None:
    """Checks that a folder of a bucket is writable, by writing and removing an object.

    Raises:
      UserError: the bucket does not exist, is unreachable, or denies permission.
    """
    probe = folder / ".writable"
    try:
        # If the bucket is unreachable, a query fails sooner than an upload.
        probe.exists()
        probe.write_bytes(b"")
        probe.unlink()
    except Exception as error:
        raise UserError(
            f"{folder}: cannot be written to ({_reason(error)}); expected an existing bucket, and"
            " credentials that may write to it: run gcloud auth application-default login"
        ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket"
    return in_short(error)


def _forget_listings() -> None:
    """Clears cached listings of buckets, to which other processes and TensorStore also write."""
    import fsspec.config

    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
