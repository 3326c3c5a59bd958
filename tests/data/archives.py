"""Small data sets in the published layouts, with random pixels.

Every function writes to `path` and returns the images, labels and, if the layout has them, ids that
a reader must find there.
"""

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

# 50 training and 10 validation images of each class of the real set; tests skip where it is absent.
REAL_SUBSET = Path(__file__).parents[2] / "../shared/data/tiny-imagenet-200-subset.zip"
WNIDS = ("n02124075", "n04067472", "n01443537")


def random_split(count, classes, shape, seed):
    """Returns images and labels; every class occurs if there are enough images."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, *shape), np.uint8)
    return images, random.permutation(np.arange(count) % classes).astype(np.int32)


def cifar_records(images, labels, coarse=None):
    """Returns the bytes of a CIFAR binary file."""
    columns = [labels] if coarse is None else [coarse, labels]
    head = np.stack(columns, axis=1).astype(np.uint8)
    pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([head, pixels], axis=1).tobytes()


def write_tar(path, files):
    """Writes {member name: bytes} as a .tar.gz archive."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def make_cifar100(path, *, train=64, test=32, classes=100, seed=0):
    """Writes cifar-100-binary.tar.gz as published, except for the numbers of images and classes.

    Args:
      path: the archive's file name.
      train: the number of training images; the published archive has 50,000.
      test: the number of test images; the published archive has 10,000.
      classes: the number of fine classes; the published archive has 100.
      seed: of the random pixels and labels.

    Returns:
      {"train": (images, labels), "test": (images, labels)}, images uint8 NHWC.
    """
    splits = {
        "train": random_split(train, classes, (32, 32, 3), seed),
        "test": random_split(test, classes, (32, 32, 3), seed + 1),
    }
    files = {
        "coarse_label_names.txt": "".join(f"coarse{k}\n" for k in range(20)).encode(),
        "fine_label_names.txt": "".join(f"fine{k}\n" for k in range(classes)).encode(),
        "readme.html": b"<html></html>",
    }
    for part, (images, labels) in splits.items():
        files[f"{part}.bin"] = cifar_records(images, labels, coarse=labels % 20)
    write_tar(path, {f"cifar-100-binary/{name}": content for name, content in files.items()})
    return splits


def make_cifar10(path, *, per_file=6, seed=0):
    """Writes cifar-10-binary.tar.gz as published, except for the number of images per file."""
    splits = {
        "train": random_split(5 * per_file, 10, (32, 32, 3), seed),
        "test": random_split(per_file, 10, (32, 32, 3), seed + 1),
    }
    files = {"batches.meta.txt": "".join(f"class{k}\n" for k in range(10)).encode() + b"\n"}
    for number in range(5):
        rows = slice(number * per_file, (number + 1) * per_file)
        images, labels = splits["train"]
        files[f"data_batch_{number + 1}.bin"] = cifar_records(images[rows], labels[rows])
    files["test_batch.bin"] = cifar_records(*splits["test"])
    # The files of the published archive are not in order either.
    shuffled = sorted(files, key=lambda name: name[::-1])
    write_tar(path, {f"cifar-10-batches-bin/{name}": files[name] for name in shuffled})
    return splits


def idx(values):
    """Returns an array of uint8 in the IDX format."""
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.tobytes()


def make_fashion_mnist(folder, *, train=30, test=10, compressed=True, seed=0):
    """Writes the four IDX files of Fashion-MNIST."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {
        "train": random_split(train, 10, (28, 28, 1), seed),
        "test": random_split(test, 10, (28, 28, 1), seed + 1),
    }
    for prefix, (images, labels) in zip(("train", "t10k"), splits.values(), strict=True):
        for name, values in (
            (f"{prefix}-images-idx3-ubyte", images[..., 0]),
            (f"{prefix}-labels-idx1-ubyte", labels.astype(np.uint8)),
        ):
            content = idx(values)
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return splits


def encoded(pixels, kind="PNG"):
    """Returns an image's bytes; pixels of shape (height, width) or (height, width, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind, quality=95)
    return file.getvalue()


def tiny_imagenet_files(*, train=4, test=5, seed=0, wnids=WNIDS):
    """Returns {name: bytes} of Tiny ImageNet's layout, the first image of each class gray."""
    random = np.random.default_rng(seed)

    def jpeg(gray):
        return encoded(random.integers(0, 256, (64, 64) if gray else (64, 64, 3), np.uint8), "JPEG")

    files = {
        "wnids.txt": "".join(f"{wnid}\n" for wnid in wnids).encode(),
        "words.txt": (
            b"n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\n"
            b"n02124075\tEgyptian cat\nn04067472\treel\n"
        ),
    }
    for wnid in wnids:
        for number in range(train):
            files[f"train/{wnid}/images/{wnid}_{7 * number}.JPEG"] = jpeg(gray=number == 0)
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b""
    lines = []
    for number in range(test):
        files[f"val/images/val_{10 * number}.JPEG"] = jpeg(gray=False)
        lines.append(f"val_{10 * number}.JPEG\t{wnids[number % len(wnids)]}\t0\t32\t44\t62\n")
    files["val/val_annotations.txt"] = "".join(reversed(lines)).encode()
    files["test/images/test_0.JPEG"] = b"never read"
    return files


def write_zip(path, files, *, top="tiny-imagenet-200/"):
    """Writes {name: bytes} as a zip archive below a top folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(top + name, content)


def write_folder(folder, files):
    """Writes {name: bytes} as files."""
    for name, content in files.items():
        file = Path(folder) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def extract(archive, folder):
    """Extracts a .tar.gz archive of these tests."""
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
