"""Files that appear under their final name only when they are complete."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file beside `path` and renames it to `path` once the block has ended well.

    Whatever goes wrong in the block (a full disk, a signal), `path` keeps its former content, or
    its absence, and the file beside it is removed.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Removes what `written_whole` left in a folder when its process was killed.

    Only for a folder that nobody else writes to.
    """
    for partial in folder.glob(".*.part"):
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` as indented JSON, refusing NaN, which JSON does not have."""
    with written_whole(path) as file:
        file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as a compressed .npz file without pickles."""
    with written_whole(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
