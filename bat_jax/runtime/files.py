"""Files that appear under their final name only when they are complete."""

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

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


def write_json(path: AnyPath, content: Mapping[str, Any]) -> None:
    """Writes `content` as indented JSON, refusing NaN, which JSON does not have."""
    with written_whole(path) as file:
        file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_npz(path: AnyPath, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as a compressed .npz file without pickles."""
    with written_whole(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
