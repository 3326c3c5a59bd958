import numpy as np
import pytest
from PIL import Image

from bat_jax.data import corruptions, load, select
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


@pytest.fixture
def corrupted(tmp_path):
    """The superclasses, and a Tiny-ImageNet-C of one corruption, with an image of each class."""
    files = archives.tiny_imagenet_files(train=1, test=101, wnids=FOUND)
    archives.write_zip(tmp_path / "a.zip", files)
    whole = load("tiny_imagenet", path=tmp_path / "a.zip")
    place = tmp_path / "c" / "fog"
    for severity in corruptions.SEVERITIES[1:]:
        (place / str(severity)).mkdir(parents=True)
    for label, number in zip(whole.test.labels, whole.test.ids, strict=True):
        folder = place / "1" / FOUND[label]
        folder.mkdir(parents=True)
        # One gray for each image, which JPEG keeps.
        Image.new("RGB", (64, 64), (number // 5,) * 3).save(folder / f"val_{number}.JPEG")
    return load("tiny_imagenet_superclasses", path=tmp_path / "a.zip"), tmp_path / "c"


def test_corrupted_images_are_found_in_the_folders_of_all_classes_of_a_superclass(corrupted):
    dataset, path = corrupted
    for chosen in (dataset, select(dataset, ("food", "insects"))):
        found = corruptions.read(path, chosen, ("fog",)).split("fog", 1, chosen.test)
        grays = found.images.reshape(len(found), -1).astype(int)
        assert np.abs(grays - chosen.test.ids[:, np.newaxis] // 5).max() <= 2


def test_corrupted_images_of_superclasses_without_their_ids_are_refused(corrupted):
    dataset, path = corrupted
    file = next((path / "fog" / "1" / KNOWN[0]).iterdir())
    file.rename(file.with_name("val_9999.JPEG"))
    words = "images of carnivores in 10 folders have other numbers than its ids; expected val_990"
    with pytest.raises(UserError, match=words):
        corruptions.read(path, dataset, ("fog",))


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
