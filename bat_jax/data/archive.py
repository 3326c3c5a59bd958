"""Reads the files of a folder or an archive in memory, without extracting to disk.

Archives are untrusted: limits on memory and time follow from the expected format.
"""

import contextlib
import gzip
import io
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePath, PurePosixPath
from typing import Protocol, TypeVar, runtime_checkable

from bat_jax.data.reading import Readable, is_stray, open_regular, read_at_most
from bat_jax.errors import UserError, in_short

# Limits of a .tar.gz archive: the bytes unpacked per byte read, because skipping a member unpacks
# it; the length of the headers before a member; the number of members. The published archives need
# 1.01, 1 KiB and 9.
_UNPACKED = 4
_HEADERS = 1 << 20
_MEMBERS = 10_000
# These two methods unpack only what is read; others unpack whole blocks of any size.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_AnyPath = TypeVar("_AnyPath", bound=PurePath)

# The exceptions that the standard library raises for damaged archives.
_DAMAGE = (
    OSError,
    EOFError,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,  # zipfile raises it for unknown compression methods.
    RuntimeError,
    ValueError,
)


@runtime_checkable
class Files(Protocol):
    """The files below a top folder, named relative to it."""

    def read(self, name: str, limit: int) -> bytes:
        """Returns the content of a file, of at most `limit` bytes."""

    def under(self, folder: str) -> list[str]:
        """Returns the sorted names of the files directly in a folder, without stray files."""


@contextlib.contextmanager
def opened(path: Path, *, marker: str, remedy: str) -> Iterator[Files]:
    """Opens a folder or a zip archive.

    Args:
      path: the folder or the archive.
      marker: the name of a file directly in the top folder, which identifies that folder by any
        name; an archive may also lack a top folder.
      remedy: what a user should do about a missing or damaged file.
    """
    if path.is_dir():
        yield _Folder(_top_of_folder(path, marker, remedy), remedy)
        return
    with contextlib.ExitStack() as stack:
        with _reporting_damage(path, remedy):
            file = stack.enter_context(open_regular(path, remedy=remedy))
            archive = stack.enter_context(zipfile.ZipFile(file))
        yield _Zip(path, archive, marker, remedy)


class _Folder:
    def __init__(self, top: Path, remedy: str) -> None:
        self._top = top
        self._remedy = remedy

    def read(self, name: str, limit: int) -> bytes:
        path = self._top / name
        try:
            with open_regular(path, remedy=self._remedy) as file:
                return read_at_most(file, limit, where=str(path), remedy=self._remedy)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); expected a file of the"
                f" official layout; {self._remedy}"
            ) from error

    def under(self, folder: str) -> list[str]:
        place = self._top / folder
        if not place.is_dir():
            return []
        return sorted(
            f"{folder}/{file.name}"
            for file in place.iterdir()
            if not is_stray(file.name) and not file.is_dir()
        )


class _Zip:
    def __init__(self, path: Path, archive: zipfile.ZipFile, marker: str, remedy: str) -> None:
        self._path = path
        self._archive = archive
        self._remedy = remedy
        refuse_escapes(path, archive.namelist())
        members = [
            member
            for member in archive.infolist()
            if member.filename and not member.filename.endswith("/")
        ]
        files = [PurePosixPath(member.filename) for member in members]
        tops = {file.parent for file in files if file.name == marker}
        if not tops:
            raise UserError(f"{path}: has no file {marker}; expected the official layout; {remedy}")
        highest = min(len(top.parts) for top in tops)
        top = _only(path, marker, sorted(top for top in tops if len(top.parts) == highest))
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._by_folder = defaultdict(list)
        for member in members:
            whole = PurePosixPath(member.filename)
            if not whole.is_relative_to(top):
                continue
            inside = whole.relative_to(top)
            if any(is_stray(part) for part in inside.parts):
                continue
            if str(inside) in self._members:
                raise _doubled(path, str(whole), remedy)
            self._members[str(inside)] = member
            self._by_folder[str(inside.parent)].append(str(inside))

    def read(self, name: str, limit: int) -> bytes:
        if name not in self._members:
            raise UserError(
                f"{self._path}: has no file {name}; expected the official layout; {self._remedy}"
            )
        member = self._members[name]
        where = f"{self._path}: {name}"
        if member.compress_type not in _ZIP_METHODS:
            raise UserError(
                f"{where}: is compressed by method {member.compress_type}; expected deflate or"
                f" none; {self._remedy}"
            )
        with _reporting_damage(self._path, self._remedy), self._archive.open(member) as file:
            return read_at_most(file, limit, where=where, remedy=self._remedy)

    def under(self, folder: str) -> list[str]:
        return sorted(self._by_folder.get(folder, []))


