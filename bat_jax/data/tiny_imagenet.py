"""Tiny ImageNet from the official zip archive or its extracted folder."""

import re
from pathlib import Path

import numpy as np

from bat_jax.data import archive, images
from bat_jax.data.dataset import IDS, Dataset, Split
from bat_jax.data.places import Official, data_folder_text, note_count
from bat_jax.data.reading import TEXT_LIMIT
from bat_jax.errors import UserError

OFFICIAL = Official(
    "tiny_imagenet",
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "237 MB",
    "tiny-imagenet-200",
)
SHAPE = (64, 64, 3)
_ANNOTATIONS = "val/val_annotations.txt"
_PER_CLASS = 500  # Training images per class in the whole set.


def read(path: Path | None) -> Dataset:
    """Reads Tiny ImageNet: 100,000 training images, 64x64x3, in 200 classes.

    Reference: Stanford CS231N, http://cs231n.stanford.edu/tiny-imagenet-200.zip. The 10,000
    validation images are the test set, because the official test images have no labels. A label is
    the line of its class in wnids.txt. The id of a training image is 500 times its label plus the
    number in its file name, that of a validation image the number in its file name; ids in a subset
    are therefore those of the whole set. Gray images are converted to RGB. Validation images may
    also be in val/<class>, val/<class>/images or val/images/<class>, as scripts for class-folder
    readers arrange them; val_annotations.txt is not needed then.

    Args:
      path: tiny-imagenet-200.zip, the folder extracted from it, or a folder that holds either.
        None looks in the data folder.
    """
    source = OFFICIAL.find(path)
    if source is None:
        raise UserError(
            f"tiny_imagenet: neither {OFFICIAL.archive} nor {OFFICIAL.folder} is in"
            f" {data_folder_text()}; {OFFICIAL.instruction()}"
        )
    with archive.opened(source, marker="wnids.txt", remedy=OFFICIAL.again) as files:
        reader = _Reader(source, files)
        return Dataset(
            "tiny_imagenet",
            reader.train(),
            reader.test(),
            reader.class_names(),
            folders=reader.wnids(),
        )


class _Reader:
    def __init__(self, source: Path, files: archive.Files) -> None:
        self._source = source
        self._files = files
        self._wnids = [line for line in self._lines("wnids.txt") if line]
        self._labels = {wnid: label for label, wnid in enumerate(self._wnids)}
        if len(self._labels) < len(self._wnids) or not self._labels:
            raise self._wrong("wnids.txt", f"{len(self._labels)} different classes", "one per line")
        for wnid in self._wnids:
            if "/" in wnid or wnid.startswith("."):
                raise self._wrong("wnids.txt", f"class {wnid!r}", "names of folders")

    def class_names(self) -> tuple[str, ...]:
        """Returns the names of the classes, such as "goldfish, Carassius auratus"."""
        words = dict(line.split("\t", 1) for line in self._lines("words.txt") if "\t" in line)
        return tuple(words.get(wnid, wnid) for wnid in self._wnids)

    def wnids(self) -> tuple[str, ...]:
        """Returns the WordNet ids of the classes, which name their folders."""
        return tuple(self._wnids)

    def train(self) -> Split:
        rows = []
        for wnid, label in self._labels.items():
            of_class = self._numbered(f"train/{wnid}/images", wnid)
            if not of_class:
                raise self._wrong(f"train/{wnid}/images", "no image", "some .JPEG files")
            for number, name in of_class.items():
                if number >= _PER_CLASS:
                    raise self._wrong(name, f"number {number}", f"0 to {_PER_CLASS - 1}")
                rows.append((label * _PER_CLASS + number, label, name))
        return self._split(rows, official=len(self._wnids) * _PER_CLASS)

    def test(self) -> Split:
        annotated = self._annotations()
        rows: dict[int, tuple[int, int, str]] = {}
        for wnid, label in self._labels.items():
            for folder in (f"val/{wnid}", f"val/{wnid}/images", f"val/images/{wnid}"):
                for number, name in self._numbered(folder, "val").items():
                    file = name.rpartition("/")[2]
                    if annotated.get(file, wnid) != wnid:
                        raise self._wrong(
                            name,
                            f"class {wnid!r}",
                            f"{annotated[file]!r}, which {_ANNOTATIONS} gives it",
                        )
                    if number in rows:
                        raise self._doubled(name, rows[number][2])
                    rows[number] = (number, label, name)
        # Images that a script copied to class folders are here too, unchanged.
        for number, name in self._numbered("val/images", "val").items():
            file = name.rpartition("/")[2]
            if file not in annotated:
                raise self._wrong(_ANNOTATIONS, f"no line for {file}", "one per image")
            if annotated[file] not in self._labels:
                raise self._wrong(
                    _ANNOTATIONS,
                    f"class {annotated[file]!r} for {file}",
                    f"one of the {len(self._labels)} in wnids.txt",
                )
            rows[number] = (number, self._labels[annotated[file]], name)
        if not rows:
            raise self._wrong("val/images", "no image", "some .JPEG files")
        return self._split(list(rows.values()), official=10_000)

    def _annotations(self) -> dict[str, str]:
        if _ANNOTATIONS not in self._files.under("val"):
            return {}
        wnid_of: dict[str, str] = {}
        for line in self._lines(_ANNOTATIONS):
            file, _, rest = line.partition("\t")
            wnid = rest.partition("\t")[0]
            if wnid_of.setdefault(file, wnid) != wnid:
                raise self._wrong(_ANNOTATIONS, f"two classes for {file}", "one per image")
        return wnid_of

    def _split(self, rows: list[tuple[int, int, str]], official: int) -> Split:
        ids, labels, names = zip(*sorted(rows), strict=True)
        note_count(f"{self._source}: {names[0].partition('/')[0]}", len(names), official)
        pixels = images.decode(
            names,
            lambda name: self._files.read(name, images.LIMIT),
            where=str(self._source),
            remedy=OFFICIAL.again,
            shape=SHAPE,
        )
        return Split(pixels, np.array(labels, np.int32), np.array(ids, np.int64))

    def _numbered(self, folder: str, prefix: str) -> dict[int, str]:
        numbered: dict[int, str] = {}
        for name in self._files.under(folder):
            file = name.rpartition("/")[2]
            match = re.fullmatch(rf"{re.escape(prefix)}_0*([0-9]+)\.JPEG", file)
            # int() rejects numbers of thousands of digits.
            digits = match[1] if match else ""
            if not digits or len(digits) > len(str(IDS.max)) or int(digits) > IDS.max:
                raise self._wrong(
                    folder,
                    file,
                    f"{prefix}_<number>.JPEG, the number at most {IDS.max}",
                    remedy=f"remove it, or {OFFICIAL.again}",
                )
            other = numbered.setdefault(int(digits), name)
            if other != name:
                raise self._doubled(name, other)
        return numbered

    def _lines(self, name: str) -> list[str]:
        try:
            text = self._files.read(name, TEXT_LIMIT).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._wrong(name, f"not text ({error.reason})", "lines of text") from error
        return [line.strip() for line in text.splitlines()]

    def _doubled(self, name: str, other: str) -> UserError:
        return self._wrong(
            name, f"the number of {other}", "one image per number", remedy="remove one of them"
        )

    def _wrong(
        self, name: str, found: str, expected: str, remedy: str = OFFICIAL.again
    ) -> UserError:
        return UserError(f"{self._source}: {name}: found {found}; expected {expected}; {remedy}")
