"""The linear datamodeling score, its interval and its noise ceiling."""

import inspect

import numpy as np
import pytest
from scipy.stats import spearmanr

from bat_jax.errors import UserError
from bat_jax.memorization import Subsets, lds

TRAIN, TEST, MODELS = 60, 20, 400


@pytest.fixture(scope="module")
def linear():
    """Returns attributions that are true, and models whose margins add noise to them."""
    draws = np.random.default_rng(0)
    scores = draws.normal(size=(TRAIN, TEST))
    masks = draws.random((MODELS, TRAIN)) < 0.5
    signal = masks @ scores
    noise = draws.normal(size=signal.shape) * signal.std(0) * 1.5
    return scores, Subsets(masks, signal + noise)


def test_it_is_the_rank_correlation_of_every_test_example(linear):
    scores, ensemble = linear
    found = lds(scores, ensemble)
    predicted = ensemble.masks @ scores
    expected = [spearmanr(predicted[:, j], ensemble.margins[:, j]).statistic for j in range(TEST)]
    np.testing.assert_allclose(found.values, expected)
    assert found.mean == pytest.approx(np.mean(expected))
    assert found.models == MODELS
    assert found.interval[0] < found.mean < found.interval[1]
    assert found.interval[1] - found.interval[0] < 0.08


def test_true_attributions_reach_the_ceiling_and_noisy_ones_do_not(linear):
    scores, ensemble = linear
    found = lds(scores, ensemble)
    # The signal has 1 / 3.25 of the variance: a correlation of 0.555.
    assert found.ceiling == pytest.approx(0.555, abs=0.03)
    assert found.mean == pytest.approx(found.ceiling, abs=0.05)
    noisy = scores + np.random.default_rng(1).normal(size=scores.shape)
    assert lds(noisy, ensemble).mean < 0.85 * found.mean
    assert abs(lds(scores[::-1], ensemble).mean) < 0.15


def test_margins_without_a_cause_have_a_low_ceiling(linear):
    scores, ensemble = linear
    margins = np.random.default_rng(2).normal(size=ensemble.margins.shape)
    assert lds(scores, Subsets(ensemble.masks, margins)).ceiling < 0.15


def test_constant_columns_have_no_score(linear):
    scores, ensemble = linear
    scores, margins = scores.copy(), ensemble.margins.copy()
    scores[:, 0], margins[:, 1] = 0, 3
    found = lds(scores, Subsets(ensemble.masks, margins))
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(found.values)), [0, 1])
    assert np.isfinite([found.mean, *found.interval, found.ceiling]).all()
    nothing = lds(np.zeros_like(scores), ensemble)
    assert np.isnan([nothing.mean, *nothing.interval]).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": np.zeros((TEST, TRAIN))}, r"scores have shape \(20, 60\); expected \(60, 20\)"),
        ({"masks": np.zeros((MODELS - 1, TRAIN), bool)}, r"masks \(399, 60\), margins \(400, 20\)"),
        (
            {"scores": np.full((TRAIN, TEST), np.nan)},
            r"scores \(float64\) hold values that are not",
        ),
        ({"masks": np.zeros((9, TRAIN), bool), "margins": np.zeros((9, TEST))}, "9 models; expect"),
    ],
)
def test_wrong_inputs_are_refused(linear, change, words):
    scores, ensemble = linear
    arguments = {"scores": scores, **ensemble._asdict(), **change}
    scores = arguments.pop("scores")
    with pytest.raises(UserError, match=words):
        inspect.unwrap(lds)(scores, Subsets(**arguments))
