"""CIFAR-10 and CIFAR-100 from the official binary archives, in the official order."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bat_jax.data import archive, tfds_source
from bat_jax.data.dataset import Dataset, Split
from bat_jax.data.places import Official, check_labels, note_count
from bat_jax.errors import UserError

_SHAPE = (3, 32, 32)  # of the files: first all reds, then the greens, then the blues


@dataclasses.dataclass(frozen=True)
class _Layout:
    """What tells the two sets apart.

    Attributes:
      official: where the archive comes from.
      train: the files of the training set, in order.
      test: the files of the test set.
      names: the file of class names, a line each.
      label_bytes: how many bytes of labels precede an image; the last one is the class.
      pickles: names that only the archive for Python has, whose files are pickles.
    """

    official: Official
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_bytes: int
    pickles: frozenset[str]


_CIFAR10 = _Layout(
    Official(
        "cifar10",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "162 MB",
        "cifar-10-batches-bin",
    ),
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test=("test_batch.bin",),
    names="batches.meta.txt",
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
    train=("train.bin",),
    test=("test.bin",),
    names="fine_label_names.txt",
    label_bytes=2,  # the coarse label, which is not used, then the fine one
    pickles=frozenset({"train", "test", "meta"}),
)


def read_cifar10(path: Path | None) -> Dataset:
    """Reads CIFAR-10: 50,000 training and 10,000 test images, 32x32x3, in 10 classes.

    Reference: A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html. An id is a place in the
    official order: for training images, through data_batch_1.bin to data_batch_5.bin.

    Args:
      path: cifar-10-binary.tar.gz, or the folder extracted from it, or a folder that holds one of
        them. None looks in the data folder, then asks TFDS.
    """
    return _read(_CIFAR10, path)


def read_cifar100(path: Path | None) -> Dataset:
    """Reads CIFAR-100: 50,000 training and 10,000 test images, 32x32x3, in 100 (fine) classes.

    Reference: A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html. An id is a place in the
    official order.

    Args:
      path: cifar-100-binary.tar.gz, or the folder extracted from it, or a folder that holds one of
        them. None looks in the data folder, then asks TFDS.
    """
    return _read(_CIFAR100, path)


def _read(layout: _Layout, path: Path | None) -> Dataset:
    official = layout.official
    source = official.find(path)
    if source is None:
        return tfds_source.read(official.name, instruction=official.instruction())
    _refuse_pickles(layout, source, {source.name.removesuffix(".tar.gz")})
    contents = _contents(layout, source)
    names = _class_names(layout, source, contents)
    return Dataset(
        official.name,
        _split(layout, source, contents, layout.train, len(names), 50_000),
        _split(layout, source, contents, layout.test, len(names), 10_000),
        names,
    )


def _contents(layout: _Layout, source: Path) -> Mapping[str, bytes]:
    wanted = (*layout.train, *layout.test, layout.names)
    found: Mapping[str, bytes | None]
    if source.is_dir():
        present = {file.name for file in source.iterdir() if file.is_file()}
        found = dict.fromkeys(present) | {
            name: archive.read_file(source / name, remedy=layout.official.again)
            for name in wanted
            if name in present
        }
    else:
        found = archive.read_tar(source, wanted, remedy=layout.official.again)
    contents = {name: found[name] for name in wanted if found.get(name) is not None}
    missing = [name for name in wanted if name not in contents]
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
            f"{source}: is the version for Python, whose files are pickles, which can run any"
            " program and are never read here; expected the binary version; fetch"
            f" {layout.official.url}"
        )


def _class_names(layout: _Layout, source: Path, contents: Mapping[str, bytes]) -> tuple[str, ...]:
    try:
        lines = contents[layout.names].decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{source}: {layout.names} is not text ({error.reason}); expected a class name a line;"
            f" {layout.official.again}"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise UserError(
            f"{source}: {layout.names} is empty; expected a class name a line;"
            f" {layout.official.again}"
        )
    return names


def _split(
    layout: _Layout,
    source: Path,
    contents: Mapping[str, bytes],
    files: tuple[str, ...],
    num_classes: int,
    official_count: int,
) -> Split:
    size = layout.label_bytes + np.prod(_SHAPE)
    for file in files:
        extra = len(contents[file]) % size
        if extra or not contents[file]:
            raise UserError(
                f"{source}: {file} has {len(contents[file])} bytes; expected a whole number of"
                f" records of {size} bytes; {layout.official.again}"
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
