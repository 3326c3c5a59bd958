import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from bat_jax.data import cifar, load
from bat_jax.errors import UserError
from bat_jax.memorization import released
from tests.data import archives

MAKE = {"cifar10": archives.make_cifar10, "cifar100": archives.make_cifar100}
ARCHIVE = {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary.tar.gz"}
FOLDER = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
SHARED = Path(__file__).parents[2] / "../shared/data"
REAL = SHARED / "cifar-100-binary.tar.gz"
both = pytest.mark.parametrize("name", ["cifar10", "cifar100"])


def check(dataset, splits):
    for part in ("train", "test"):
        images, labels = splits[part]
        found = {"train": dataset.train, "test": dataset.test}[part]
        np.testing.assert_array_equal(found.images, images)
        np.testing.assert_array_equal(found.labels, labels)
        np.testing.assert_array_equal(found.ids, np.arange(len(labels)))


@both
def test_an_archive_is_read_in_the_official_order(name, tmp_path):
    splits = MAKE[name](tmp_path / ARCHIVE[name])
    check(load(name, path=tmp_path / ARCHIVE[name]), splits)


@both
def test_the_extracted_folder_reads_as_the_archive_does(name, tmp_path):
    splits = MAKE[name](tmp_path / "made.tar.gz")
    archives.extract(tmp_path / "made.tar.gz", tmp_path)
    check(load(name, path=tmp_path / FOLDER[name]), splits)
    check(load(name, path=tmp_path), splits)


@both
def test_the_archive_is_found_in_the_data_folder(name, data_folder):
    splits = MAKE[name](data_folder / ARCHIVE[name])
    check(load(name), splits)


def test_the_fine_labels_of_cifar100_are_the_classes(tmp_path):
    archives.make_cifar100(tmp_path / "a.tar.gz", classes=30)
    dataset = load("cifar100", path=tmp_path / "a.tar.gz")
    assert dataset.num_classes == 30
    assert dataset.class_names[29] == "fine29"
    assert dataset.train.labels.max() == 29


def test_superclasses_are_those_that_the_labels_pair_with_the_classes(tmp_path):
    archives.make_cifar100(tmp_path / "a.tar.gz", classes=30, test=8)
    archives.extract(tmp_path / "a.tar.gz", tmp_path)
    names, of_class = load("cifar100", path=tmp_path).superclasses
    assert names == tuple(f"coarse{k}" for k in range(20))
    assert of_class == tuple(k % 20 for k in range(30))

    (tmp_path / "cifar-100-binary" / "coarse_label_names.txt").unlink()
    assert load("cifar100", path=tmp_path).superclasses is None
    archives.make_cifar10(tmp_path / "b.tar.gz")
    assert load("cifar10", path=tmp_path / "b.tar.gz").superclasses is None


def test_a_class_without_images_has_no_superclass(tmp_path):
    archives.make_cifar100(tmp_path / "a.tar.gz", train=6, test=6)
    dataset = load("cifar100", path=tmp_path / "a.tar.gz")
    seen = {*dataset.train.labels.tolist(), *dataset.test.labels.tolist()}
    assert dataset.superclasses.of_class == tuple(k % 20 if k in seen else -1 for k in range(100))


@pytest.mark.parametrize(
    ("superclass", "words"),
    [
        (20, r"test\.bin: example 3 has superclass 20; expected 0 to 19"),
        (
            19,
            r"test\.bin: example 3 has class \d+ and superclass 19, but others of the class have",
        ),
    ],
)
def test_a_wrong_superclass_is_refused_with_its_place(superclass, words, tmp_path):
    archives.make_cifar100(tmp_path / "a.tar.gz", classes=10)
    archives.extract(tmp_path / "a.tar.gz", tmp_path)
    file = tmp_path / "cifar-100-binary" / "test.bin"
    content = bytearray(file.read_bytes())
    content[3 * 3074] = superclass
    file.write_bytes(content)
    with pytest.raises(UserError, match=words):
        load("cifar100", path=tmp_path)


@both
def test_a_truncated_archive_is_reported(name, tmp_path):
    file = tmp_path / ARCHIVE[name]
    MAKE[name](file)
    content = file.read_bytes()
    for length in (0, 1, 300, len(content) // 2, len(content) - 4):
        file.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"damaged or incomplete.*fetch https"):
            load(name, path=file)


@both
def test_a_flipped_byte_is_reported(name, tmp_path):
    file = tmp_path / ARCHIVE[name]
    MAKE[name](file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged or incomplete"):
        load(name, path=file)


@both
def test_a_file_that_is_not_an_archive_is_reported(name, tmp_path):
    file = tmp_path / ARCHIVE[name]
    file.write_bytes(b"<html>404 Not Found</html>")
    with pytest.raises(UserError, match=r"damaged or incomplete.*fetch https"):
        load(name, path=file)


def test_a_file_cut_inside_a_record_is_reported(tmp_path):
    archives.make_cifar100(tmp_path / "a.tar.gz")
    archives.extract(tmp_path / "a.tar.gz", tmp_path)
    file = tmp_path / "cifar-100-binary" / "train.bin"
    for content in (file.read_bytes()[:-1], b""):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"train.bin has \d+ bytes.*records of 3074 bytes"):
            load("cifar100", path=tmp_path)


def test_a_missing_file_is_reported(tmp_path):
    archives.make_cifar10(tmp_path / "a.tar.gz")
    archives.extract(tmp_path / "a.tar.gz", tmp_path)
    (tmp_path / "cifar-10-batches-bin" / "data_batch_4.bin").unlink()
    with pytest.raises(UserError, match=r"has no file data_batch_4.bin"):
        load("cifar10", path=tmp_path)


def test_the_archive_of_the_other_set_is_reported(tmp_path):
    archives.make_cifar100(tmp_path / "a.tar.gz")
    with pytest.raises(UserError, match=r"has no file data_batch_1.bin.*cifar-10-binary.tar.gz"):
        load("cifar10", path=tmp_path / "a.tar.gz")


def test_a_label_out_of_range_is_reported_with_its_position(tmp_path):
    archives.make_cifar100(tmp_path / "a.tar.gz")
    archives.extract(tmp_path / "a.tar.gz", tmp_path)
    file = tmp_path / "cifar-100-binary" / "test.bin"
    content = bytearray(file.read_bytes())
    content[3 * 3074 + 1] = 100
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"test.bin: example 3 has label 100; expected 0 to 99"):
        load("cifar100", path=tmp_path)


