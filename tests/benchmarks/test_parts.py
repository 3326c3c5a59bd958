"""CIFAR-100 in parts: the same bytes come out, or one line says what is wrong."""

import numpy as np
import parts
import pytest

from bat_jax import data
from bat_jax.errors import UserError
from tests.data.archives import make_cifar100


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    written = make_cifar100(folder / "cifar-100-binary.tar.gz", train=1100, test=520)
    parts.pack(folder / "cifar-100-binary.tar.gz", folder / "packed")
    return folder / "packed", written


def test_what_was_packed_is_unpacked(packed, tmp_path):
    folder, written = packed
    assert sorted(path.name for path in folder.iterdir()) == [
        "part-1-of-2.npz",
        "part-2-of-2.npz",
    ]
    assert parts.present(folder)
    assert not parts.present(tmp_path)
    parts.unpack(folder, tmp_path)
    found = data.load("cifar100", path=str(tmp_path))
    for name, split in (("train", found.train), ("test", found.test)):
        images, labels = written[name]
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)


def test_what_is_there_stays_and_what_is_damaged_is_restored(packed, tmp_path):
    folder, _ = packed
    unpacked = parts.unpack(folder, tmp_path)
    path = unpacked / "test.bin"
    content, made = path.read_bytes(), (unpacked / "train.bin").stat().st_ino
    path.write_bytes(b"0" + content[1:])
    assert parts.unpack(folder, tmp_path) == unpacked
    assert path.read_bytes() == content
    assert (unpacked / "train.bin").stat().st_ino == made


def copy(folder, target):
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_a_missing_part_is_named(packed, tmp_path):
    folder = copy(packed[0], tmp_path / "copy")
    (folder / "part-1-of-2.npz").unlink()
    with pytest.raises(UserError, match=r"part-1-of-2\.npz: no such file; expected all 2 parts"):
        parts.unpack(folder, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "bytes", "empty"])
def test_a_damaged_part_is_named(packed, tmp_path, damage):
    folder = copy(packed[0], tmp_path / "copy")
    path = folder / "part-2-of-2.npz"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if damage == "bytes":
        content[middle : middle + 50] = bytes(50)
    path.write_bytes(content[: {"cut": middle, "empty": 0}.get(damage)])
    with pytest.raises(UserError, match=r"part-2-of-2\.npz: is damaged") as error:
        parts.unpack(folder, tmp_path)
    assert "\n" not in str(error.value)


def test_parts_of_two_packings_are_refused(packed, tmp_path):
    folder = copy(packed[0], tmp_path / "copy")
    (folder / "part-1-of-3.npz").write_bytes(b"")
    with pytest.raises(UserError, match="parts of 2 different packings"):
        parts.unpack(folder, tmp_path)


def test_other_images_than_were_packed_are_refused(packed, tmp_path):
    folder = copy(packed[0], tmp_path / "copy")
    path = folder / "part-1-of-2.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["test.bin/md5"] = np.frombuffer(b"0" * 32, np.uint8)
    np.savez(path, **arrays)
    (folder / "part-2-of-2.npz").replace(folder / "part-0-of-2.npz")
    (folder / "part-1-of-2.npz").replace(folder / "part-2-of-2.npz")
    (folder / "part-0-of-2.npz").replace(folder / "part-1-of-2.npz")
    with pytest.raises(UserError, match=r"test\.bin has MD5 .*; expected 0{32}"):
        parts.unpack(folder, tmp_path)


def test_another_archive_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        parts.pack(tmp_path / "none.tar.gz", tmp_path)
