"""Reads corrupted test images in the two official layouts."""

import abc
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped, UInt8

from bat_jax.data import image_folder, images
from bat_jax.data.dataset import Dataset, Split, positions
from bat_jax.data.reading import is_stray, open_regular, read_at_most
from bat_jax.errors import UserError, in_short

NAMES = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The corruptions over which the published mean is taken."""
SEVERITIES = (1, 2, 3, 4, 5)
"""The severities of every corruption."""

LABELS = "labels.npy"
"""The file of the labels of all versions."""
IDS = "ids.npy"
"""The file of the ids of the images, in a set that this package made."""
_REMEDY = "extract the archive again"
_NUMBERED = re.compile(r"(?:.*\D)?(\d{1,9})\.jpe?g", re.IGNORECASE)


class Corrupted(abc.ABC):
    """The corrupted versions of a test set.

    Attributes:
      path: the folder of the files.
      names: the names of the corruptions.
    """

    def __init__(self, path: Path, names: Sequence[str], dataset: Dataset):
        """Stores the values that all layouts need."""
        self.path = path
        self.names = tuple(names)
        self._dataset = dataset

    @abc.abstractmethod
    def images(
        self, name: str, severity: int, ids: Int64[np.ndarray, " images"]
    ) -> UInt8[np.ndarray, "images height width channels"]:
        """Returns the versions of the test images with these ids, in this order.

        Raises:
          UserError: the files of this corruption and severity lack some of them, or are damaged.
        """

    def split(self, name: str, severity: int, test: Split) -> Split:
        """Returns the versions of some of the test images, with their labels and ids."""
        return Split(self.images(name, severity, test.ids), test.labels, test.ids)


def read(
    path: str | os.PathLike[str], dataset: Dataset, names: Sequence[str] | None = None
) -> Corrupted:
    """Opens the corrupted versions of a data set's test images.

    Two layouts are recognised. CIFAR-10-C and CIFAR-100-C have a file `<corruption>.npy` each, with
    the whole test set at severity 1, then at severity 2 and so on, and `labels.npy` with the labels
    in that order. A set that this package made has the ids of its images in `ids.npy` too.
    Tiny-ImageNet-C has files `<corruption>/<severity>/<class>/<name>.JPEG`, with the same names
    everywhere.

    Args:
      path: the folder of the files.
      dataset: the data set whose test images were corrupted; they are found by its ids.
      names: the names of the corruptions; by default the 15 of the published mean.

    Raises:
      UserError: a corruption is missing, or a file has the wrong type, shape, number of images or
        labels.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(
            f"{path}: is not a folder; expected that of CIFAR-10-C, CIFAR-100-C or Tiny-ImageNet-C,"
            " extracted from its archive"
        )
    names = NAMES if names is None else names
    if any(path.glob("*.npy")):
        return _Arrays(path, names, dataset)
    return _Folders(path, names, dataset)


