"""Intervals over seeds and paired tests, against values computed by hand or by SciPy."""

import numpy as np
import pytest
from scipy import stats

from bat_jax.evaluation.statistics import holm, mcnemar, over_seeds


def test_mcnemar_counts_the_images_that_only_one_classifies_correctly():
    first = np.array([1, 1, 1, 1, 1, 1, 0, 1, 0], bool)
    second = np.array([0, 0, 0, 0, 0, 1, 1, 1, 0], bool)
    test = mcnemar(first, second)
    assert test[:2] == (5, 1)
    # Two-sided: 2 (C(6,5) + C(6,6)) / 2^6.
    assert test.p_value == pytest.approx(14 / 64)
    assert mcnemar(second, first).p_value == test.p_value


def test_mcnemar_of_equal_verdicts_finds_nothing():
    verdicts = np.array([True, False])
    assert mcnemar(verdicts, verdicts) == (0, 0, 1.0)


def test_the_interval_over_seeds_is_student_s():
    values = [0.1, 0.3, 0.2]
    found = over_seeds(values)
    assert found["mean"] == pytest.approx(0.2)
    # 4.303 is the 97.5 % point of t with 2 degrees of freedom; the standard error is 0.1 / sqrt 3.
    assert found["interval"] == pytest.approx([0.2 - 0.24842, 0.2 + 0.24842], abs=1e-4)
    assert found["p_value"] == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_one_seed_has_no_interval():
    assert over_seeds([0.5]) == {"mean": 0.5, "n": 1, "values": [0.5]}


def test_equal_values_over_seeds_do_not_divide_by_zero():
    assert over_seeds([0.0, 0.0])["p_value"] == 1.0
    assert over_seeds([0.1, 0.1])["interval"] == [0.1, 0.1]


def test_seeds_that_agree_exactly_deviate_by_one_image():
    found = over_seeds([0.25, 0.25, 0.25], images=100)
    # 4.303 times 0.01 / sqrt 3.
    assert found["interval"] == pytest.approx([0.25 - 0.02484, 0.25 + 0.02484], abs=1e-5)
    spread = [0.1, 0.3, 0.2]
    assert over_seeds(spread, images=100) == over_seeds(spread)


def test_holm_multiplies_by_the_number_of_remaining_tests_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
