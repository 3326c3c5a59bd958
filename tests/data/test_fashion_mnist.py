import gzip
import os

import numpy as np
import pytest

from bat_jax.data import fashion_mnist, load
from bat_jax.errors import UserError
from tests.data import archives


def check(dataset, splits):
    for found, (images, labels) in zip((dataset.train, dataset.test), splits.values(), strict=True):
        np.testing.assert_array_equal(found.images, images)
        np.testing.assert_array_equal(found.labels, labels)
        np.testing.assert_array_equal(found.ids, np.arange(len(labels)))


@pytest.mark.parametrize("compressed", [True, False])
def test_gzipped_and_plain_files_are_read(compressed, tmp_path):
    splits = archives.make_fashion_mnist(tmp_path, compressed=compressed)
    dataset = load("fashion_mnist", path=tmp_path)
    check(dataset, splits)
    assert dataset.class_names[9] == "Ankle boot"


def test_the_place_of_the_debian_package_comes_before_the_data_folder(data_folder):
    archives.make_fashion_mnist(data_folder / "fashion_mnist", seed=5)
    first = load("fashion_mnist")
    splits = archives.make_fashion_mnist(fashion_mnist.DEBIAN, seed=6)
    check(load("fashion_mnist"), splits)
    assert first.train.digest() != load("fashion_mnist").train.digest()


def test_a_missing_file_is_reported(tmp_path):
    archives.make_fashion_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"has no file t10k-labels-idx1-ubyte.gz"):
        load("fashion_mnist", path=tmp_path)


def write(folder, name, content):
    (folder / f"{name}.gz").write_bytes(gzip.compress(content))


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
zeros = np.zeros((30, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (IMAGES, b"", "begins with the bytes ''"),
        (
            IMAGES,
            archives.idx(zeros[:, 0, 0]),
            "begins with the bytes '00000801'; expected '00000803'",
        ),
        (IMAGES, b"\0\0\x0d\3" + archives.idx(zeros)[4:], "begins with the bytes '00000d03'"),
        (IMAGES, archives.idx(zeros)[:9], "ends in its header"),
        (IMAGES, archives.idx(zeros)[:-1], "23519 values; expected 23520"),
        (IMAGES, archives.idx(zeros) + b"x", "23521 values; expected 23520"),
        (IMAGES, archives.idx(zeros[:, :8]), r"images are \(8, 28\)"),
        (LABELS, archives.idx(zeros[:29, 0, 0]), "29 labels; expected 30"),
        (LABELS, archives.idx(zeros[:, 0, 0] + 10), "example 0 has label 10; expected 0 to 9"),
    ],
    ids=[
        "empty",
        "labels",
        "floats",
        "header",
        "short",
        "long",
        "size",
        "count",
        "label",
    ],
)
def test_a_wrong_file_is_reported(name, content, problem, tmp_path):
    archives.make_fashion_mnist(tmp_path)
    write(tmp_path, name, content)
    with pytest.raises(UserError, match=rf"{name}\.gz: {problem}.*fetch"):
        load("fashion_mnist", path=tmp_path)


def test_truncated_and_corrupt_gzip_is_reported(tmp_path):
    archives.make_fashion_mnist(tmp_path)
    file = tmp_path / f"{IMAGES}.gz"
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (whole[:-9], whole[: len(whole) // 2], bytes(flipped), b"<html>"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"{IMAGES}.gz: damaged or incomplete"):
            load("fashion_mnist", path=tmp_path)


@pytest.mark.parametrize(("name", "size"), [(IMAGES, 47_040_016), (LABELS, 60_008)])
def test_a_file_above_its_published_size_is_refused(name, size, tmp_path):
    archives.make_fashion_mnist(tmp_path, compressed=False)
    os.truncate(tmp_path / name, 6 << 30)  # takes no space on the disk
    with pytest.raises(UserError, match=f"{name}: has more than {size:,} bytes"):
        load("fashion_mnist", path=tmp_path)


def test_special_files_are_refused(tmp_path):
    archives.make_fashion_mnist(tmp_path)
    (tmp_path / f"{LABELS}.gz").unlink()
    (tmp_path / f"{LABELS}.gz").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=f"{LABELS}.gz: is a device"):
        load("fashion_mnist", path=tmp_path)


def test_without_data_and_network_the_error_says_what_to_fetch(data_folder):
    with pytest.raises(UserError) as caught:
        load("fashion_mnist")
    message = str(caught.value)
    assert "dataset-fashion-mnist" in message
    assert message.count("-ubyte.gz") == 4
    assert str(data_folder / "fashion_mnist") in message


def test_the_real_set_is_read_where_the_debian_package_puts_it(monkeypatch):
    monkeypatch.undo()  # of the folders that the other tests have for themselves
    if not fashion_mnist.DEBIAN.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    dataset = load("fashion_mnist")
    assert dataset.train.images.shape == (60_000, 28, 28, 1)
    assert dataset.test.images.shape == (10_000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), [6000] * 10)
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), [1000] * 10)
    assert [dataset.class_names[k] for k in dataset.train.labels[:2]] == [
        "Ankle boot",
        "T-shirt/top",
    ]
