"""Estimates files, and the typical and atypical sets they imply."""

from pathlib import Path

import numpy as np
import pytest

from bat_jax import data, memorization
from bat_jax.errors import UserError
from bat_jax.memorization import Estimates, Influence
from bat_jax.memorization.typicality import helped_by_chance

RESULTS = Path(__file__).parents[2] / "docs/results"
REAL_PAIRS = Path(__file__).parents[3] / "shared/data/cifar100_high_infl_pairs_infl0.15_mem0.25.npz"


def released(**changes):
    """Returns arrays in the layout of cifar100_infl_matrix.npz: 6 training, 4 test, 2 classes."""
    arrays = {
        "tr_labels": np.array([0, 1, 0, 1, 0, 1]),
        "tt_labels": np.array([0, 1, 0, 1]),
        "tr_mem": np.array([0.9, 0.1, 0.1, 0.8, np.nan, 0.15]),
        "tr_classidx_0": np.array([0, 2, 4]),
        "tt_classidx_0": np.array([0, 2]),
        "infl_matrix_class0": np.array([[0.5, 0.0], [0.0, 0.9], [0.9, 0.9]]),
        "tr_classidx_1": np.array([1, 3, 5]),
        "tt_classidx_1": np.array([1, 3]),
        "infl_matrix_class1": np.array([[0.3, 0.0], [0.0, 0.2], [0.0, 0.0]]),
    }
    return {**arrays, **changes}


def write(path, arrays):
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_the_released_layout_gives_typical_and_atypical_sets(tmp_path):
    estimates = memorization.load(write(tmp_path / "infl.npz", released()))
    sets = memorization.split(estimates, 0.15)
    # Example 4 is unknown: neither. Example 5 is at the threshold: not above it.
    assert set(sets.train_atypical) == {0, 3}
    assert set(sets.train_typical) == {1, 2, 5}
    # Test 2 is influenced by 2 and 4 alone, which are not atypical; test 1 by 1 alone.
    assert set(sets.test_atypical) == {0, 3}
    assert set(sets.test_typical) == {1, 2}


def test_a_test_image_is_atypical_by_the_images_that_are_trained_on(tmp_path):
    estimates = memorization.load(write(tmp_path / "infl.npz", released()))
    sets = memorization.split(estimates, 0.15, among=np.array([0, 1, 2]))
    assert set(sets.train_atypical) == {0, 3}
    # Test 3 is influenced by 3, which is not among them.
    assert set(sets.test_atypical) == {0}


def test_by_chance_counts_the_test_images_that_an_atypical_image_harms():
    influence = np.array([[-0.3, -0.1, 0.4, 0.0], [-0.2, -0.5, -0.5, -0.5]])
    estimates = Estimates(
        "here",
        np.array([0.5, 0.01]),
        np.zeros(2, int),
        np.zeros(4, int),
        np.arange(2),
        np.arange(4),
        (Influence(np.arange(2), np.arange(4), influence),),
    )
    # The second training image is typical: what it harms does not count.
    assert [helped_by_chance(estimates, t) for t in (0.05, 0.15, 0.3)] == [2, 1, 0]


def test_our_ids_name_the_examples(tmp_path):
    arrays = released(tr_ids=np.arange(100, 106), tt_ids=np.arange(200, 204))
    sets = memorization.split(memorization.load(write(tmp_path / "m.npz", arrays)), 0.15)
    assert set(sets.train_atypical) == {100, 103}
    assert set(sets.test_atypical) == {200, 203}


@pytest.mark.parametrize(
    ("name", "inputs", "atypical"),
    [
        ("digits_memorization", "clean", 56),
        ("digits_robust_memorization_clean", "clean", 34),
        ("digits_robust_memorization_attacked", "adversarial", 281),
    ],
)
def test_the_published_estimates_are_those_of_digits(name, inputs, atypical):
    estimates = memorization.load(RESULTS / f"{name}.npz")
    digits = data.load("digits")
    assert np.array_equal(estimates.train_ids, digits.train.ids)
    assert np.array_equal(estimates.train_labels, digits.train.labels)
    assert np.array_equal(estimates.test_ids, digits.test.ids)
    assert estimates.inputs == inputs
    assert len(estimates.influence) == digits.num_classes
    assert np.sum(estimates.memorization > 0.15) == atypical


def test_without_influence_the_test_set_is_not_split():
    estimates = Estimates(
        "here",
        np.array([0.5, 0.0]),
        np.array([0, 1]),
        np.array([0]),
        np.array([0, 1]),
        np.array([0]),
        (),
    )
    sets = memorization.split(estimates, 0.15)
    assert sets.test_typical is None
    assert sets.test_atypical is None


