"""A user's own images in class folders."""

from pathlib import Path

import numpy as np

from bat_jax.data import images
from bat_jax.data.dataset import Dataset, Split
from bat_jax.data.reading import is_stray, open_regular, read_at_most
from bat_jax.errors import UserError

_LAYOUT = (
    "<folder>/train/<class>/<image> and <folder>/test/<class>/<image> (or val in place of test)"
)


def read(folder: Path) -> Dataset:
    """Reads <folder>/train/<class>/* and <folder>/test/<class>/* (or val, if test is absent).

    Classes are the folders of train, sorted by name. Images are 8-bit BMP, JPEG, PNG, TIFF or WebP
    of one size, gray or RGB; if any is in colour, gray ones are converted to RGB. An id is a
    position in the order of classes, then of sorted file names. Hidden and system files are
    skipped.

    Args:
      folder: a folder with the layout above.
    """
    if not folder.is_dir():
        raise UserError(f"folder:{folder}: is no folder; expected {_LAYOUT}")
    train = folder / "train"
    test = next((place for place in (folder / "test", folder / "val") if place.is_dir()), None)
    if not train.is_dir() or test is None:
        missing = "train" if not train.is_dir() else "test or val"
        raise UserError(f"{folder}: has no folder {missing}; expected {_LAYOUT}")
    classes = _visible_folders(train)
    if not classes:
        raise UserError(f"{train}: has no class folders; expected {_LAYOUT}")
    unknown = set(_visible_folders(test)) - set(classes)
    if unknown:
        raise UserError(
            f"{test}: has a class {min(unknown)!r} that {train} lacks; expected the same classes;"
            " rename or remove it"
        )
    training_files = _files(train, classes, may_be_empty=False)
    test_files = _files(test, classes, may_be_empty=True)
    if not test_files:
        raise UserError(f"{test}: has no images; expected {_LAYOUT}")
    # Decoded together, so that both have the same size and channels.
    pixels = images.decode(
        [str(file.relative_to(folder)) for file, _ in training_files + test_files],
        lambda name: _content(folder / name),
        where=str(folder),
        remedy="replace or remove it",
    )
    return Dataset(
        f"folder:{folder}",
        _split(pixels[: len(training_files)], training_files),
        _split(pixels[len(training_files) :], test_files),
        tuple(classes),
    )


def _files(part: Path, classes: list[str], *, may_be_empty: bool) -> list[tuple[Path, int]]:
    found = []
    for label, name in enumerate(classes):
        place = part / name
        files = sorted(place.iterdir()) if place.is_dir() else []
        of_class = [(file, label) for file in files if not is_stray(file.name)]
        if not of_class and not may_be_empty:
            raise UserError(
                f"{place}: is empty; expected images of class {name!r}; add some or remove it"
            )
        found += of_class
    return found


def _split(pixels: np.ndarray, files: list[tuple[Path, int]]) -> Split:
    labels = np.array([label for _, label in files], np.int32)
    return Split(pixels, labels, np.arange(len(labels), dtype=np.int64))


def _visible_folders(place: Path) -> list[str]:
    return sorted(
        child.name for child in place.iterdir() if child.is_dir() and not is_stray(child.name)
    )


def _content(file: Path) -> bytes:
    try:
        with open_regular(file, remedy="remove it") as opened:
            return read_at_most(
                opened, images.LIMIT, where=str(file), remedy="make it smaller or remove it"
            )
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read ({error.strerror}); expected an image; remove it"
        ) from error
