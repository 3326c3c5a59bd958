"""Single attacks aim at the strongest classes, and refuse numbers that would do nothing."""

import inspect

import jax
import numpy as np
import pytest

from bat_jax import attacks
from bat_jax.attacks import checks, chosen, single
from bat_jax.errors import UserError
from tests.attacks import linear


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("apgd_targeted", {"num_targets": 0}, "num_targets: 0; expected a whole number, 1 or more"),
        ("fab_targeted", {"num_targets": -1}, "num_targets: -1; expected"),
        ("apgd", {"num_iterations": -1}, "num_iterations: -1; expected a whole number, 0 or more"),
        ("square", {"num_queries": -1}, "num_queries: -1; expected"),
        ("square", {"batch_size": 0}, "batch_size: 0; expected a whole number, 1 or more"),
    ],
)
def test_numbers_without_effect_are_refused(name, changed, words):
    logits_fn, _, images, labels = linear.problem(count=2)
    attack = getattr(attacks, name)
    with pytest.raises(UserError, match=words):
        attack(logits_fn, images, labels, jax.random.key(0), epsilon=0.1, **changed)


@pytest.mark.parametrize("value", [None, 1.5, True, "2"])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(UserError, match=r"batch_size: .*; expected a whole number, 1 or more"):
        inspect.unwrap(checks.whole)("batch_size", value, 1)


def test_one_class_in_place_of_several_is_refused():
    with pytest.raises(UserError, match=r"target_classes: 3; expected several classes"):
        inspect.unwrap(chosen.given)(3)


def test_targets_are_the_strongest_wrong_classes():
    logits = np.array([[1, 5, 4, 2, 3], [9, 0, np.nan, 1, -1]], np.float32)
    np.testing.assert_array_equal(single.strongest(logits, 3), [[2, 4, 3], [3, 1, 4]])
    np.testing.assert_array_equal(single.strongest(logits, 9), [[2, 4, 3, 0], [3, 1, 4, 2]])
