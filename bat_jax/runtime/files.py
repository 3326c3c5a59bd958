"""Files that appear under their final name only when they are complete."""

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

from bat_jax.errors import UserError
from bat_jax.runtime import storage
from bat_jax.runtime.storage import AnyPath


@contextlib.contextmanager
def written_whole(path: AnyPath) -> Iterator[IO[bytes]]:
    """Opens a file beside `path` and renames it to `path` once the block has ended well.

    In a bucket it is one upload, after the block.

    Whatever goes wrong in the block (a full disk, a signal), `path` keeps its former content, or
    its absence, and the file beside it is removed.
    """
    if storage.is_remote(path):
        content = io.BytesIO()
        yield content
        storage.put(path, content.getvalue())
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def remove_partial(folder: AnyPath) -> None:
    """Removes what `written_whole` left in a folder when its process was killed.

    Only for a folder that nobody else writes to.
    """
    for partial in folder.glob(".*.part"):
        partial.unlink(missing_ok=True)


def read_npz(path: AnyPath, what: str) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file by name. Pickled ones are refused.

    Args:
      path: the file.
      what: what is expected of it, for messages.

    Raises:
      UserError: it is missing, truncated, or no such file.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected {what}") from None
    # A foreign or truncated file makes zipfile, zlib or NumPy raise, of no common class.
    except Exception as error:
        raise UserError(
            f"{path}: cannot be read ({error}); expected a whole .npz file of plain arrays"
        ) from None


def read_columns(path: AnyPath, names: Sequence[str], what: str) -> list[np.ndarray]:
    """Returns the named arrays of an .npz file, a row an example in each of them.

    Args:
      path: the file.
      names: of the arrays; others are left alone.
      what: what is expected of it, for messages.

    Raises:
      UserError: it is missing, truncated, or no such file.
    """
    content = read_npz(path, what)
    missing = [name for name in names if name not in content]
    if missing:
        raise UserError(
            f"{path}: has no {', '.join(missing)}; expected {what} ({', '.join(names)})"
        )
    arrays = [content[name] for name in names]
    if len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 1:
        raise UserError(f"{path}: arrays of different lengths; expected {what}, one row each")
    return arrays


def write_json(path: AnyPath, content: Mapping[str, Any]) -> None:
    """Writes `content` as indented JSON, refusing NaN, which JSON does not have."""
    with written_whole(path) as file:
        file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_npz(path: AnyPath, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as a compressed .npz file without pickles."""
    with written_whole(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