class _Arrays(Corrupted):
    """A file of arrays for each corruption."""

    def __init__(self, path: Path, names: Sequence[str], dataset: Dataset):
        super().__init__(path, names, dataset)
        _check_present(path, names, [file.stem for file in path.glob("*.npy")], suffix=".npy")
        labels = _opened(path / LABELS)
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) % len(SEVERITIES):
            raise UserError(
                f"{path / LABELS}: is {labels.dtype} of shape {labels.shape}; expected integers,"
                f" the labels of all test images {len(SEVERITIES)} times"
            )
        self._count = len(labels) // len(SEVERITIES)
        self._check_labels(np.asarray(labels).reshape(len(SEVERITIES), self._count))
        expected = (len(labels), *dataset.image_shape)
        self._arrays: Mapping[str, Any] = {name: _opened(path / f"{name}.npy") for name in names}
        for name, array in self._arrays.items():
            if array.dtype != np.uint8 or array.shape != expected:
                raise UserError(
                    f"{path / name}.npy: is {array.dtype} of shape {array.shape}; expected uint8 of"
                    f" shape {expected}, as {LABELS} and {dataset.name} have"
                )

    def _check_labels(self, labels: Shaped[np.ndarray, "severities images"]) -> None:
        dataset, test = self._dataset, self._dataset.test
        rows = self._rows(test)
        self._row = dict(zip(test.ids.tolist(), rows.tolist(), strict=True))
        ours = test.labels
        if dataset.classes is not None:
            ours = np.asarray(dataset.classes, np.int32)[ours]
        differ = np.argwhere(labels[:, rows] != ours)
        if len(differ):
            severity, place = differ[0]
            raise UserError(
                f"{self.path / LABELS}: has label {labels[severity, rows[place]]} for image"
                f" {rows[place]} at severity {severity + 1}; expected {ours[place]}, that of the"
                f" test image of {dataset.name}: name the folder of the same data set"
            )

    def _rows(self, test: Split) -> Int64[np.ndarray, " images"]:
        """Returns the rows of the test images among those of one severity."""
        if (self.path / IDS).exists():
            return self._rows_by_id(test)
        if len(test) == self._count:
            return np.arange(len(test))
        # This is a part of the test set: ids are rows of the whole test set.
        if test.ids.max() >= self._count:
            raise UserError(
                f"{self.path / LABELS}: has labels of {self._count} images at each severity;"
                f" expected those of the {len(test)} test images of {self._dataset.name}"
            )
        return test.ids

    def _rows_by_id(self, test: Split) -> Int64[np.ndarray, " images"]:
        path, ids = self.path / IDS, _opened(self.path / IDS)
        if ids.dtype.kind not in "iu" or ids.shape != (self._count,):
            raise UserError(
                f"{path}: is {ids.dtype} of shape {ids.shape}; expected integers of shape"
                f" ({self._count},), the ids of the images of {LABELS}"
            )
        known, counts = np.unique(ids, return_counts=True)
        if len(known) < len(ids):
            raise UserError(
                f"{path}: has the id {known[counts > 1][0]} twice; expected each test image once"
            )
        rows = positions(np.asarray(ids, np.int64), test.ids)
        missing = test.ids[rows < 0]
        if len(missing):
            raise UserError(
                f"{path}: lacks {missing[0]}, the id of a test image of {self._dataset.name}"
                f" ({len(missing)} are missing); expected all: name the folder of the same data set"
            )
        return rows

    def images(
        self, name: str, severity: int, ids: Int64[np.ndarray, " images"]
    ) -> UInt8[np.ndarray, "images height width channels"]:
        """Returns the rows of the array; only these are read from the disk."""
        rows = np.array([self._row[int(number)] for number in ids])
        return np.ascontiguousarray(self._arrays[name][(severity - 1) * self._count + rows])


