"""The estimator `margin` estimates the same quantity with a smaller error, and knows its error."""

import inspect

import numpy as np
import pytest
from scipy import integrate, stats

from bat_jax.errors import UserError
from bat_jax.memorization import Statistics, estimate
from bat_jax.memorization.margins import Moments, moderated, moments, probability_correct

EXAMPLES = 300


class World:
    """Models whose margins have a known, skewed distribution on every example."""

    def __init__(self):
        draws = np.random.default_rng(0)
        self.shape = 20.0  # Of a gamma distribution; its skewness is 0.45.
        self.zeta = np.where(np.arange(EXAMPLES) < 100, draws.normal(1, 1, EXAMPLES), 5.0)
        self.spread = 3 * np.exp(draws.normal(0, 0.2, EXAMPLES))
        wrong = stats.gamma.cdf(self.shape - self.zeta * np.sqrt(self.shape), self.shape)
        # With the example in the subset, the models are right.
        self.truth = wrong

    def ensemble(self, models, seed):
        draws = np.random.default_rng(seed)
        masks = draws.permuted(np.arange(models * EXAMPLES).reshape(EXAMPLES, models), axis=1)
        masks = (masks % models < 0.7 * models).T
        noise = draws.gamma(self.shape, size=masks.shape) - self.shape
        zeta = np.where(masks, 9.0, self.zeta)
        return masks, self.spread * (zeta + noise / np.sqrt(self.shape))


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.mark.parametrize("models", [60, 250])
def test_errors_are_smaller_and_calibrated(world, models):
    errors, z, plain = [], [], []
    for seed in range(20):
        masks, scores = world.ensemble(models, seed)
        found = estimate(masks, scores, estimator="margin")
        errors.append(found.memorization - world.truth)
        z.append((errors[-1] / found.memorization_se)[:100])
        plain.append(estimate(masks, scores > 0).memorization - world.truth)
    assert np.mean(np.square(errors)) < 0.75 * np.mean(np.square(plain))
    assert 0.8 < np.mean(np.square(z)) < 1.2
    # The bias is a fraction of one estimate's error.
    assert abs(np.mean(np.array(errors)[:, :100])) < 0.2 * np.sqrt(np.mean(np.square(errors)) * 3)


def test_it_tends_to_the_proportion_whatever_the_distribution(world):
    draws = np.random.default_rng(1)
    n = 40_000
    centers = np.linspace(-1, 1, 30)
    scores = centers + draws.choice([-1.0, 0.3], p=[0.3, 0.7], size=(n, 30)) * 2
    count = np.full(30, n)
    right = (scores > 0).sum(0)
    value, variance = probability_correct(
        moments(count, scores.sum(0), (scores**2).sum(0)), right.astype(float)
    )
    np.testing.assert_allclose(value, right / n, atol=0.001)
    assert variance.max() < 1.1 * 0.25 / n


def test_the_posterior_of_one_example_is_that_of_the_docstring():
    """With one example there is no prior, and no other example reveals a misfit."""
    scores = np.random.default_rng(2).normal(1.0, 1.5, 30)
    n, mean, spread = 30, scores.mean(), scores.std(ddof=1)
    right = float((scores > 0).sum())
    zeta = mean / spread
    error = 1 / n + zeta**2 / (2 * (n - 1))
    posterior = stats.norm(zeta, np.sqrt(error))

    def expected(function):
        return integrate.quad(lambda x: function(x) * posterior.pdf(x), -8, 8)[0]

    first = expected(stats.norm.cdf)
    second = expected(lambda x: stats.norm.cdf(x) ** 2)
    squared = expected(lambda x: stats.norm.pdf(x) ** 2)
    saved = (first - second) / n - (second - first**2)
    tau = max(((right / n - first) ** 2 - saved) / squared, 0)
    weight = tau * squared / (tau * squared + saved)
    value, variance = probability_correct(
        moments(np.array([n]), np.array([scores.sum()]), np.array([(scores**2).sum()])),
        np.array([right]),
    )
    assert value[0] == pytest.approx(first + weight * (right / n - first), abs=1e-9)
    assert variance[0] == pytest.approx(second - first**2 + weight * saved, abs=1e-9)


