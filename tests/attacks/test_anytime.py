"""The interval holds the true count at all times together with the stated probability."""

import itertools
import math

import numpy as np
import pytest

from bat_jax.attacks.anytime import Limits, intersected, limits, log_evidence


@pytest.mark.parametrize(
    ("drawn", "found", "points"), [(300, 0, 0.65), (500, 0, 0.39), (1000, 0, 0.19), (500, 2, 1.02)]
)
def test_limits_at_a_real_size(drawn, found, points):
    # Computed independently, with log factorials by cumulative sums; 10,000 images in all.
    high = limits(5400, drawn, found).high
    assert round(100 * high / 10_000, 2) == points


@pytest.mark.parametrize(("count", "drawn"), [(50, 386), (30, 634), (10, 1642)])
def test_draws_until_an_interval_is_narrow_enough(count, drawn):
    assert limits(5400, drawn, 0).high <= count < limits(5400, drawn - 1, 0).high


def test_no_draws_exclude_nothing():
    assert limits(10, 0, 0) == (0, 10)
    assert limits(0, 0, 0) == (0, 0)


@pytest.mark.parametrize("found", [0, 1, 5, 9, 10])
def test_the_interval_is_exact_once_all_are_drawn(found):
    assert limits(10, 10, found) == (found, found)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_interval_is_among_the_possible_counts(confidence):
    for drawn in range(13):
        for found in range(drawn + 1):
            low, high = limits(12, drawn, found, confidence=confidence)
            assert found <= low <= high <= 12 - drawn + found


def test_more_confidence_and_fewer_draws_give_wider_intervals():
    widths = [np.diff(limits(500, 100, 3, confidence=c))[0] for c in (0.5, 0.8, 0.95, 0.99)]
    assert widths == sorted(widths)
    assert len(set(widths)) == 4
    widths = [np.diff(limits(500, 20 * n, n))[0] for n in (1, 2, 5, 10, 25)]
    assert widths == sorted(widths, reverse=True)


def evidence_by_counting(broken, population, drawn, found):
    """R_t(B) from binomial coefficients and factorials, in integers up to the last division."""

    def beta(a, c):
        return math.factorial(a - 1) * math.factorial(c - 1) / math.factorial(a + c - 1)

    # The chance of one sequence of draws: those with as many broken are equally likely.
    sequences = math.comb(drawn, found)
    chance = math.comb(broken, found) * math.comb(population - broken, drawn - found)
    likelihood = chance / math.comb(population, drawn) / sequences
    mixture = (found == 0) / 3
    mixture += beta(1 + found, 200 + drawn - found) / beta(1, 200) / 3
    mixture += beta(1 + found, 1 + drawn - found) / beta(1, 1) / 3
    return mixture / likelihood if likelihood else math.inf


def test_the_evidence_equals_that_by_counting():
    population = 9
    for drawn in range(population + 1):
        for found in range(drawn + 1):
            broken = np.arange(population + 1)
            expected = [evidence_by_counting(int(b), population, drawn, found) for b in broken]
            evidence = log_evidence(broken, population=population, drawn=drawn, found=found)
            np.testing.assert_allclose(np.exp(evidence), expected, rtol=1e-10)


@pytest.mark.parametrize(("drawn", "found"), [(0, 0), (3, 0), (3, 2), (17, 0), (17, 5), (30, 4)])
def test_the_evidence_against_the_truth_is_a_martingale(drawn, found):
    population, broken = 40, 6
    now, one, none = np.exp(
        log_evidence(
            broken,
            population=population,
            drawn=drawn + np.array([0, 1, 1]),
            found=found + np.array([0, 1, 0]),
        )
    )
    chance = (broken - found) / (population - drawn)
    np.testing.assert_allclose(chance * one + (1 - chance) * none, now, rtol=1e-9)


def test_the_evidence_falls_once_the_draws_are_certain():
    drawn = np.arange(20, 41)
    evidence = log_evidence(6, population=40, drawn=drawn, found=6)
    assert (np.diff(evidence) < 0).all()


@pytest.mark.parametrize("confidence", [0.3, 0.6, 0.95])
def test_coverage_over_all_orders_of_a_tiny_population(confidence):
    population = 12
    orders = np.array(list(itertools.product([False, True], repeat=population)))
    missed = ever_missed(orders, confidence)
    for broken in range(population + 1):
        # The orders with as many broken are equally likely.
        rate = missed[orders.sum(axis=1) == broken].mean()
        assert rate <= 1 - confidence
    # Not because the intervals are everything.
    assert confidence > 0.6 or missed.mean() > 0.1


def ever_missed(orders, confidence):
    """Returns for each order of draws whether the true count is ever outside the interval."""
    population = orders.shape[1]
    evidence = log_evidence(
        orders.sum(axis=1)[:, None],
        population=population,
        drawn=np.arange(1, population + 1)[None],
        found=np.cumsum(orders, axis=1),
    )
    return (evidence >= -np.log1p(-confidence)).any(axis=1)


def shuffled(rng, count, population, broken):
    orders = np.zeros((count, population), bool)
    orders[:, :broken] = True
    return rng.permuted(orders, axis=1)


def assert_covered(missed, confidence):
    """Fails if misses are more than chance explains, at five standard errors."""
    alpha = 1 - confidence
    assert missed.mean() <= alpha + 5 * np.sqrt(alpha * (1 - alpha) / len(missed))


@pytest.mark.parametrize("broken", [0, 1, 4, 40, 79, 80])
def test_coverage_by_simulation(broken):
    rng = np.random.default_rng(broken)
    for confidence in (0.8, 0.95):
        assert_covered(ever_missed(shuffled(rng, 300, 80, broken), confidence), confidence)


def test_coverage_when_it_stops_at_the_tolerance():
    rng = np.random.default_rng(0)
    missed, stopped = [], []
    for is_broken in shuffled(rng, 200, 120, 6):
        found, now = np.cumsum(is_broken), Limits(0, 120)
        for drawn in range(10, 121, 10):
            latest = limits(120, drawn, int(found[drawn - 1]), confidence=0.8)
            now = intersected(now, latest)
            if now.high - now.low <= 12:
                break
        missed.append(not now.low <= 6 <= now.high)
        stopped.append(drawn)
    assert_covered(np.array(missed), 0.8)
    assert min(stopped) < 120


# 2,500 sequences for each count, stopped at the worst moment: as soon as they miss, if ever.
@pytest.mark.slow
@pytest.mark.parametrize(
    "broken", [0, 1, 2, 3, 5, 10, 20, 50, 100, 250, 400, 500, 750, 950, 990, 999, 1000]
)
def test_coverage_of_many_sequences(broken):
    rng = np.random.default_rng(broken)
    orders = shuffled(rng, 2_500, 1000, broken)
    for confidence in (0.8, 0.95, 0.99):
        assert_covered(ever_missed(orders, confidence), confidence)


def test_intersections_of_intervals():
    assert intersected(Limits(0, 9), Limits(2, 12)) == (2, 9)
    assert intersected(Limits(3, 5), Limits(2, 12)) == (3, 5)
    assert intersected(Limits(0, 4), Limits(4, 6)) == (4, 4)
    # One of them has missed.
    assert intersected(Limits(0, 3), Limits(4, 6)) == (4, 6)
