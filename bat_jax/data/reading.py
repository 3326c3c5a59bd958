"""Rules for all readers: regular files, limited sizes, no stray files."""

import stat
from pathlib import Path
from typing import IO, Protocol

from bat_jax.errors import UserError

# For lists of names; the longest published one, Tiny ImageNet's words.txt, has 2.7 MB.
TEXT_LIMIT = 16 << 20
_CHUNK = 1 << 20
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
# Files that operating systems create, in lower case; hidden files begin with a dot.
_STRAY = {
    "#recycle",
    "$recycle.bin",
    "@eadir",
    "__macosx",
    "desktop.ini",
    "ehthumbs.db",
    "lost+found",
    "system volume information",
    "thumbs.db",
}


class Readable(Protocol):
    """A byte stream."""

    def read(self, size: int, /) -> bytes:
        """Returns at most `size` bytes, none at the end."""


def is_stray(name: str) -> bool:
    """Returns whether a name is hidden or the system's own, such as .DS_Store or Thumbs.db."""
    return name.startswith(".") or name.lower() in _STRAY


def open_regular(path: Path, *, remedy: str) -> IO[bytes]:
    """Opens a regular file or a link to one.

    Reading a FIFO waits for a writer, and a device such as /dev/zero has no end.

    Args:
      path: the file.
      remedy: what a user should do about any other kind of file.
    """
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise UserError(
            f"{path}: is {_KINDS.get(kind, 'a special file')}; expected a regular file; {remedy}"
        )
    return path.open("rb")


def read_at_most(stream: Readable, limit: int, *, where: str, remedy: str) -> bytes:
    """Returns the rest of a stream, reading at most `limit` + 1 bytes.

    Args:
      stream: a file, or a decompressing stream, whose size is unknown in advance.
      limit: the maximum size in bytes that the format allows.
      where: the file, for messages.
      remedy: what a user should do about a longer file.
    """
    parts = []
    left = limit + 1
    while left and (part := stream.read(min(_CHUNK, left))):
        parts.append(part)
        left -= len(part)
    if not left:
        raise UserError(
            f"{where}: has more than {limit:,} bytes; expected at most that many; {remedy}"
        )
    return b"".join(parts)
