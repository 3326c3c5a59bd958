"""What clean and attacked images give is compared without the noise that they share."""

import jax
import numpy as np
import pytest
from scipy import stats

from bat_jax import keys
from bat_jax.memorization import contrast, estimate, ranking
from bat_jax.memorization.estimator import Influence
from bat_jax.memorization.ranking import across_halves

MEMBERS, TRAIN, TEST = 300, 40, 30


@pytest.fixture(scope="module")
def tested():
    """Members whose accuracy falls by 0.01 with each of the first ten examples of their subset.

    Example 0 helps test example 0, and example 1 harms test example 1.
    """
    draws = np.random.default_rng(0)
    masks = np.argsort(draws.random((MEMBERS, TRAIN)), axis=1) < 28
    scores = draws.normal(0.0, 1.0, (MEMBERS, TEST))
    scores[:, 0] += 3 * masks[:, 0]
    scores[:, 1] -= 3 * masks[:, 1]
    accuracy = 0.8 - 0.01 * masks[:, :10].sum(1) + draws.normal(0, 0.01, MEMBERS)
    return contrast.Tested(masks, scores, accuracy)


def test_significant_pairs_are_counted_by_sign():
    values = np.array([[0.5, -0.5, 0.3], [np.nan, 0.5, 0.5]])
    errors = np.array([[0.1, 0.1, 0.1], [np.nan, 0.0, 0.2]])
    block = Influence(np.arange(2), np.arange(3), values, errors)
    assert contrast.signed((block, block)) == contrast.Signed(pairs=8, helpful=2, harmful=2)


@pytest.mark.parametrize("estimator", ["margin", "difference"])
def test_members_with_the_subsets_of_others_show_what_chance_gives(tested, estimator):
    if estimator == "difference":
        tested = tested._replace(scores=tested.scores > 0)
    labels = np.zeros(TRAIN, np.int32), np.zeros(TEST, np.int32)
    found = estimate(tested.masks, tested.masks * 2.0, tested.scores, estimator=estimator)
    counted = contrast.signed(found.influence)
    assert counted.pairs == TRAIN * TEST
    assert 1 <= counted.helpful <= 2
    assert 1 <= counted.harmful <= 2
    draws = contrast.by_chance(tested, labels, influence="full", estimator=estimator)
    assert len(draws) == contrast.DRAWS
    for number, draw in enumerate(draws):
        key = keys.derive(0, keys.Purpose.BOOTSTRAP, number + 1)
        masks = tested.masks[np.asarray(jax.random.permutation(key, MEMBERS))]
        alone = estimate(masks, masks * 2.0, tested.scores, estimator=estimator)
        assert draw == contrast.signed(alone.influence)
        assert draw.helpful + draw.harmful <= 3


def test_an_exchange_is_the_slope_of_accuracy_over_the_number_of_atypical_examples(tested):
    atypical = np.where(np.arange(TRAIN) < 10, 0.9, 0.0)
    found = contrast.exchange(tested, (atypical, atypical), threshold=0.15, part=1 / 28)
    slopes, errors = [], []
    for rest in (0, 1):
        number = tested.masks[rest::2, :10].sum(1)
        line = stats.linregress(number, tested.accuracy[rest::2])
        slopes.append(line.slope)
        errors.append(line.stderr)
    assert found.value == pytest.approx(np.mean(slopes), rel=1e-12)
    assert found.standard_error == pytest.approx(np.hypot(*errors) / 2, rel=1e-12)
    assert abs(found.value + 0.01) < 3 * found.standard_error


def test_the_atypical_examples_of_one_half_are_those_of_the_other(tested):
    some, others = np.arange(TRAIN) < 10, np.arange(TRAIN) >= 30
    crossed = contrast.exchange(tested, (1.0 * some, 1.0 * others), threshold=0.15)
    slopes = [
        stats.linregress(tested.masks[rest::2, chosen].sum(1), tested.accuracy[rest::2]).slope
        for rest, chosen in ((0, others), (1, some))
    ]
    assert crossed.value == pytest.approx(0.28 * np.mean(slopes), rel=1e-9)
    nothing = np.zeros(TRAIN)
    assert contrast.exchange(tested, (nothing, nothing), threshold=0.15) is None


def test_a_summary_has_the_exchange_of_either_kind_of_atypical_examples(tested, monkeypatch):
    monkeypatch.setattr(ranking, "_RESAMPLES", 5)
    draws = np.random.default_rng(2)
    # Accuracy under attack falls with other examples, and twice as much.
    noise = draws.normal(0, 0.01, MEMBERS)
    attacked = tested._replace(accuracy=0.5 - 0.02 * tested.masks[:, 5:20].sum(1) + noise)
    place = np.arange(TRAIN)
    halves = {
        "clean": tuple(np.where(place < end, 0.9, draws.random(TRAIN) / 10) for end in (10, 12)),
        "robust": tuple(np.where(place > end, 0.8, draws.random(TRAIN) / 10) for end in (17, 15)),
    }
    accuracies = {"clean": tested, "robust": attacked}
    sides = {name: contrast.Side(accuracies[name], halves[name], ()) for name in halves}
    labels = np.zeros(TRAIN, np.int32), np.zeros(TEST, np.int32)
    found = contrast.summarize(
        sides, labels, threshold=0.15, influence="none", estimator="difference"
    )["exchange"]
    expected = {
        f"{kind}_atypical_on_{name}_accuracy": contrast.exchange(
            accuracies[name], halves[kind], threshold=0.15
        )
        for kind in ("clean", "robust")
        for name in ("clean", "robust")
    }
    assert len({effect.value for effect in expected.values()}) == 4
    assert found == {key: effect._asdict() for key, effect in expected.items()}
    # The first half counts the examples that are atypical in the second, and the other way round.
    crossed = zip((0, 1), (place < 12, place < 10), strict=True)
    slopes = [
        stats.linregress(tested.masks[half::2, of].sum(1), attacked.accuracy[half::2]).slope
        for half, of in crossed
    ]
    value = found["clean_atypical_on_robust_accuracy"]["value"]
    assert value == pytest.approx(0.28 * np.mean(slopes), rel=1e-9)


def test_the_correlation_across_halves_has_the_ceiling_of_equal_quantities(monkeypatch):
    monkeypatch.setattr(ranking, "_RESAMPLES", 50)
    draws = np.random.default_rng(1)
    truth = draws.normal(size=150)
    even, odd, third, fourth = (truth + draws.normal(size=150) for _ in range(4))
    found, ceiling = across_halves((even, odd), (third, fourth))
    rank = lambda a, b: stats.spearmanr(a, b).statistic
    assert found.value == pytest.approx((rank(even, fourth) + rank(odd, third)) / 2, abs=1e-12)
    assert ceiling.value == pytest.approx(np.sqrt(rank(even, odd) * rank(third, fourth)), abs=1e-12)
    assert found.interval[0] < found.value < found.interval[1]
    unrelated = across_halves((even, -even), (third, fourth))[1]
    assert np.isnan(unrelated.value)
