"""Data sets made of a user's arrays."""

import numpy as np
import pytest

from bat_jax.data import from_arrays
from bat_jax.errors import UserError

IMAGES = np.arange(20 * 2 * 2, dtype=np.uint8).reshape(20, 2, 2, 1)
LABELS = np.arange(20) % 3


def test_a_test_set_is_drawn_if_none_is_given():
    made, again, other = (from_arrays(IMAGES, LABELS, seed=seed) for seed in (0, 0, 1))
    assert (len(made.train), len(made.test), made.num_classes) == (16, 4, 3)
    ids = np.concatenate([made.train.ids, made.test.ids])
    np.testing.assert_array_equal(np.sort(ids), np.arange(20))
    for split in (made.train, made.test):
        np.testing.assert_array_equal(split.images, IMAGES[split.ids])
        np.testing.assert_array_equal(split.labels, LABELS[split.ids])
    np.testing.assert_array_equal(made.test.ids, again.test.ids)
    assert made.test.ids.tolist() != other.test.ids.tolist()
    assert len(from_arrays(IMAGES, LABELS, test_fraction=0.5).test) == 10


def test_labels_may_have_gaps_if_classes_are_named():
    made = from_arrays(IMAGES, LABELS * 2, IMAGES, LABELS * 2, class_names="abcde")
    assert made.num_classes == 5


@pytest.mark.parametrize(
    ("arrays", "named", "words"),
    [
        (
            (IMAGES / np.float32(255), LABELS),
            {},
            r"arrays train: images are float32 from 0 to 0\.3098; expected uint8 .*255 \*",
        ),
        ((IMAGES.astype(int) - 9, LABELS), {}, "images are int64 from -9 to 70; expected uint8"),
        ((IMAGES[..., 0], LABELS), {}, r"images have shape \(20, 2, 2\); expected \(examples"),
        ((IMAGES, LABELS / 2), {}, r"labels are float64 of shape \(20,\); expected integers of"),
        ((IMAGES, np.eye(3, dtype=int)[LABELS]), {}, r"labels are int64 of shape \(20, 3\)"),
        ((IMAGES, LABELS * 2), {}, "no label is 1, but some are 4; expected every number from 0"),
        ((IMAGES, LABELS - 1), {}, r"train: example 0 has label -1; expected 0 to 1"),
        (
            (IMAGES, LABELS.astype(np.int64) + 2**32),
            {"class_names": "abc"},
            "train: example 0 has label 4294967296; expected 0 to 2",
        ),
        ((IMAGES, LABELS[:9]), {}, "20 images, 9 labels"),
        ((IMAGES, LABELS, IMAGES), {}, "arrays test: no labels; expected both images and labels"),
        ((IMAGES, LABELS), {"test_fraction": 0.01}, r"test_fraction is 0\.01 of 20 images"),
        (([[1], [1, 2]], LABELS), {}, "arrays train: .*; expected arrays, with images of one size"),
    ],
)
def test_arrays_that_are_no_data_set_are_named(arrays, named, words):
    with pytest.raises(UserError, match=words):
        from_arrays(*arrays, **named)