def read_tar(path: Path, limits: Mapping[str, int], *, remedy: str) -> dict[str, bytes | None]:
    """Returns the files of a .tar.gz archive by base name.

    Args:
      path: the archive.
      limits: the base names of the files to read, with their maximum sizes in bytes; the contents
        of other files are None.
      remedy: what a user should do about a damaged archive.
    """
    contents: dict[str, bytes | None] = {}
    total = _UNPACKED * sum(limits.values())
    with (
        _reporting_damage(path, remedy),
        open_regular(path, remedy=remedy) as file,
        gzip.open(file) as unpacked,
    ):
        stream = _Bounded(unpacked, min(total, _HEADERS), f"{path}: unpacks to", remedy)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for count, member in enumerate(archive, 1):
                refuse_escapes(path, [member.name])
                if member.size < 0:
                    raise tarfile.ReadError(f"a member of {member.size} bytes")
                if count > _MEMBERS:
                    raise UserError(
                        f"{path}: has more than {_MEMBERS:,} members; expected at most that many;"
                        f" {remedy}"
                    )
                end = member.offset_data + member.size
                if end > total:
                    raise UserError(
                        f"{path}: unpacks to {end:,} bytes up to the end of its member"
                        f" {member.name!r}; expected at most {total:,} in all; {remedy}"
                    )
                stream.limit = min(total, end + _HEADERS)
                name = _base(member.name)
                if not member.isfile() or is_stray(name):
                    continue
                if name not in limits:
                    contents[name] = None
                    continue
                if name in contents:
                    raise _doubled(path, name, remedy)
                if member.issparse():
                    raise UserError(
                        f"{path}: {name} is sparse, so that some of its bytes are not in the"
                        f" archive; expected the whole file; {remedy}"
                    )
                content = archive.extractfile(member)
                assert content is not None  # The member is a file.
                contents[name] = read_at_most(
                    content, limits[name], where=f"{path}: {name}", remedy=remedy
                )
        stream.limit = total
        # The tar ends before the gzip stream, whose end holds the checksum.
        while stream.read(1 << 20):
            pass
    return contents


class _Bounded(io.RawIOBase):
    """A stream that raises at the first byte beyond `limit`, which the reader adjusts."""

    def __init__(self, stream: Readable, limit: int, what: str, remedy: str) -> None:
        self.limit = limit
        self._stream = stream
        self._what = what
        self._remedy = remedy
        self._count = 0

    def read(self, size: int = -1, /) -> bytes:
        part = self._stream.read(size)
        self._count += len(part)
        if self._count > self.limit:
            raise UserError(
                f"{self._what} more than {self.limit:,} bytes; expected at most that many at this"
                f" point; {self._remedy}"
            )
        return part


def read_file(path: Path, limit: int, *, remedy: str) -> bytes:
    """Returns the content of a file, decompressed if its name ends in .gz.

    Args:
      path: the file.
      limit: the maximum size of the content in bytes.
      remedy: what a user should do about a damaged file.
    """
    with _reporting_damage(path, remedy), open_regular(path, remedy=remedy) as file:
        stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        return read_at_most(stream, limit, where=str(path), remedy=remedy)


def refuse_escapes(path: Path, names: Collection[str]) -> None:
    """Raises if a member's name escapes the archive, as happens only in malicious archives."""
    for name in names:
        if name.startswith("/") or ".." in name.replace("\\", "/").split("/"):
            raise UserError(
                f"{path}: has a member named {name!r}; expected names inside its own"
                " folder; this is not the official archive: do not use it"
            )


@contextlib.contextmanager
def _reporting_damage(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except UserError:  # It is a ValueError, but needs no further report.
        raise
    except _DAMAGE as error:
        raise UserError(
            f"{path}: damaged or incomplete ({in_short(error)}); expected a whole file; {remedy}"
        ) from error


def _top_of_folder(path: Path, marker: str, remedy: str) -> Path:
    if (path / marker).is_file():
        return path
    tops = sorted(child for child in path.iterdir() if (child / marker).is_file())
    if not tops:
        raise UserError(f"{path}: has no file {marker}; expected the official layout; {remedy}")
    return _only(path, marker, tops)


def _only(path: Path, marker: str, tops: list[_AnyPath]) -> _AnyPath:
    if len(tops) > 1:
        raise UserError(
            f"{path}: has a file {marker} both in {tops[0].name} and in {tops[1].name}; expected"
            " one data set; remove the other, or give the path of its folder"
        )
    return tops[0]


def _doubled(path: Path, name: str, remedy: str) -> UserError:
    return UserError(f"{path}: has two members {name}; expected one of each name; {remedy}")


def _base(name: str) -> str:
    return name.rpartition("/")[2]
