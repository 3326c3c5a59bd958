"""Fashion-MNIST from its four IDX files."""

import math
import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from bat_jax.data import archive, tfds_source
from bat_jax.data.dataset import Dataset, Split
from bat_jax.data.places import check_labels, data_folder, data_folder_text, note_count
from bat_jax.errors import UserError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 60_000),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10_000),
}
_NAMES = [name for images, labels, _ in _FILES.values() for name in (images, labels)]
_AGAIN = f"fetch it again from {_URL}/<name>.gz"
_SIZE = 28
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read(path: Path | None) -> Dataset:
    """Reads Fashion-MNIST: 60,000 training and 10,000 test images, gray, 28x28, in 10 classes.

    Reference: Xiao, Rasul and Vollgraf, arXiv:1708.07747,
    https://github.com/zalandoresearch/fashion-mnist. An id is a position in the file; for images
    from TFDS, a position in its shuffled order.

    Args:
      path: the folder of the four IDX files, gzipped or plain. None looks in the folder of Debian's
        package dataset-fashion-mnist, then in the folder fashion_mnist of the data folder, then
        asks TFDS.
    """
    if path is None:
        folder = data_folder()
        places = [DEBIAN] if folder is None else [DEBIAN, folder / "fashion_mnist"]
        found = [place for place in places if any(_find(place, name) for name in _NAMES)]
        if not found:
            return tfds_source.read("fashion_mnist", instruction=_instruction())
        path = found[0]
    missing = [name for name in _NAMES if _find(path, name) is None]
    if missing:
        raise UserError(
            f"{path}: has no file {missing[0]}.gz; expected the four files"
            f" {', '.join(f'{name}.gz' for name in _NAMES)}, or the same without .gz; fetch them"
            f" from {_URL}/<name>.gz"
        )
    return Dataset("fashion_mnist", _split(path, "train"), _split(path, "test"), CLASS_NAMES)


def _instruction() -> str:
    urls = " ".join(f"{_URL}/{name}.gz" for name in _NAMES)
    return (
        "install Debian's package dataset-fashion-mnist, or fetch"
        f" {urls} and put them in {data_folder_text('fashion_mnist')}"
    )


def _find(folder: Path, name: str) -> Path | None:
    for file in (folder / f"{name}.gz", folder / name):
        if file.exists():
            return file
    return None


def _split(folder: Path, part: str) -> Split:
    images_name, labels_name, official = _FILES[part]
    images_file, labels_file = _find(folder, images_name), _find(folder, labels_name)
    assert images_file is not None
    assert labels_file is not None
    images = read_idx(images_file, (official, _SIZE, _SIZE))
    labels = read_idx(labels_file, (official,))
    if images.shape[1:] != (_SIZE, _SIZE):
        raise UserError(
            f"{images_file}: images are {images.shape[1:]}; expected ({_SIZE}, {_SIZE}); {_AGAIN}"
        )
    if len(images) != len(labels):
        raise UserError(
            f"{labels_file}: {len(labels)} labels; expected {len(images)}, the number of images in"
            f" {images_file.name}; fetch both again from {_URL}/<name>.gz"
        )
    check_labels(labels, len(CLASS_NAMES), where=str(labels_file), remedy=_AGAIN)
    note_count(str(images_file), len(images), official)
    return Split(
        images[..., np.newaxis],
        labels.astype(np.int32),
        np.arange(len(labels), dtype=np.int64),
    )


def read_idx(file: Path, largest: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """Reads one IDX file of unsigned bytes.

    The format: two zero bytes, the type (8 for unsigned bytes), the rank, a big-endian 32-bit size
    per axis, then the values.

    Args:
      file: gzipped if its name ends in .gz.
      largest: the shape of the published array; the file's array must have the same rank and be no
        larger.

    Returns:
      The array.
    """
    rank = len(largest)
    start = 4 + 4 * rank
    content = archive.read_file(file, start + math.prod(largest), remedy=_AGAIN)
    magic = bytes([0, 0, 8, rank])
    if content[:4] != magic:
        raise UserError(
            f"{file}: begins with the bytes {content[:4].hex()!r}; expected {magic.hex()!r}, an IDX"
            f" file of unsigned bytes with {rank} axes; {_AGAIN}"
        )
    if len(content) < start:
        raise UserError(f"{file}: ends in its header; expected {start} bytes of it; {_AGAIN}")
    shape = struct.unpack(f">{rank}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise UserError(
            f"{file}: {len(content) - start} values; expected {math.prod(shape)} for the shape"
            f" {shape} in its header; {_AGAIN}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