def test_missing_and_non_text_class_names_are_reported(tmp_path):
    archives.make_cifar100(tmp_path / "a.tar.gz")
    archives.extract(tmp_path / "a.tar.gz", tmp_path)
    for content, problem in ((b"\x80\x04\x95", "not text"), (b"\n", "empty")):
        (tmp_path / "cifar-100-binary" / "fine_label_names.txt").write_bytes(content)
        with pytest.raises(UserError, match=rf"fine_label_names\.txt is {problem}"):
            load("cifar100", path=tmp_path)


@pytest.mark.parametrize(
    ("names", "found"),
    [(["a"] * 10, "1 different names in 10"), (range(1000), "1000 different names in 1000")],
)
def test_equal_or_too_many_class_names_are_refused(names, found, tmp_path):
    archives.make_cifar10(tmp_path / "a.tar.gz")
    archives.extract(tmp_path / "a.tar.gz", tmp_path)
    text = "".join(f"{name}\n" for name in names)
    (tmp_path / "cifar-10-batches-bin" / "batches.meta.txt").write_text(text)
    with pytest.raises(UserError, match=rf"{found} lines; expected at most 10, all different"):
        load("cifar10", path=tmp_path)


def test_a_file_above_its_published_size_is_refused(tmp_path):
    archives.make_cifar100(tmp_path / "a.tar.gz")
    archives.extract(tmp_path / "a.tar.gz", tmp_path)
    for name, size in (("test.bin", 30_740_000), ("fine_label_names.txt", 16 << 20)):
        file = tmp_path / "cifar-100-binary" / name
        whole = file.read_bytes()
        os.truncate(file, 6 << 30)  # takes no space on the disk
        with pytest.raises(UserError, match=rf"{name}: has more than {size:,} bytes"):
            load("cifar100", path=tmp_path)
        file.write_bytes(whole)


def test_special_files_are_refused(tmp_path):
    archives.make_cifar100(tmp_path / "a.tar.gz")
    archives.extract(tmp_path / "a.tar.gz", tmp_path)
    file = tmp_path / "cifar-100-binary" / "train.bin"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match=r"train\.bin: is a FIFO"):
        load("cifar100", path=tmp_path)
    with pytest.raises(UserError, match="/dev/zero: is a device"):
        load("cifar100", path="/dev/zero")