def test_variances_are_moderated_by_as_much_as_they_scatter():
    draws = np.random.default_rng(3)
    mean = draws.normal(0, 3, 2000)
    prior, n = 12.0, 9
    true = np.exp(0.2 * mean) * prior / draws.chisquare(prior, 2000)
    own = true * draws.chisquare(n - 1, 2000) / (n - 1)
    value, degrees = moderated(Moments(np.full(2000, float(n)), mean, own))
    assert degrees[0] - (n - 1) == pytest.approx(prior, rel=0.2)
    assert np.mean((np.log(value) - np.log(true)) ** 2) < 0.5 * np.mean(
        (np.log(own) - np.log(true)) ** 2
    )


def test_influence_is_a_difference_of_normal_probabilities():
    draws = np.random.default_rng(4)
    masks = draws.random((400, 3)) < 0.7
    test = draws.normal(1, 2, (400, 2)) + 0.5 * masks[:, [0]]
    (block,) = estimate(masks, draws.normal(size=(400, 3)), test, estimator="margin").influence
    for i in range(3):
        for j in range(2):
            expected, variance = [], 0.0
            for rows in (masks[:, i], ~masks[:, i]):
                scores = test[rows, j]
                zeta = scores.mean() / scores.std(ddof=1)
                expected.append(stats.norm.cdf(zeta))
                slope = stats.norm.pdf(zeta)
                variance += slope**2 * (1 / len(scores) + zeta**2 / (2 * (len(scores) - 1)))
            assert block.values[i, j] == pytest.approx(expected[0] - expected[1], abs=1e-6)
            assert block.standard_error[i, j] == pytest.approx(np.sqrt(variance), abs=1e-6)


def test_equal_margins_leave_no_doubt_and_few_models_no_estimate():
    masks = np.repeat([[True, True, False]], 12, axis=0)
    masks[::2] = [False, True, True]
    scores = np.where(masks, 2.0, -2.0)
    with np.errstate(divide="raise", invalid="raise"):
        found = estimate(masks, scores, scores[:, :1], estimator="margin")
    np.testing.assert_array_equal(found.memorization, [1, np.nan, 1])
    np.testing.assert_array_equal(found.memorization_se, [0, np.nan, 0])
    np.testing.assert_array_equal(found.influence[0].values[:, 0], [1, np.nan, -1])


def test_the_order_of_models_changes_no_bit(world):
    masks, scores = world.ensemble(40, 0)
    scores = np.round(scores * 256) / 256  # As the store keeps margins.
    labels = np.zeros(EXAMPLES, np.int32), np.zeros(5, np.int32)

    def streamed(groups):
        statistics = Statistics(*labels, influence="full", estimator="margin")
        for rows in groups:
            statistics.update(masks[rows], scores[rows], scores[rows, :5])
        return statistics.estimated()

    whole = streamed([np.arange(40)])
    parts = streamed(np.array_split(np.random.default_rng(5).permutation(40), 7))
    for ours, theirs in zip((*parts[:4], *parts[4][0]), (*whole[:4], *whole[4][0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("scores", "estimator", "words"),
    [
        (np.ones((9, 3), bool), "margin", r"train_correct \(bool\) holds no margins"),
        (np.full((9, 3), 0.5), "margin", r"holds no margins; expected .* logit of the label less"),
        (-np.ones((9, 3)), "margin", "at most 3 of 9 models .* expected 4 of both .* difference"),
        (-np.ones((9, 3)), "median", "estimator is 'median'; expected difference or margin"),
    ],
)
def test_wrong_scores_are_refused(scores, estimator, words):
    masks = np.repeat(np.arange(9)[:, None] < 6, 3, axis=1)
    with pytest.raises(UserError, match=words):
        inspect.unwrap(estimate)(masks, scores, estimator=estimator)


def test_test_scores_that_are_no_margins_are_refused():
    masks = np.repeat(np.arange(9)[:, None] < 5, 3, axis=1)
    with pytest.raises(UserError, match=r"test_correct \(bool\) holds no margins"):
        inspect.unwrap(estimate)(
            masks, -np.ones((9, 3)), np.ones((9, 2), bool), estimator="margin", influence="full"
        )
