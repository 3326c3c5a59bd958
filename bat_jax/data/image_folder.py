"""A user's own images in class folders."""

from pathlib import Path

import numpy as np

from bat_jax.data import images
from bat_jax.data.dataset import Dataset, Split
from bat_jax.data.decoded import decoded
from bat_jax.data.mapped import Mapped
from bat_jax.data.reading import TEXT_LIMIT, is_stray, open_regular, read_at_most
from bat_jax.errors import UserError

PREFIX = "folder:"
"""The beginning of the name of such a data set."""
_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_LAYOUT = (
    "<folder>/train/<class>/<image> and <folder>/test/<class>/<image> (or val in place of test)"
)


def read(folder: Path, *, side: int | None = None, cache: str | None = None) -> Dataset:
    """Reads <folder>/train/<class>/* and <folder>/test/<class>/* (or val, if test is absent).

    Classes are the folders of train, sorted by name. Images are 8-bit BMP, JPEG, PNG, TIFF or WebP
    of one size, gray or RGB; if any is in colour, gray ones are converted to RGB. An id is a
    position in the order of classes, then of sorted file names. Hidden and system files are
    skipped.

    Test images may also be in <folder>/val/* without class folders, as ImageNet's are. Then each
    line of <folder>/val.txt is the name of a file and its class, a folder of train or its number in
    sorted order, and an id is a position in the order of sorted file names.

    Args:
      folder: a folder with the layout above.
      side: resizes the central square of images of any sizes to this side, in pixels.
      cache: the folder that keeps the decoded images, by default `folder`; `none` keeps nothing.
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
    _check_no_images_beside(train)
    training_files = _files(train, classes, may_be_empty=False)
    is_flat = not _visible_folders(test) and any(not is_stray(f.name) for f in test.iterdir())
    test_files = _listed(test, classes) if is_flat else _files_of_test(test, train, classes)
    files = training_files + test_files
    names = [str(file.relative_to(folder)) for file, _ in files]

    # Decoded together, so that both have the same size and channels.
    def decode(allocate: images.Allocate) -> np.ndarray:
        return images.decode(
            names,
            lambda name: _content(folder / name),
            where=str(folder),
            remedy="replace or remove it",
            side=side,
            allocate=allocate,
        )

    pixels = decoded(folder, names, decode, side=side, cache=cache)
    count = len(training_files)
    return Dataset(
        f"{PREFIX}{folder}",
        _split(_rows(pixels, 0, count), training_files),
        _split(_rows(pixels, count, len(files)), test_files),
        tuple(classes),
    )


def _rows(pixels: np.ndarray | Mapped, start: int, end: int) -> np.ndarray | Mapped:
    return pixels.take(np.arange(start, end)) if isinstance(pixels, Mapped) else pixels[start:end]


def _files_of_test(test: Path, train: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """Returns the test images in class folders, with their labels."""
    unknown = set(_visible_folders(test)) - set(classes)
    if unknown:
        raise UserError(
            f"{test}: has a class {min(unknown)!r} that {train} lacks; expected the same classes;"
            " rename or remove it"
        )
    _check_no_images_beside(test)
    files = _files(test, classes, may_be_empty=True)
    if not files:
        raise UserError(f"{test}: has no images; expected {_LAYOUT}")
    return files


def _listed(test: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """Returns the test images without class folders, with the labels of a text file."""
    names = sorted(file.name for file in test.iterdir() if not is_stray(file.name))
    path = test.with_name(f"{test.name}.txt")
    wanted = f"expected {path}, a line for each: its name and its class"
    if not path.exists():
        raise UserError(f"{test}: has images without class folders, as {names[0]}; {wanted}")
    with open_regular(path, remedy="replace it") as file:
        text = read_at_most(file, TEXT_LIMIT, where=str(path), remedy="replace it")
    labels = {name: label for label, name in enumerate(classes)}
    numbers = {str(label): label for label in range(len(classes))}
    legal, lines = labels.keys() | numbers.keys(), []
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        name, _, given = line.strip().rpartition(" ")
        if not name or given not in legal:
            raise UserError(
                f"{path}: line {number} is {line[:80]!r}; expected the name of a file, a space and"
                f" its class, a folder of train or its number, 0 to {len(classes) - 1}"
            )
        lines.append((number, name.strip(), given))
    # Folders may have the names of numbers: all lines are read in the same way.
    readings = [of for of in (labels, numbers) if all(given in of for _, _, given in lines)]
    if not readings:
        raise UserError(
            f"{path}: some of its classes are names of folders of train and some are numbers;"
            " expected names alone, or numbers alone"
        )
    if any(readings[0][given] != readings[-1][given] for _, _, given in lines):
        raise UserError(
            f"{path}: its classes are names of folders of train, and numbers of other ones;"
            " expected one meaning: sort the images into folders of their classes"
        )
    known: dict[str, int] = {}
    for number, name, given in lines:
        label = readings[0][given]
        if known.setdefault(name, label) != label:
            raise UserError(f"{path}: line {number} gives {name} another class; expected one")
    missing = next((name for name in names if name not in known), None)
    if missing is not None:
        raise UserError(f"{path}: has no line for {missing}; {wanted}")
    return [(test / name, known[name]) for name in names]


def _check_no_images_beside(part: Path) -> None:
    """Raises a UserError if some images are in class folders and others are beside them."""
    names = sorted(file.name for file in part.iterdir() if file.suffix.lower() in _SUFFIXES)
    loose = [name for name in names if not is_stray(name) and (part / name).is_file()]
    if loose:
        raise UserError(
            f"{part}: has {len(loose)} images beside its class folders, as {loose[0]}; expected"
            " each in the folder of its class: sort or remove them"
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


def _split(pixels: np.ndarray | Mapped, files: list[tuple[Path, int]]) -> Split:
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
