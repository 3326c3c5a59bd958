"""CIFAR-100 as a few files of half the archive's size, for slow or limited transfers.

    python benchmarks/parts.py pack cifar-100-binary.tar.gz FOLDER    # two files of 48 MiB
    python benchmarks/parts.py unpack FOLDER OUT                      # OUT/cifar-100-binary

Images travel as sheets of 500, lossless WebP, which halves the archive's 161 MB. Every part names
how many there are and the MD5 of the files of the data set, which `unpack` checks. `unpack` needs
NumPy and Pillow.
"""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import io
import os
import re
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from bat_jax.errors import UserError

FOLDER = "cifar-100-binary"
_RECORDS = ("train.bin", "test.bin")
_TEXTS = ("fine_label_names.txt", "coarse_label_names.txt")
_LABELS, _SIDE, _CHANNELS = 2, 32, 3
_RECORD = _LABELS + _CHANNELS * _SIDE * _SIDE
_SHEET, _COLUMNS = 500, 25
_NAME = re.compile(r"part-(\d+)-of-(\d+)\.npz")
_AGAIN = "copy it again, or pack the archive again"


@dataclasses.dataclass(frozen=True)
class _Sheet:
    """Some consecutive images of a file.

    Attributes:
      name: of the array in its part: the file and the place of the first image.
      content: a WebP picture of `_COLUMNS` images a row.
    """

    name: str
    content: bytes


def pack(archive: Path, folder: Path, *, parts: int = 2) -> list[Path]:
    """Writes the parts of an archive, as even in size as the sheets allow, and returns them.

    Raises:
      UserError: the archive is missing, or is not the binary version of CIFAR-100.
    """
    files = _members(archive)
    texts = [name for name in files if name in _TEXTS]
    shared = {name: np.frombuffer(files[name], np.uint8) for name in texts}
    for name in _RECORDS:
        shared[f"{name}/md5"] = np.frombuffer(_md5(files[name]).encode(), np.uint8)
        shared[name] = _records(files[name])[:, :_LABELS]
    held: list[list[_Sheet]] = [[] for _ in range(parts)]
    for sheet in sorted(_sheets(files), key=lambda sheet: -len(sheet.content)):
        min(held, key=lambda part: sum(len(one.content) for one in part)).append(sheet)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, part in enumerate(held, start=1):
        arrays = {sheet.name: np.frombuffer(sheet.content, np.uint8) for sheet in part}
        path = folder / f"part-{number}-of-{parts}.npz"
        beside = path.with_name(f".{path.name}.part")
        with beside.open("wb") as file:
            np.savez(file, allow_pickle=False, **shared, **arrays)
        paths.append(beside.rename(path))
    return paths


def unpack(folder: Path, out: Path) -> Path:
    """Restores the files of the data set in `out`, and returns their folder.

    Files that are there already stay if they are the same.

    Raises:
      UserError: a part is missing or damaged.
    """
    arrays = _read(folder)
    target = out / FOLDER
    # Under its own name only when it is complete.
    place = target if target.exists() else out / f".{FOLDER}.part"
    place.mkdir(parents=True, exist_ok=True)
    for name in _RECORDS:
        expected = arrays[f"{name}/md5"].tobytes().decode()
        if not (target / name).exists() or _md5((target / name).read_bytes()) != expected:
            _write(place / name, _restored(folder, arrays, name, expected))
    for name in _TEXTS:
        if name in arrays:
            _write(place / name, arrays[name].tobytes())
    return place if place == target else place.rename(target)


def _restored(folder: Path, arrays: Mapping[str, np.ndarray], name: str, expected: str) -> bytes:
    """Returns the content of a file of records, whose MD5 is expected."""
    prefix = f"{name}/sheet-"
    sheets = [arrays[key].tobytes() for key in sorted(arrays) if key.startswith(prefix)]
    labels = arrays[name].reshape(-1, _LABELS)
    try:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            pixels = np.concatenate([*pool.map(_decoded, sheets)])[: len(labels)]
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: a sheet of {name} is damaged ({error}); {_AGAIN}") from None
    if len(pixels) != len(labels):
        raise UserError(
            f"{folder}: holds {len(pixels)} images of {name}; expected {len(labels)}; {_AGAIN}"
        )
    content = np.concatenate([labels, pixels], axis=1).tobytes()
    if _md5(content) != expected:
        raise UserError(f"{folder}: {name} has MD5 {_md5(content)}; expected {expected}; {_AGAIN}")
    return content


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def present(folder: Path) -> bool:
    """Returns whether a folder holds a part."""
    return folder.is_dir() and any(_NAME.fullmatch(path.name) for path in folder.iterdir())


