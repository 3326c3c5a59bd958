"""The first images of each class of Tiny ImageNet, as an archive of the official layout.

    python benchmarks/tiny_imagenet_subset.py tiny-imagenet-200.zip tiny-imagenet-200-subset.zip

By default the first 50 training and the first 10 validation images of each class, by the numbers in
their names: the images of docs/results/findings.md and docs/results/audit.md, with their ids.
"""

import argparse
import re
import sys
import zipfile
from pathlib import Path

_ROOT = "tiny-imagenet-200"
_ANNOTATIONS = f"{_ROOT}/val/val_annotations.txt"
_TRAINING = re.compile(rf"{_ROOT}/train/n\d+/images/n\d+_(\d+)\.JPEG")


def write(source: Path, target: Path, *, train: int = 50, test: int = 10) -> None:
    """Copies the first images of each class, the names of the classes and the annotations."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "x") as subset:
        annotations = kept_annotations(archive.read(_ANNOTATIONS).decode().splitlines(), test)
        for name in archive.namelist():
            found = _TRAINING.fullmatch(name)
            if found is not None and int(found[1]) < train:
                subset.writestr(name, archive.read(name))
        for line in annotations:
            name = f"{_ROOT}/val/images/{line.split()[0]}"
            subset.writestr(name, archive.read(name))
        for name in (f"{_ROOT}/wnids.txt", f"{_ROOT}/words.txt"):
            subset.writestr(name, archive.read(name))
        subset.writestr(_ANNOTATIONS, "".join(f"{line}\n" for line in annotations))


def kept_annotations(lines: list[str], count: int) -> list[str]:
    """Returns the lines of the first images of each class, by the numbers of the images."""
    kept, seen = [], dict[str, int]()
    for line in sorted(lines, key=lambda line: int(line.split(".")[0].removeprefix("val_"))):
        wnid = line.split()[1]
        seen[wnid] = seen.get(wnid, 0) + 1
        if seen[wnid] <= count:
            kept.append(line)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the official archive")
    parser.add_argument("target", type=Path, help="the archive to write; it must not exist")
    options = parser.parse_args()
    try:
        write(options.source, options.target)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        sys.exit(f"{options.source}: {error}; expected the official tiny-imagenet-200.zip")


if __name__ == "__main__":
    main()
