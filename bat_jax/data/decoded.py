"""Decodes the images of a folder once, into a file that later runs read or map into memory.

The file is `images.npy` in a folder `decoded-<digest>`, with `about.json` beside it. The digest is
that of the names, sizes and times of change of the decoded files, so that a folder that changes is
decoded again, under another name. A decoded folder appears complete, by renaming, and is never
changed or removed here.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from bat_jax.data.images import Allocate, in_memory
from bat_jax.data.mapped import AT_ONCE, Mapped
from bat_jax.data.places import expanded
from bat_jax.data.reading import TEXT_LIMIT, open_regular, read_at_most
from bat_jax.errors import UserError
from bat_jax.runtime import memory

log = logging.getLogger(__name__)

NO_CACHE = "none"
"""The name of a cache that keeps nothing."""

_FORMAT = 1
_PREFIX = "decoded-"
_IMAGES, _ABOUT = "images.npy", "about.json"
# Sets are read into memory up to this part of the free memory, which then holds them twice: whole,
# and the training part.
_READ = 0.4


def decoded(
    folder: Path,
    names: Sequence[str],
    decode: Callable[[Allocate], UInt8[np.ndarray, "images height width channels"]],
    *,
    side: int | None,
    cache: str | None,
) -> UInt8[np.ndarray, "images height width channels"] | Mapped:
    """Returns the images of a folder, decoded now or by an earlier run.

    Args:
      folder: of the images.
      names: of their files in the folder.
      decode: decodes them into the array that the function it is given allocates.
      side: to which they are resized, which the cache records.
      cache: the folder of the decoded images; None is `folder`, unless nothing can be written
        there; `none` keeps nothing.

    Returns:
      An array in memory, or rows of the file if it would take more than 40 % of the free memory.

    Raises:
      UserError: the folder changed while it was read, what an earlier run decoded is damaged or of
        other files, or the folder that `cache` names cannot be written.
    """
    listing = _listing(folder, names)
    if cache == NO_CACHE:
        pixels = decode(in_memory(str(folder)))
        _check_unchanged(folder, names, listing)
        return pixels
    place = folder if cache is None else _named(cache)
    # Inside the images' own folder, which may be moved, its path does not matter.
    where = [] if cache is None else [str(folder.resolve())]
    about: dict[str, Any] = {
        "format": _FORMAT,
        "folder": str(folder.resolve()),
        "side": side,
        "files": _digest(where + listing, side),
    }
    target, is_ours = place / f"{_PREFIX}{about['files'][:16]}", False
    if not os.path.lexists(target):
        writer = _Writer(place, must=cache is not None, what=str(folder))
        try:
            _mention_others(place, about)
            log.info("%s: decoding %d images once, into %s", folder, len(names), target)
            pixels = decode(writer.allocate)
            _check_unchanged(folder, names, listing)
            if not writer.is_open:
                return pixels
            is_ours = writer.finish(pixels, about, target)
        finally:
            writer.close()
    return _opened(target, about, len(names), is_hashed=is_ours)


def _named(cache: str) -> Path:
    if "://" in cache:
        raise UserError(
            f"config.data.cache is {cache}; expected a folder of a disk, whose files can be mapped"
            " into memory"
        )
    return expanded(cache)


def _listing(folder: Path, names: Sequence[str]) -> list[str]:
    """Returns a line for each file: its name, size and time of change."""
    return [_line(folder, name) for name in names]


def _line(folder: Path, name: str) -> str:
    try:
        found = (folder / name).stat()
    except OSError:  # Reading it reports what is wrong with it.
        return f"{name}\0-1\0-1"
    return f"{name}\0{found.st_size}\0{found.st_mtime_ns}"


def _digest(listing: Sequence[str], side: int | None) -> str:
    text = "\n".join([f"{_FORMAT} {side}", *listing])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _check_unchanged(folder: Path, names: Sequence[str], listing: Sequence[str]) -> None:
    """Raises if a file is not what it was when the listing was made."""
    for name, line in zip(names, listing, strict=True):
        if _line(folder, name) != line:
            raise UserError(
                f"{folder}: {name} changed while the folder was read; expected files that stay as"
                " they are: run the same command again when nothing writes there"
            )


def _mention_others(place: Path, about: dict[str, Any]) -> None:
    """Logs what earlier runs left of the same folder: its former content, and unfinished files."""
    for path in sorted(place.glob(f"{_PREFIX}*")):
        try:
            other = json.loads((path / _ABOUT).read_bytes()[:TEXT_LIMIT])
            is_former = all(other[name] == about[name] for name in ("folder", "side"))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if is_former:
            log.warning(
                "%s: its files have changed since %s was decoded from them; remove that if no run"
                " needs it",
                about["folder"],
                path,
            )
    for path in sorted(place.glob(f".{_PREFIX}*.part")):
        log.warning(
            "%s: is unfinished; remove it unless another run is decoding at this moment", path
        )


class _Writer:
    """Writes the decoded images into a folder under a temporary name."""

    def __init__(self, place: Path, *, must: bool, what: str) -> None:
        """Prepares to write.

        Args:
          place: where the folder will be.
          must: whether to raise an error where nothing can be written, instead of a warning.
          what: is decoded, for messages.
        """
        self._place, self._must, self._what = place, must, what
        self._folder: Path | None = None

    @property
    def is_open(self) -> bool:
        """Whether the images are in a file."""
        return self._folder is not None

    def allocate(
        self, count: int, shape: tuple[int, int, int]
    ) -> UInt8[np.ndarray, "images height width channels"]:
        """Returns an array in a new file, or in memory if there can be no such file."""
        size = count * math.prod(shape)
        try:
            self._place.mkdir(parents=True, exist_ok=True)
            made = tempfile.mkdtemp(prefix=f".{_PREFIX}", suffix=".part", dir=self._place)
            self._folder = Path(made)
            file = self._folder / _IMAGES
            array = np.lib.format.open_memmap(
                file, mode="w+", dtype=np.uint8, shape=(count, *shape)
            )
            with file.open("r+b") as opened:
                # Writing to a mapped file on a full disk would end the process.
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            self.close()
            found = f"{size / 2**30:.1f} GiB of decoded images cannot be written there"
            reason = error.strerror or str(error)
            if self._must:
                raise UserError(
                    f"config.data.cache is {self._place}, and {found} ({reason}); expected a"
                    " folder with room for them, or none"
                ) from error
            log.warning(
                "%s: %s (%s), so that every run decodes them again: name another folder with"
                " config.data.cache",
                self._place,
                found,
                reason,
            )
            return in_memory(self._what)(count, shape)
        return np.asarray(array)

    def finish(
        self,
        pixels: UInt8[np.ndarray, "images height width channels"],
        about: dict[str, Any],
        target: Path,
    ) -> bool:
        """Gives the folder its name; False if another process has written the same meanwhile."""
        assert self._folder is not None
        content = {**about, "shape": list(pixels.shape), "sha256": _hash(pixels)}
        (self._folder / _ABOUT).write_text(json.dumps(content, indent=2) + "\n")
        self._folder.chmod(0o755)
        for name in (_IMAGES, _ABOUT):
            with (self._folder / name).open("rb") as file:
                os.fsync(file.fileno())
        try:
            self._folder.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            return False  # `close` removes this copy.
        self._folder = None
        return True

    def close(self) -> None:
        """Removes what is unfinished."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _opened(
    target: Path, about: dict[str, Any], count: int, *, is_hashed: bool
) -> UInt8[np.ndarray, "images height width channels"] | Mapped:
    """Returns the images of a decoded folder, after checking all of them.

    Pixels whose hash this process has just written (`is_hashed`) are not hashed again.
    """
    remedy = "remove that folder, and the images are decoded again"
    place = target / _ABOUT
    try:
        with open_regular(place, remedy=remedy) as file:
            content = json.loads(read_at_most(file, TEXT_LIMIT, where=str(place), remedy=remedy))
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise _wrong(target, f"{_ABOUT} cannot be read ({_reason(error)})", "") from error
    found = content if isinstance(content, dict) else {}
    for name in ("format", "side", "files"):
        if found.get(name) != about[name]:
            what = f"{_ABOUT} is of other files: its {name!r} is {found.get(name)!r}"
            raise _wrong(target, what, f"{about[name]!r}")
    try:
        with open_regular(target / _IMAGES, remedy=remedy):
            pixels = np.asarray(np.load(target / _IMAGES, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise _wrong(target, f"{_IMAGES} is damaged ({_reason(error)})", "") from error
    shape = found.get("shape")
    is_right = pixels.dtype == np.uint8 and pixels.ndim == 4 and len(pixels) == count
    if not is_right or list(pixels.shape) != shape or not pixels.flags.c_contiguous:
        raise _wrong(
            target,
            f"{_IMAGES} is {pixels.dtype} of shape {pixels.shape}",
            f"uint8 of shape {shape}, {count} images",
        )
    if not is_hashed and _hash(pixels) != found.get("sha256"):
        raise _wrong(target, f"{_IMAGES} is damaged", f"the pixels whose hash {_ABOUT} has")
    if pixels.nbytes > _READ * memory.available():
        log.info("%s: %.1f GiB stay in their file", target, pixels.nbytes / 2**30)
        return Mapped(pixels)
    return np.array(pixels)


def _wrong(target: Path, found: str, expected: str) -> UserError:
    return UserError(
        f"{target}: {found}; expected {expected or 'what an earlier run decoded'}; remove that"
        " folder, and the images are decoded again"
    )


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _hash(pixels: UInt8[np.ndarray, "images height width channels"]) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(pixels), AT_ONCE):
        digest.update(np.ascontiguousarray(pixels[start : start + AT_ONCE]).data)
    return digest.hexdigest()
