import dataclasses

import numpy as np
import pytest

from bat_jax import data
from bat_jax.errors import UserError


@pytest.fixture(scope="module")
def letters():
    """Returns 12 training and 8 test images of classes a, b, c and d, in turn."""
    labels = np.arange(20) % 4
    images = np.arange(20 * 4, dtype=np.uint8).reshape(20, 2, 2, 1)
    return data.from_arrays(
        images[:12], labels[:12], images[12:], labels[12:], class_names="abcd", name="letters"
    )


def test_labels_are_renumbered_in_the_order_given_and_ids_stay(letters):
    for classes in ((3, 1), ("d", "b"), (np.int64(3), "b")):
        chosen = data.select(letters, classes)
        assert chosen.class_names == ("d", "b")
        assert chosen.classes == (3, 1)
        assert chosen.num_classes == 2
        for ours, theirs in ((chosen.train, letters.train), (chosen.test, letters.test)):
            np.testing.assert_array_equal(ours.ids, np.flatnonzero(theirs.labels % 2))
            np.testing.assert_array_equal(ours.images, theirs.images[ours.ids])
            np.testing.assert_array_equal(np.array([3, 1])[ours.labels], theirs.labels[ours.ids])


def test_one_number_is_the_first_classes(letters):
    assert data.select(letters, (3,)).class_names == ("a", "b", "c")


def test_classes_of_a_selection_are_those_of_the_whole_set(letters):
    chosen = data.select(letters, (3, 1, 0))
    assert data.select(chosen, (2, 0)).classes == (0, 3)
    assert data.select(chosen, (3, 1, 0)) is chosen


def test_superclasses_follow_the_classes(letters):
    grouped = dataclasses.replace(
        letters, superclasses=data.Superclasses(("vowels", "none", "others"), (0, 2, -1, 2))
    )
    assert data.select(grouped, (3, 1)).superclasses == (("others",), (0, 0))
    assert data.select(grouped, (2, 3, 0)).superclasses == (("vowels", "others"), (-1, 1, 0))


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ((5,), "(5,), the first 5 classes; expected 2 to 4, the number of classes of letters"),
        ((1,), "the first 1 classes; expected 2 to 4"),
        ((0, 4), "(0, 4); expected labels of letters, 0 to 3"),
        ((0, -1), "(0, -1); expected labels of letters, 0 to 3"),
        (("a", "e"), "expected class names of letters, such as 'a': check the spelling of 'e'"),
        (("a", 0), "('a', 0); expected each class of letters once"),
        (("a",), "('a',); expected two classes or more"),
    ],
)
def test_a_wrong_class_is_refused_in_one_line(letters, classes, words):
    with pytest.raises(UserError) as caught:
        data.select(letters, classes)
    assert str(caught.value).startswith("config.data.classes is ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
