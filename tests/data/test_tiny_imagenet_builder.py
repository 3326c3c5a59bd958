import re
import sys
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

import bat_jax.data.tiny_imagenet_builder  # noqa: F401  (its import registers the builder)
from bat_jax.data import load
from bat_jax.errors import UserError
from tests.data import archives


def same(found, expected):
    assert found.train.digest() == expected.train.digest()
    assert found.test.digest() == expected.test.digest()
    assert found.class_names == expected.class_names


def test_tfds_prepares_and_reads_it_without_tensorflow(tmp_path):
    archives.write_zip(tmp_path / "tiny-imagenet-200.zip", archives.tiny_imagenet_files())
    builder = tfds.builder("tiny_imagenet", data_dir=tmp_path / "t", file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=tmp_path))
    source = tfds.data_source("tiny_imagenet", split="train", data_dir=tmp_path / "t")
    expected = load("tiny_imagenet", path=tmp_path).train
    row_of = {number: row for row, number in enumerate(expected.ids)}
    assert len(source) == len(expected)
    for example in source:
        row = row_of.pop(example["id"])
        np.testing.assert_array_equal(example["image"], expected.images[row])
        assert example["label"] == expected.labels[row]
    assert "tensorflow" not in sys.modules


def test_load_prepares_it_from_the_data_folder(data_folder):
    archives.write_zip(data_folder / "tiny-imagenet-200.zip", archives.tiny_imagenet_files())
    same(load("tfds:tiny_imagenet"), load("tiny_imagenet"))
    (data_folder / "tiny-imagenet-200.zip").unlink()
    assert len(load("tfds:tiny_imagenet").train) == 12  # it is prepared once


def test_a_missing_and_a_damaged_archive_are_reported(data_folder):
    with pytest.raises(UserError, match=r"Fetch http://cs231n\S*/tiny-imagenet-200.zip"):
        load("tfds:tiny_imagenet")
    (data_folder / "tiny-imagenet-200.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"tiny-imagenet-200.zip: damaged or incomplete"):
        load("tfds:tiny_imagenet")


needs_real_subset = pytest.mark.skipif(
    not archives.REAL_SUBSET.is_file(),
    reason="no subset of the real Tiny ImageNet beside the checkout",
)


@needs_real_subset
def test_real_images_are_the_same_to_the_last_pixel(data_folder):
    file = data_folder / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archives.REAL_SUBSET) as whole:
        few = [
            name
            for name in whole.namelist()
            if not name.endswith(".JPEG") or re.search(r"/n\d+_0\.JPEG$|/val_\d*77\.JPEG$", name)
        ]
        archives.write_zip(file, {name: whole.read(name) for name in few}, top="")
    expected = load("tiny_imagenet")
    assert expected.train.ids.tolist() == [500 * label for label in range(200)]
    assert expected.train.labels.tolist() == list(range(200))
    assert np.all(expected.test.ids % 100 == 77)
    assert len(set(expected.class_names)) == 200
    assert expected.class_names[0] == "Egyptian cat"
    same(load("tfds:tiny_imagenet"), expected)


@pytest.mark.slow
@needs_real_subset
def test_the_whole_real_subset_is_the_same_to_the_last_pixel(data_folder):
    (data_folder / "tiny-imagenet-200.zip").symlink_to(archives.REAL_SUBSET.resolve())
    same(load("tfds:tiny_imagenet"), load("tiny_imagenet", path=archives.REAL_SUBSET))