class _Folders(Corrupted):
    """A folder for each corruption, severity and class."""

    def __init__(self, path: Path, names: Sequence[str], dataset: Dataset):
        super().__init__(path, names, dataset)
        _check_present(path, names, [place.name for place in path.iterdir() if place.is_dir()])
        for name in names:
            for severity in SEVERITIES:
                if not (path / name / str(severity)).is_dir():
                    raise UserError(
                        f"{path / name / str(severity)}: no such folder; expected the severities"
                        f" {SEVERITIES[0]} to {SEVERITIES[-1]} of every corruption"
                    )
        self._files = self._matched(path / names[0] / str(SEVERITIES[0]))

    def _matched(self, place: Path) -> dict[int, str]:
        """Returns the file of every test image by its id, from those of one severity."""
        dataset, test = self._dataset, self._dataset.test
        matched: dict[int, str] = {}
        for label, folder in enumerate(dataset.folders or dataset.class_names):
            ids = np.sort(test.ids[test.labels == label]).tolist()
            if isinstance(folder, str):
                matched |= self._of_folder(place, folder, ids)
            else:
                matched |= self._of_folders(place, folder, ids, dataset.class_names[label])
        return matched

    def _of_folder(self, place: Path, folder: str, ids: Sequence[int]) -> dict[int, str]:
        """Matches files by the numbers in their names, if these are ids, else by their order.

        The ids of a user's own folder are places in the order of names, and no numbers in them.
        """
        if self._dataset.name.startswith(image_folder.PREFIX):
            ordered = _files(place / folder)
        else:
            files = _numbered(place / folder)
            if set(ids) <= files.keys():
                return {number: f"{folder}/{files[number]}" for number in ids}
            ordered = [files[number] for number in sorted(files)]
        if len(ordered) != len(ids):
            raise UserError(
                f"{place / folder}: has {len(ordered)} images; expected {len(ids)}, the"
                f" number of test images of this class in {self._dataset.name}"
            )
        return {number: f"{folder}/{name}" for number, name in zip(ids, ordered, strict=True)}

    def _of_folders(
        self, place: Path, folders: Sequence[str], ids: Sequence[int], name: str
    ) -> dict[int, str]:
        """Matches files by number alone, because an id does not contain the folder of its image."""
        files = {
            number: f"{folder}/{file}"
            for folder in folders
            for number, file in _numbered(place / folder).items()
        }
        missing = [number for number in ids if number not in files]
        if missing:
            raise UserError(
                f"{place}: the images of {name} in {len(folders)} folders have other numbers than"
                f" its ids; expected val_{missing[0]}.JPEG in one of them ({len(missing)} are"
                " missing): rename the files as those of the data set"
            )
        return {number: files[number] for number in ids}

    def images(
        self, name: str, severity: int, ids: Int64[np.ndarray, " images"]
    ) -> UInt8[np.ndarray, "images height width channels"]:
        """Returns the decoded files, which have the same names in every folder."""
        place = self.path / name / str(severity)

        def content(file: str) -> bytes:
            try:
                with open_regular(place / file, remedy=_REMEDY) as opened:
                    return read_at_most(
                        opened, images.LIMIT, where=str(place / file), remedy=_REMEDY
                    )
            except OSError as error:
                raise UserError(
                    f"{place / file}: {error.strerror}; expected the same files for every"
                    f" corruption and severity; {_REMEDY}"
                ) from None

        files = [self._files[int(number)] for number in ids]
        return images.decode(
            files, content, where=str(place), remedy=_REMEDY, shape=self._dataset.image_shape
        )


def _files(folder: Path) -> list[str]:
    """Returns the names of the files of a folder, in order."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one for every class")
    return sorted(file.name for file in folder.iterdir() if not is_stray(file.name))


def _numbered(folder: Path) -> dict[int, str]:
    """Returns the image files of a folder by the number at the end of their names."""
    matches = [_NUMBERED.fullmatch(name) for name in _files(folder)]
    found = {int(match[1]): match[0] for match in matches if match}
    if len(found) < sum(match is not None for match in matches):
        raise UserError(
            f"{folder}: two images have the same number; expected a different one for each image"
        )
    return found


def _check_present(
    path: Path, names: Sequence[str], found: Sequence[str], suffix: str = ""
) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        listed = ", ".join(f"{name}{suffix}" for name in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"{path}: lacks {listed}{more}; expected {len(names)} corruptions: add them, or set"
            " config.evaluation.corruptions.names to those to evaluate"
        )


def _opened(path: Path) -> Any:
    """Returns the array of a file, which stays on the disk."""
    expected = "expected an array of numbers in NumPy's .npy form"
    try:
        with open_regular(path, remedy=_REMEDY):
            found = np.load(path, mmap_mode="r", allow_pickle=False)
    # Damaged headers raise errors of several types.
    except Exception as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read ({in_short(error)}); {expected}") from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise UserError(f"{path}: holds several arrays; {expected}")
    return found
