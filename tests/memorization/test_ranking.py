"""Rank correlation and AUROC against scipy and scikit-learn, with ties, and their intervals."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from bat_jax.memorization.ranking import auroc, rank_correlation


def tied(n=300, seed=0):
    """Returns numbers and counts, most of them 0, that rank examples alike."""
    draws = np.random.default_rng(seed)
    hardness = np.where(draws.random(n) < 0.8, 0.0, draws.random(n))
    return hardness, draws.poisson(3 * hardness)


def test_correlations_and_aurocs_equal_those_of_scipy_and_scikit_learn():
    numbers, counts = tied()
    expected = stats.spearmanr(numbers, counts).statistic
    assert rank_correlation(numbers, counts).value == pytest.approx(expected, abs=1e-12)
    is_high = numbers > 0.3
    expected = roc_auc_score(is_high, counts)
    found = auroc(counts, is_high)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.n == 300


def test_intervals_contain_the_value_and_narrow_with_more_examples():
    few, many = (rank_correlation(*tied(n)) for n in (400, 6400))
    for measured in (few, many):
        low, high = measured.interval
        assert low < measured.value < high
    widths = [np.ptp(measured.interval) for measured in (few, many)]
    assert 2.5 < widths[0] / widths[1] < 6
    numbers, counts = tied(400)
    assert rank_correlation(numbers, counts) == rank_correlation(numbers, counts)
    assert rank_correlation(numbers, counts, seed=1).interval != few.interval


@pytest.mark.slow
def test_intervals_have_their_nominal_coverage():
    numbers, counts = tied(200_000)
    truth = stats.spearmanr(numbers, counts).statistic
    draws, covered = np.random.default_rng(1), 0
    for seed in range(100):
        rows = draws.integers(0, len(numbers), 300)
        low, high = rank_correlation(numbers[rows], counts[rows], seed=seed).interval
        covered += low <= truth <= high
    assert covered >= 87


def test_infinite_counts_rank_highest_and_alike():
    numbers = np.asarray([0.0, 0.1, 0.2, 0.9, 0.9])
    counts = np.asarray([0.0, 1.0, 2.0, np.inf, np.inf])
    assert rank_correlation(counts, numbers).value == pytest.approx(1)
    assert auroc(counts, numbers > 0.5).value == 1


def test_undefined_statistics_are_nan():
    constant, varied = np.zeros(5), np.arange(5.0)
    assert np.isnan(rank_correlation(constant, varied).value)
    assert np.isnan(auroc(varied, constant > 0).value)
    assert np.isnan(rank_correlation(constant[:0], varied[:0]).value)
    assert rank_correlation(constant[:0], varied[:0]).n == 0
