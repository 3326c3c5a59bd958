"""CIFAR-10 and CIFAR-100 from the official binary archives, in the official order."""

import dataclasses
import hashlib
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bat_jax.data import archive, tfds_source
from bat_jax.data.dataset import Dataset, Split, Superclasses
from bat_jax.data.places import Official, check_labels, note_count
from bat_jax.data.reading import TEXT_LIMIT
from bat_jax.errors import UserError

_LOG = logging.getLogger(__name__)
_SHAPE = (3, 32, 32)  # In the files: all reds, then all greens, then all blues.


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The format of one of the two sets.

    Attributes:
      official: the published archive.
      train: the files of the training set, in order, with the MD5 of their published contents.
      test: the files of the test set, with the MD5 of theirs.
      images: the number of images in a training file; test files have 10,000.
      names: the file of class names, one per line.
      classes: the number of classes.
      label_bytes: the number of label bytes before an image: the superclass, if the set has
        superclasses, then the class.
      pickles: names of files that only the Python version of the archive has; they are pickles.
      superclass_names: the file of superclass names, one per line, if the set has superclasses.
      superclasses: the number of superclasses.
    """

    official: Official
    train: Mapping[str, str]
    test: Mapping[str, str]
    images: int
    names: str
    classes: int
    label_bytes: int
    pickles: frozenset[str]
    superclass_names: str | None = None
    superclasses: int = 0

    @property
    def record(self) -> int:
        """The size of an image with its labels, in bytes."""
        return self.label_bytes + math.prod(_SHAPE)

    @property
    def limits(self) -> Mapping[str, int]:
        """The maximum size of each file in bytes: that of the published one."""
        return {
            **dict.fromkeys(self.train, self.images * self.record),
            **dict.fromkeys(self.test, 10_000 * self.record),
            self.names: TEXT_LIMIT,
            **({} if self.superclass_names is None else {self.superclass_names: TEXT_LIMIT}),
        }


_CIFAR10 = _Layout(
    Official(
        "cifar10",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "162 MB",
        "cifar-10-batches-bin",
    ),
    train={
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    },
    test={"test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d"},
    images=10_000,
    names="batches.meta.txt",
    classes=10,
    label_bytes=1,
    pickles=frozenset({"data_batch_1", "test_batch", "batches.meta"}),
)
_CIFAR100 = _Layout(
    Official(
        "cifar100",
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "161 MB",
        "cifar-100-binary",
    ),
    train={"train.bin": "6172c7755cfe09b2fe270c85cebc1b15"},
    test={"test.bin": "4499cfba6c016c1be1438163640a0898"},
    images=50_000,
    names="fine_label_names.txt",
    classes=100,
    label_bytes=2,
    pickles=frozenset({"train", "test", "meta"}),
    superclass_names="coarse_label_names.txt",
    superclasses=20,
)


def read_cifar10(path: Path | None) -> Dataset:
    """Reads CIFAR-10: 50,000 training and 10,000 test images, 32x32x3, in 10 classes.

    Reference: A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html. An id is a position in
    the official order: for training images, from data_batch_1.bin through data_batch_5.bin.

    Args:
      path: cifar-10-binary.tar.gz, the folder extracted from it, or a folder that holds either.
        None looks in the data folder, then asks TFDS.
    """
    return _read(_CIFAR10, path)


def read_cifar100(path: Path | None) -> Dataset:
    """Reads CIFAR-100: 50,000 training and 10,000 test images, 32x32x3, in 100 (fine) classes.

    The 20 coarse labels are its superclasses.

    Reference: A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html. An id is a position in
    the official order.

    Args:
      path: cifar-100-binary.tar.gz, the folder extracted from it, or a folder that holds either.
        None looks in the data folder, then asks TFDS.
    """
    return _read(_CIFAR100, path)


def _read(layout: _Layout, path: Path | None) -> Dataset:
    official = layout.official
    source = official.find(path)
    if source is None:
        return tfds_source.read(official.name, instruction=official.instruction())
    _refuse_pickles(layout, source, {source.name.removesuffix(".tar.gz")})
    contents = _contents(layout, source)
    names = _names(layout, source, contents, layout.names, layout.classes)
    return Dataset(
        official.name,
        _split(layout, source, contents, layout.train, len(names), 50_000),
        _split(layout, source, contents, layout.test, len(names), 10_000),
        names,
        superclasses=_superclasses(layout, source, contents, len(names)),
    )


def _contents(layout: _Layout, source: Path) -> Mapping[str, bytes]:
    wanted = layout.limits
    found: Mapping[str, bytes | None]
    if source.is_dir():
        present = {file.name for file in source.iterdir() if not file.is_dir()}
        found = dict.fromkeys(present) | {
            name: archive.read_file(source / name, limit, remedy=layout.official.again)
            for name, limit in wanted.items()
            if name in present
        }
    else:
        found = archive.read_tar(source, wanted, remedy=layout.official.again)
    contents = {name: found[name] for name in wanted if found.get(name) is not None}
    # Without the names of superclasses, the data set has no superclasses.
    missing = [n for n in wanted if n not in contents and n != layout.superclass_names]
    if missing:
        _refuse_pickles(layout, source, set(found))
        raise UserError(
            f"{source}: has no file {missing[0]}; expected the files of"
            f" {layout.official.archive}: {', '.join(wanted)}; {layout.official.again}"
        )
    return {name: content for name, content in contents.items() if content is not None}


def _refuse_pickles(layout: _Layout, source: Path, names: set[str]) -> None:
    known = {"cifar-10-python", "cifar-100-python", "cifar-10-batches-py"}
    if names & (known | layout.pickles):
        raise UserError(
            f"{source}: is the version for Python, whose files are pickles, which can run arbitrary"
            " code and are never read; expected the binary version; fetch"
            f" {layout.official.url}"
        )


def _names(
    layout: _Layout, source: Path, contents: Mapping[str, bytes], file: str, most: int
) -> tuple[str, ...]:
    """Returns the names in a file of at most `most` lines."""
    try:
        lines = contents[file].decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{source}: {file} is not text ({error.reason}); expected one class name per line;"
            f" {layout.official.again}"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise UserError(
            f"{source}: {file} is empty; expected one class name per line; {layout.official.again}"
        )
    if len(names) > most or len(set(names)) < len(names):
        raise UserError(
            f"{source}: {file} has {len(set(names))} different names in {len(names)} lines;"
            f" expected at most {most}, all different; {layout.official.again}"
        )
    return names


def _superclasses(
    layout: _Layout, source: Path, contents: Mapping[str, bytes], num_classes: int
) -> Superclasses | None:
    """Returns the superclass of each class, as the labels of the images pair them."""
    file = layout.superclass_names
    if file is None or file not in contents:
        return None
    names = _names(layout, source, contents, file, layout.superclasses)
    of_class = np.full(num_classes, -1)
    for part in (*layout.train, *layout.test):
        records = np.frombuffer(contents[part], np.uint8).reshape(-1, layout.record)
        coarse, fine = records[:, 0].astype(int), records[:, 1]
        check_labels(
            records[:, 0],
            len(names),
            where=f"{source}: {part}",
            remedy=layout.official.again,
            what="superclass",
        )
        # A repeated class keeps one of its superclasses; the others are compared with it.
        of_class[fine] = np.where(of_class[fine] < 0, coarse, of_class[fine])
        wrong = np.flatnonzero(of_class[fine] != coarse)
        if len(wrong):
            row = wrong[0]
            raise UserError(
                f"{source}: {part}: example {row} has class {fine[row]} and superclass"
                f" {coarse[row]}, but others of the class have {of_class[fine[row]]}; expected one"
                f" superclass for each class; {layout.official.again}"
            )
    return Superclasses(names, tuple(of_class.tolist()))


def _split(
    layout: _Layout,
    source: Path,
    contents: Mapping[str, bytes],
    files: Mapping[str, str],
    num_classes: int,
    official_count: int,
) -> Split:
    size = layout.record
    for file, md5 in files.items():
        extra = len(contents[file]) % size
        if extra or not contents[file]:
            raise UserError(
                f"{source}: {file} has {len(contents[file])} bytes; expected a whole number of"
                f" records of {size} bytes; {layout.official.again}"
            )
        # A file of another size is a subset, which note_count reports.
        found = hashlib.md5(contents[file], usedforsecurity=False).hexdigest()
        if len(contents[file]) == layout.limits[file] and found != md5:
            _LOG.warning(
                "%s: %s has the published file's size but different content (MD5 %s; published %s)",
                *(source, file, found, md5),
            )
    records = [np.frombuffer(contents[file], np.uint8).reshape(-1, size) for file in files]
    for file, part in zip(files, records, strict=True):
        check_labels(
            part[:, layout.label_bytes - 1],
            num_classes,
            where=f"{source}: {file}",
            remedy=layout.official.again,
        )
    count = sum(len(part) for part in records)
    note_count(f"{source}: {', '.join(files)}", count, official_count)
    images = np.empty((count, *_SHAPE[1:], _SHAPE[0]), np.uint8)
    labels = np.empty(count, np.int32)
    start = 0
    for part in records:
        rows = slice(start, start + len(part))
        labels[rows] = part[:, layout.label_bytes - 1]
        images[rows] = part[:, layout.label_bytes :].reshape(-1, *_SHAPE).transpose(0, 2, 3, 1)
        start = rows.stop
    return Split(images, labels, np.arange(count, dtype=np.int64))
