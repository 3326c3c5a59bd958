"""The agreement of two halves of the first members, in any order of storage."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from bat_jax import memorization
from bat_jax.config import default
from bat_jax.ensemble.estimation import as_estimates, estimated
from bat_jax.ensemble.members import Scores
from bat_jax.memorization import aggregates
from bat_jax.memorization.store import Store
from bat_jax.report.memorization import _by_members
from bat_jax.report.style import render

MEMBERS, TRAIN, TEST = 120, 40, 12


@pytest.fixture(scope="module")
def scores():
    """Returns made-up members, which learn examples in their subset more or less easily."""
    draws = np.random.default_rng(0)
    masks = draws.random((MEMBERS, TRAIN)) < 0.7
    easy = np.linspace(0.2, 1.0, TRAIN)
    train = draws.random((MEMBERS, TRAIN)) < np.where(masks, 0.95, easy)
    return Scores(np.arange(MEMBERS), masks, train, draws.random((MEMBERS, TEST)) < 0.5)


@pytest.fixture(scope="module")
def summarized(scores, tmp_path_factory):
    """Returns the halves and the results of a store with members in shuffled rounds."""
    folder = tmp_path_factory.mktemp("members")
    store = Store(folder, train=TRAIN, test=TEST, statistic="correct", writes=True)
    order = np.random.default_rng(1).permutation(MEMBERS)
    for start in range(0, MEMBERS, 30):
        store.append(scores.of(order[start : start + 30]))
    train, test = (
        SimpleNamespace(labels=np.arange(n, dtype=np.int32) % 4, ids=np.arange(n))
        for n in (TRAIN, TEST)
    )
    experiment = SimpleNamespace(
        train=train, dataset=SimpleNamespace(test=test, name="made", classes=None), config=default()
    )
    found, halves = estimated(experiment, store, MEMBERS, influence="class")
    results = aggregates.summarize(
        as_estimates(experiment, found),
        halves,
        members=MEMBERS,
        threshold=0.15,
        class_names=("a", "b", "c", "d"),
    )
    return halves, results


def test_the_halves_are_the_even_and_the_odd_of_the_first_members(scores, summarized):
    halves, _ = summarized
    assert list(halves) == [50, 100, 120]
    for size, pair in halves.items():
        for rest, memorized in enumerate(pair):
            rows = np.arange(rest, size, 2)
            expected = memorization.estimate(
                scores.masks[rows], scores.train[rows], influence="none"
            )
            np.testing.assert_array_equal(memorized, expected.memorization)


def test_rank_correlations_are_given_by_number_of_members(summarized):
    halves, results = summarized
    rows = results["split_half_by_members"]
    assert [row["members"] for row in rows] == [50, 100, 120]
    for row in rows:
        expected = stats.spearmanr(*halves[row["members"]]).statistic
        assert row["rank_correlation"] == pytest.approx(expected, abs=1e-12)
        low, high = row["interval"]
        assert low < row["rank_correlation"] < high
        assert row["n"] == TRAIN
    assert rows[-1]["rank_correlation"] == pytest.approx(results["split_half"]["rank_correlation"])
    assert f"120: {rows[-1]['rank_correlation']:.3f}" in aggregates.table(results)
    assert render(_by_members(rows)).png[:4] == b"\x89PNG"


def test_the_last_number_is_that_of_all_members():
    assert aggregates.sizes(8) == [8]
    assert aggregates.sizes(100) == [50, 100]
    assert aggregates.sizes(1000) == [50, 100, 200, 500, 1000]


def test_the_strongest_pairs_omit_unknown_influence():
    estimates = memorization.Estimates(
        "here",
        np.array([0.9, 0.9, 0.1]),
        np.zeros(3, int),
        np.zeros(2, int),
        np.arange(3),
        np.arange(2),
        (
            memorization.Influence(
                np.arange(3), np.arange(2), np.array([[np.nan, 0.5], [np.nan] * 2, [0.9] * 2])
            ),
        ),
    )
    assert aggregates.strongest_pairs(estimates, 0.15, 5) == [(0, 1, 0.5)]