def test_a_set_of_another_size_gives_a_warning(tmp_path, caplog):
    archives.make_cifar100(tmp_path / "a.tar.gz", train=64)
    load("cifar100", path=tmp_path / "a.tar.gz")
    assert "train.bin: 64 examples; the published set has 50000" in caplog.text
    assert {record.name for record in caplog.records} == {"bat_jax.data.places"}


def test_a_file_of_the_published_size_with_different_content_gives_a_warning(
    tmp_path, caplog, monkeypatch
):
    file = tmp_path / "cifar-100-binary" / "train.bin"
    archives.make_cifar100(tmp_path / "a.tar.gz", train=64)
    archives.extract(tmp_path / "a.tar.gz", tmp_path)
    content = file.read_bytes()
    published = {"train.bin": hashlib.md5(content).hexdigest()}
    layout = dataclasses.replace(cifar._CIFAR100, train=published, images=64)
    monkeypatch.setattr(cifar, "_CIFAR100", layout)
    load("cifar100", path=tmp_path)
    assert "MD5" not in caplog.text
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    load("cifar100", path=tmp_path)
    assert "train.bin has the published file's size but different content (MD5 " in caplog.text
    assert published["train.bin"] in caplog.text


@pytest.mark.parametrize(
    ("name", "archive", "members"),
    [
        ("cifar10", "cifar-10-python.tar.gz", ["cifar-10-batches-py/data_batch_1"]),
        ("cifar100", "cifar-100-python.tar.gz", ["cifar-100-python/train"]),
        ("cifar100", "renamed.tar.gz", ["cifar-100-python/meta", "cifar-100-python/train"]),
    ],
)
def test_the_archives_of_pickles_are_refused_by_name(name, archive, members, tmp_path):
    archives.write_tar(tmp_path / archive, dict.fromkeys(members, b"\x80\x04."))
    with pytest.raises(UserError, match=rf"pickles.*fetch https.*{ARCHIVE[name]}"):
        load(name, path=tmp_path / archive)
    archives.extract(tmp_path / archive, tmp_path)
    with pytest.raises(UserError, match="pickles"):
        load(name, path=tmp_path / members[0].split("/")[0])


@pytest.mark.parametrize("member", ["../train.bin", "/etc/train.bin", "a/../../train.bin"])
def test_a_member_that_leads_out_of_the_archive_is_refused(member, tmp_path):
    archives.write_tar(tmp_path / "a.tar.gz", {member: b"x" * 3074})
    with pytest.raises(UserError, match=r"a\.tar\.gz: has a member named .* do not use it"):
        load("cifar100", path=tmp_path / "a.tar.gz")
    assert {file.name for file in tmp_path.iterdir()} <= {"a.tar.gz", "data-folder"}


@both
def test_without_data_and_network_the_error_says_what_to_fetch(name, data_folder, no_network):
    with pytest.raises(UserError) as caught:
        load(name)
    message = str(caught.value)
    assert f"https://www.cs.toronto.edu/~kriz/{ARCHIVE[name]}" in message
    assert str(data_folder) in message
    assert "\n" not in message
    assert no_network == [[f"https://www.cs.toronto.edu/~kriz/{ARCHIVE[name]}"]]


@pytest.mark.skipif(not REAL.exists(), reason="needs the CIFAR-100 archive")
def test_the_real_cifar100_has_its_published_means_order_and_superclasses():
    dataset = load("cifar100", path=REAL)
    values = dataset.train.images.reshape(-1, 3)
    counts = np.stack([np.bincount(values[:, channel], minlength=256) for channel in range(3)])
    means = counts @ np.arange(256) / len(values) / 255
    published = (0.5070751592371323, 0.48654887331495095, 0.4409178433670343)
    np.testing.assert_allclose(means, published, rtol=0, atol=1e-12)
    scores = released.load_cscores(SHARED / "cifar100-cscores-orig-order.npz")
    np.testing.assert_array_equal(scores.labels, dataset.train.labels)

    names, of_class = dataset.superclasses
    assert np.bincount(of_class).tolist() == [5] * 20
    trees = names.index("trees")
    assert {dataset.class_names[k] for k in range(100) if of_class[k] == trees} == {
        f"{tree}_tree" for tree in ("maple", "oak", "palm", "pine", "willow")
    }