def _members(archive: Path) -> dict[str, bytes]:
    """Returns the files of the archive that are packed, by name."""
    again = "expected cifar-100-binary.tar.gz"
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = Path(member.name).name
                file = tar.extractfile(member) if name in _RECORDS + _TEXTS else None
                if file is not None:
                    found[name] = file.read()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UserError(f"{archive}: cannot be read ({error}); {again}") from None
    for name in (*_RECORDS, _TEXTS[0]):
        if name not in found:
            raise UserError(f"{archive}: has no {name}; {again}")
    for name in _RECORDS:
        if not found[name] or len(found[name]) % _RECORD:
            raise UserError(f"{archive}: {name} has {len(found[name])} bytes; {again}")
    return found


def _records(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8).reshape(-1, _RECORD)


def _sheets(files: Mapping[str, bytes]) -> list[_Sheet]:
    """Returns the sheets of all images, encoded in all cores."""
    names, blocks = [], []
    for name in _RECORDS:
        pixels = _records(files[name])[:, _LABELS:]
        for start in range(0, len(pixels), _SHEET):
            names.append(f"{name}/sheet-{start:06d}")
            blocks.append(pixels[start : start + _SHEET])
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return [_Sheet(*pair) for pair in zip(names, pool.map(_encoded, blocks), strict=True)]


def _encoded(pixels: np.ndarray) -> bytes:
    """Returns images, channels first and flat, as a WebP sheet; the last row is filled up."""
    rows = -(-len(pixels) // _COLUMNS)
    grid = np.zeros((rows * _COLUMNS, pixels.shape[1]), np.uint8)
    grid[: len(pixels)] = pixels
    grid = grid.reshape(rows, _COLUMNS, _CHANNELS, _SIDE, _SIDE)
    sheet = grid.transpose(0, 3, 1, 4, 2).reshape(rows * _SIDE, _COLUMNS * _SIDE, _CHANNELS)
    out = io.BytesIO()
    Image.fromarray(sheet).save(out, "WEBP", lossless=True, quality=75, method=4)
    return out.getvalue()


def _decoded(content: bytes) -> np.ndarray:
    """Returns the images of a sheet, channels first and flat, with those that fill it up."""
    with Image.open(io.BytesIO(content)) as image:
        sheet = np.asarray(image.convert("RGB"))
    rows = sheet.shape[0] // _SIDE
    grid = sheet.reshape(rows, _SIDE, _COLUMNS, _SIDE, _CHANNELS).transpose(0, 2, 4, 1, 3)
    return grid.reshape(rows * _COLUMNS, -1)


def _read(folder: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of all parts."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    counts = {int(found[2]) for name in names if (found := _NAME.fullmatch(name))}
    if len(counts) != 1:
        found = f"parts of {len(counts)} different packings" if counts else "no part-1-of-N.npz"
        raise UserError(f"{folder}: has {found}; expected all parts of one packing")
    arrays: dict[str, np.ndarray] = {}
    (count,) = counts
    for number in range(1, count + 1):
        path = folder / f"part-{number}-of-{count}.npz"
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected all {count} parts; copy it too")
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as part:
                arrays |= {name: part[name] for name in part.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: is damaged ({error}); {_AGAIN}") from None
    return arrays


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(content)
    beside.rename(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="writes the parts of an archive")
    packing.add_argument("archive", type=Path)
    packing.add_argument("folder", type=Path)
    packing.add_argument("--parts", type=int, default=2)
    unpacking = commands.add_parser("unpack", help="restores the data set from all parts")
    unpacking.add_argument("folder", type=Path)
    unpacking.add_argument("out", type=Path)
    given = parser.parse_args()
    try:
        if given.command == "pack":
            for path in pack(given.archive, given.folder, parts=given.parts):
                print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
        else:
            print(unpack(given.folder, given.out))
    except UserError as error:
        print(f"parts.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
