import numpy as np
import pytest

from bat_jax.data import load
from bat_jax.data.tiny_superclasses import SUPERCLASSES
from bat_jax.errors import UserError
from tests.data import archives

KNOWN = [wnid for group in SUPERCLASSES.values() for wnid in group]
FOUND = [*reversed(KNOWN), "n12267677"]  # Another order, and a class outside the superclasses.


def test_ten_classes_are_one_and_ids_stay(tmp_path):
    files = archives.tiny_imagenet_files(train=2, test=101, wnids=FOUND)
    archives.write_zip(tmp_path / "a.zip", files)
    whole = load("tiny_imagenet", path=tmp_path / "a.zip")
    chosen = load("tiny_imagenet_superclasses", path=tmp_path / "a.zip")
    assert chosen.class_names == tuple(SUPERCLASSES)
    assert chosen.num_classes == 10
    for ours, theirs in ((chosen.train, whole.train), (chosen.test, whole.test)):
        kept = theirs.labels < 100
        np.testing.assert_array_equal(ours.ids, theirs.ids[kept])
        np.testing.assert_array_equal(ours.images, theirs.images[kept])
        np.testing.assert_array_equal(ours.labels, (99 - theirs.labels[kept]) // 10)


def test_a_set_without_one_of_the_classes_is_refused(tmp_path):
    files = archives.tiny_imagenet_files(train=1, test=1, wnids=KNOWN[1:])
    archives.write_zip(tmp_path / "a.zip", files)
    with pytest.raises(UserError, match=rf"lacks {KNOWN[0]}, one of 1 missing.*all 100 classes"):
        load("tiny_imagenet_superclasses", path=tmp_path / "a.zip")


def test_superclasses_are_disjoint_and_of_equal_size():
    assert len(set(KNOWN)) == 100
    assert {len(group) for group in SUPERCLASSES.values()} == {10}


@pytest.mark.skipif(
    not archives.REAL_SUBSET.is_file(), reason=f"{archives.REAL_SUBSET} is not there"
)
def test_the_real_subset_has_equally_many_images_of_each():
    dataset = load("tiny_imagenet_superclasses", path=archives.REAL_SUBSET)
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), [500] * 10)
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), [100] * 10)