def test_a_higher_threshold_calls_fewer_examples_atypical():
    rng = np.random.default_rng(0)
    estimates = Estimates(
        "here",
        rng.uniform(0, 1, 50),
        np.zeros(50, int),
        np.zeros(20, int),
        np.arange(50),
        np.arange(20),
        (Influence(np.arange(50), np.arange(20), rng.uniform(-0.2, 0.5, (50, 20))),),
    )
    sizes = [
        tuple(len(ids) for ids in memorization.split(estimates, t)[1::2] if ids is not None)
        for t in (0.0, 0.15, 0.3, 0.6, 1.0)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == (0, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tr_mem": None}, "has no tr_mem"),
        ({"tr_mem": np.zeros(5)}, r"tr_mem has shape \(5,\); expected \(6,\)"),
        ({"infl_matrix_class1": np.zeros((2, 2))}, r"infl_matrix_class1 has shape \(2, 2\)"),
        ({"tr_mem": np.array([object()] * 6)}, "tr_mem is object; expected numbers, or NaN"),
        ({"tr_mem": np.full(6, "0.5")}, "tr_mem is <U3; expected numbers, or NaN"),
        ({"tr_mem": np.full(6, np.inf)}, "tr_mem holds inf; expected numbers, or NaN"),
        ({"tr_mem": np.zeros(6, "datetime64[s]")}, "tr_mem is datetime64"),
        ({"tr_mem": np.zeros(6, [("a", float)])}, "tr_mem is .*; expected numbers"),
        (
            {"tr_labels": np.zeros((6, 1), int)},
            r"tr_labels has shape \(6, 1\); expected \(train,\)",
        ),
        ({"tr_labels": np.zeros(0, int), "tr_mem": np.zeros(0)}, "0 training and 4 test labels"),
        ({"tt_labels": np.full(4, -1)}, "tt_labels holds -1; expected integers of 0 or more"),
        (
            {"tr_ids": np.arange(5)},
            r"tr_ids has shape \(5,\); expected \(6,\), the length of tr_la",
        ),
        ({"tr_ids": np.linspace(0, 1, 6)}, "tr_ids is float64; expected integers"),
        ({"tt_ids": np.array([3, 1, 1, 2])}, "tt_ids holds 1 more than once"),
        ({"tr_mem_se": np.full(6, -0.1)}, "tr_mem_se holds -0.1; expected numbers of 0 or more"),
        ({"tr_in_count": np.zeros(7, int)}, r"tr_in_count has shape \(7,\)"),
        ({"dataset": np.array(["digits", "cifar100"])}, "dataset has shape"),
        ({"dataset": np.array(b"digits")}, "dataset is |S6; expected one text"),
        ({"tr_classidx_1": None}, "has no tr_classidx_1"),
        ({"tr_classidx_1": np.array([[1, 3, 5]])}, r"tr_classidx_1 has shape \(1, 3\)"),
        ({"tr_classidx_1": np.array([1, 3, 6])}, "tr_classidx_1 holds 6; expected .* from 0 to 5"),
        ({"tt_classidx_1": np.array([1, 1])}, "tt_classidx_1 holds 1 more than once"),
        (
            {"infl_matrix_class1": np.zeros(6)},
            r"\(6,\); expected \(3, 2\), the length of tr_classidx_1 and tt_classidx_1",
        ),
        ({"infl_se_class0": np.zeros((3, 3))}, r"infl_se_class0 has shape \(3, 3\)"),
        ({"infl": np.zeros((4, 6))}, r"infl has shape \(4, 6\); expected \(6, 4\)"),
        ({"infl": np.full((6, 4), 1j)}, "infl is complex128"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, change, words):
    path = write(tmp_path / "infl.npz", released(**change))
    with pytest.raises(UserError, match=f"infl.npz: .*{words}") as raised:
        memorization.load(path)
    assert "\n" not in str(raised.value)


def test_blocks_keep_the_order_of_the_file(tmp_path):
    arrays = released()
    path = write(tmp_path / "infl.npz", dict(sorted(arrays.items(), reverse=True)))
    first, second = memorization.load(path).influence
    np.testing.assert_array_equal(first.values, arrays["infl_matrix_class1"])
    np.testing.assert_array_equal(second.values, arrays["infl_matrix_class0"])


def test_a_truncated_a_foreign_and_a_missing_file_are_refused(tmp_path):
    path = write(tmp_path / "infl.npz", released())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"infl\.npz: cannot be read"):
        memorization.load(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(UserError, match="cannot be read"):
        memorization.load(path)
    with pytest.raises(UserError, match="no such file"):
        memorization.load(tmp_path / "none.npz")


@pytest.mark.skipif(not REAL_PAIRS.exists(), reason="the released pairs are not here")
def test_the_released_pairs_are_refused_as_estimates():
    with pytest.raises(UserError, match="has no tr_labels, tt_labels, tr_mem"):
        memorization.load(REAL_PAIRS)
