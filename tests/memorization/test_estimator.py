"""The estimator follows the formula of Feldman & Zhang, with standard errors, for any stream."""

import inspect

import numpy as np
import pytest

from bat_jax.errors import UserError
from bat_jax.memorization import Statistics, estimate, estimator


def ensemble(models=40, train=7, test=5, seed=0):
    draws = np.random.default_rng(seed)
    masks = draws.random((models, train)) < 0.7
    return masks, draws.random((models, train)) < 0.8, draws.random((models, test)) < 0.6


def by_hand(masks, scores, i):
    """mem(i), or infl(i, j) where the scores are those of test example j, and its error."""
    inside, outside = scores[masks[:, i]], scores[~masks[:, i]]
    error = inside.var() / len(inside) + outside.var() / len(outside)
    return inside.mean() - outside.mean(), np.sqrt(error)


def test_memorization_and_influence_are_differences_of_means():
    masks, train, test = ensemble()
    found = estimate(masks, train, test)
    (block,) = found.influence
    for i in range(masks.shape[1]):
        value, error = by_hand(masks, train[:, i], i)
        assert found.memorization[i] == pytest.approx(value)
        assert found.memorization_se[i] == pytest.approx(error)
        assert (found.in_count[i], found.out_count[i]) == (masks[:, i].sum(), (~masks[:, i]).sum())
        for j in range(test.shape[1]):
            value, error = by_hand(masks, test[:, j], i)
            assert block.values[i, j] == pytest.approx(value, abs=1e-6)
            assert block.standard_error[i, j] == pytest.approx(error, abs=1e-6)


def test_the_standard_error_is_that_of_two_proportions():
    masks, train, _ = ensemble()
    found = estimate(masks, train)
    q_in = (train & masks).sum(0) / masks.sum(0)
    q_out = (train & ~masks).sum(0) / (~masks).sum(0)
    error = np.sqrt(q_in * (1 - q_in) / masks.sum(0) + q_out * (1 - q_out) / (~masks).sum(0))
    np.testing.assert_allclose(found.memorization_se, error)


def test_probabilities_are_estimated_the_same_way():
    masks, _, _ = ensemble()
    draws = np.random.default_rng(1)
    train, test = draws.random((40, 7)), draws.random((40, 5))
    found = estimate(masks, train, test)
    value, error = by_hand(masks, train[:, 3], 3)
    assert found.memorization[3] == pytest.approx(value)
    assert found.memorization_se[3] == pytest.approx(error)
    value, error = by_hand(masks, test[:, 2], 3)
    assert found.influence[0].values[3, 2] == pytest.approx(value, abs=1e-6)
    assert found.influence[0].standard_error[3, 2] == pytest.approx(error, abs=1e-6)


def test_undefined_estimates_are_nan_and_never_0():
    masks = np.array([[True, False, True], [True, False, False]])
    found = estimate(masks, np.ones((2, 3), bool), np.ones((2, 1), bool))
    np.testing.assert_array_equal(np.isnan(found.memorization), [True, True, False])
    np.testing.assert_array_equal(np.isnan(found.memorization_se), [True, True, False])
    np.testing.assert_array_equal(np.isnan(found.influence[0].values[:, 0]), [True, True, False])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.int64, np.float16, np.float64])
def test_masks_of_0_and_1_of_any_type_are_masks(dtype):
    masks, train, test = ensemble()
    found, expected = estimate(masks.astype(dtype), train, test), estimate(masks, train, test)
    for ours, theirs in zip(found[:4], expected[:4], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found.influence[0].values, expected.influence[0].values)


def test_influence_within_classes_is_part_of_the_full_influence():
    masks, train, test = ensemble()
    train_labels, test_labels = np.arange(7) % 3, np.arange(5) % 3
    full = estimate(masks, train, test).influence[0]
    blocks = estimate(
        masks, train, test, influence="class", train_labels=train_labels, test_labels=test_labels
    ).influence
    assert len(blocks) == 3
    for label, block in enumerate(blocks):
        assert set(block.train) == set(np.flatnonzero(train_labels == label))
        np.testing.assert_array_equal(block.values, full.values[np.ix_(block.train, block.test)])


@pytest.mark.parametrize("kind", ["difference", "margin"])
def test_the_number_of_pairs_at_a_time_changes_no_bit(monkeypatch, kind):
    masks, train, test = ensemble()
    if kind == "margin":
        draws = np.random.default_rng(2)
        train, test = draws.normal(size=train.shape), draws.normal(size=test.shape)
    whole = estimate(masks, train, test, estimator=kind).influence[0]
    monkeypatch.setattr(estimator, "_PAIRS", 11)  # Two rows of five.
    parts = estimate(masks, train, test, estimator=kind).influence[0]
    for ours, theirs in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("binary", [True, False])
def test_the_order_and_grouping_of_models_change_no_bit(binary):
    masks, train, test = ensemble()
    if not binary:
        # As the store keeps probabilities.
        draws = np.random.default_rng(2)
        train = draws.integers(0, 2**15, train.shape) * 2.0**-15
        test = draws.integers(0, 2**15, test.shape) * 2.0**-15
    labels = np.zeros(7, np.int32), np.zeros(5, np.int32)

    def streamed(groups):
        statistics = Statistics(*labels, influence="full", binary=binary)
        for rows in groups:
            statistics.update(masks[rows], train[rows], test[rows])
        return statistics.estimated()

    whole = streamed([np.arange(40)])
    parts = streamed(np.array_split(np.random.default_rng(3).permutation(40), 7))
    for ours, theirs in zip(parts[:4], whole[:4], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(parts.influence[0], whole.influence[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((np.zeros((0, 3), bool), np.zeros((0, 3), bool)), {}, "and a model"),
        ((np.zeros((2, 3), bool), np.zeros((1, 3), bool)), {}, "one each for every model"),
        ((np.zeros((2, 3), bool), np.zeros((2, 4), bool)), {}, "expected the same"),
        ((np.zeros(3, bool), np.zeros(3, bool)), {}, "expected 2"),
        ((np.full((2, 3), -1), np.zeros((2, 3), bool)), {}, r"masks \(int64\) hold values other"),
        ((np.arange(6).reshape(2, 3), np.zeros((2, 3), bool)), {}, "values other than 0 and 1"),
        ((np.full((2, 3), np.nan), np.zeros((2, 3), bool)), {}, "values other than 0 and 1"),
        ((np.full((2, 3), "1"), np.zeros((2, 3), bool)), {}, "values other than 0 and 1"),
        ((np.ones((2, 3), bool), np.full((2, 3), np.nan)), {}, "train_correct .* not finite"),
        ((np.ones((2, 3), bool), np.full((2, 3), "right")), {}, "train_correct .* not finite"),
        (ensemble(), {"influence": "class"}, "train_labels"),
        (ensemble(), {"test_labels": np.zeros(4, int)}, r"test_labels have shape \(4,\)"),
        (ensemble(), {"influence": "some"}, "'some'; expected class, full or none"),
    ],
)
def test_wrong_inputs_are_refused(arguments, options, words):
    # Without the run-time check of shapes, which the tests switch on and which would speak first.
    with pytest.raises(UserError, match=words):
        inspect.unwrap(estimate)(*arguments, **options)
