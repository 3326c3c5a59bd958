import numpy as np
import pytest
from sklearn.datasets import load_digits

from bat_jax.data import load
from bat_jax.errors import UserError


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_every_fourth_example_is_a_test_example(digits):
    assert len(digits.train) == 1348
    assert len(digits.test) == 449
    assert np.all(digits.test.ids % 4 == 3)
    both = np.concatenate([digits.train.ids, digits.test.ids])
    np.testing.assert_array_equal(np.sort(both), np.arange(1797))


def test_pixels_are_scaled_to_bytes_and_rounded(digits):
    source = load_digits()
    np.testing.assert_array_equal(
        digits.test.images[..., 0], np.rint(source.images[digits.test.ids] / 16 * 255)
    )
    np.testing.assert_array_equal(digits.train.labels, source.target[digits.train.ids])
    assert digits.image_shape == (8, 8, 1)
    assert digits.class_names == tuple("0123456789")


def test_a_path_is_refused(tmp_path):
    with pytest.raises(UserError, match="ship with scikit-learn"):
        load("digits", path=tmp_path)
