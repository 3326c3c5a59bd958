"""The images of the stages: random ones, ones that a small model can learn, and a toy CIFAR-100."""

import io
import tarfile
from pathlib import Path

import numpy as np

from bat_jax import data
from bat_jax.data import Dataset


def random(*, shape: tuple[int, int, int], classes: int, train: int, test: int) -> Dataset:
    """Returns random images, of the size that a data set would have."""
    draws = np.random.default_rng(0)

    def split(examples: int) -> tuple[np.ndarray, np.ndarray]:
        return (
            draws.integers(0, 256, (examples, *shape), np.uint8),
            draws.integers(0, classes, examples, np.int32),
        )

    names = [str(label) for label in range(classes)]
    return data.from_arrays(*split(train), *split(test), class_names=names, name="random")


def patterns(*, shape: tuple[int, int, int], classes: int, train: int, test: int) -> Dataset:
    """Returns images of one pattern a class, with noise."""
    draws = np.random.default_rng(1)
    height, width, channels = shape
    coarse = draws.uniform(0, 255, (classes, -(-height // 4), -(-width // 4), channels))
    patterns = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]

    def split(examples: int) -> tuple[np.ndarray, np.ndarray]:
        labels = draws.integers(0, classes, examples, np.int32)
        noisy = 0.5 * patterns[labels] + 64 + draws.normal(0, 40, (examples, *shape))
        return np.clip(noisy, 0, 255).astype(np.uint8), labels

    names = [str(label) for label in range(classes)]
    return data.from_arrays(*split(train), *split(test), class_names=names, name="patterns")


def toy_archive(path: Path, *, classes: int = 10, train: int = 384, test: int = 64) -> None:
    """Writes images of `patterns` in the layout of cifar-100-binary.tar.gz."""
    found = patterns(shape=(32, 32, 3), classes=classes, train=train, test=test)
    names = "".join(f"class_{label}\n" for label in range(classes)).encode()
    files = {"fine_label_names.txt": names}
    for name, split in (("train.bin", found.train), ("test.bin", found.test)):
        labels = np.stack([np.zeros(len(split)), split.labels], axis=1).astype(np.uint8)
        pixels = split.images.transpose(0, 3, 1, 2).reshape(len(split), -1)
        files[name] = np.concatenate([labels, pixels], axis=1).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
