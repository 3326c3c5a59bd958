"""The files of a folder or an archive, read in memory: nothing is ever extracted to disk."""

import contextlib
import gzip
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from bat_jax.errors import UserError

# What the standard library raises on damaged archives, between them all.
_DAMAGE = (
    OSError,
    EOFError,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,  # zipfile's word for a compression it does not know.
    RuntimeError,
    ValueError,
)


@runtime_checkable
class Files(Protocol):
    """The files below one top folder, by names relative to it."""

    def read(self, name: str) -> bytes:
        """Returns the content of a file."""

    def under(self, folder: str) -> list[str]:
        """Returns the sorted names of the files that are directly in a folder."""


@contextlib.contextmanager
def opened(path: Path, *, marker: str, remedy: str) -> Iterator[Files]:
    """Opens a folder or a zip archive.

    Args:
      path: the folder or the archive.
      marker: the name of a file that lies directly in the top folder, by which this folder is
        found, whatever it is called and whether or not there is one.
      remedy: what a user is told to do about a missing or damaged file.
    """
    if path.is_dir():
        yield _Folder(_top_of_folder(path, marker, remedy), remedy)
        return
    with contextlib.ExitStack() as stack:
        with _damage_told(path, remedy):
            archive = stack.enter_context(zipfile.ZipFile(path))
        yield _Zip(path, archive, marker, remedy)


class _Folder:
    def __init__(self, top: Path, remedy: str) -> None:
        self._top = top
        self._remedy = remedy

    def read(self, name: str) -> bytes:
        try:
            return (self._top / name).read_bytes()
        except OSError as error:
            raise UserError(
                f"{self._top / name}: cannot be read ({error.strerror}); expected a file of the"
                f" official layout; {self._remedy}"
            ) from error

    def under(self, folder: str) -> list[str]:
        place = self._top / folder
        if not place.is_dir():
            return []
        return sorted(f"{folder}/{file.name}" for file in place.iterdir() if file.is_file())


class _Zip:
    def __init__(self, path: Path, archive: zipfile.ZipFile, marker: str, remedy: str) -> None:
        self._path = path
        self._archive = archive
        self._remedy = remedy
        names = [name for name in archive.namelist() if not name.endswith("/")]
        refuse_escapes(path, archive.namelist())
        tops = [PurePosixPath(name).parent for name in names if _base(name) == marker]
        if not tops:
            raise UserError(f"{path}: has no file {marker}; expected the official layout; {remedy}")
        top = min(tops, key=lambda parent: len(parent.parts))
        self._names = {}
        self._by_folder = defaultdict(list)
        for name in names:
            whole = PurePosixPath(name)
            if whole.is_relative_to(top):
                inside = whole.relative_to(top)
                self._names[str(inside)] = name
                self._by_folder[str(inside.parent)].append(str(inside))

    def read(self, name: str) -> bytes:
        if name not in self._names:
            raise UserError(
                f"{self._path}: has no file {name}; expected the official layout; {self._remedy}"
            )
        with _damage_told(self._path, self._remedy):
            return self._archive.read(self._names[name])

    def under(self, folder: str) -> list[str]:
        return sorted(self._by_folder.get(folder, []))


def read_tar(path: Path, wanted: Collection[str], *, remedy: str) -> dict[str, bytes | None]:
    """Returns the files of a .tar.gz archive by their last name.

    Args:
      path: the archive.
      wanted: the last names of the files to read; the others' contents are None.
      remedy: what a user is told to do about a damaged archive.
    """
    contents: dict[str, bytes | None] = {}
    with (
        _damage_told(path, remedy),
        gzip.open(path) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        for member in archive:
            refuse_escapes(path, [member.name])
            if not member.isfile():
                continue
            name = _base(member.name)
            file = archive.extractfile(member) if name in wanted else None
            contents[name] = None if file is None else file.read()
        # Tar ends before gzip does, and only the end of gzip has its checksum.
        while stream.read(1 << 20):
            pass
    return contents


def read_file(path: Path, *, remedy: str) -> bytes:
    """Returns the content of a plain file, or of a .gz file, unpacked."""
    with _damage_told(path, remedy):
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as stream:
            return stream.read()


def refuse_escapes(path: Path, names: Collection[str]) -> None:
    """Raises if a member's name leads out of the archive: no honest archive has such a name."""
    for name in names:
        if name.startswith("/") or ".." in name.replace("\\", "/").split("/"):
            raise UserError(
                f"{path}: has a member named {name!r}; expected names inside its own folder; this"
                " is not the official archive: do not use it"
            )


@contextlib.contextmanager
def _damage_told(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except UserError:  # is a ValueError, but told already
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: damaged or incomplete ({reason}); expected a whole file; {remedy}"
        ) from error


def _top_of_folder(path: Path, marker: str, remedy: str) -> Path:
    for top in (path, *sorted(child for child in path.iterdir() if child.is_dir())):
        if (top / marker).is_file():
            return top
    raise UserError(f"{path}: has no file {marker}; expected the official layout; {remedy}")


def _base(name: str) -> str:
    return name.rpartition("/")[2]
