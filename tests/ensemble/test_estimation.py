"""Estimates of the members in a store."""

import numpy as np

from bat_jax.ensemble.estimation import as_estimates, estimated
from bat_jax.memorization import estimate, load, save
from bat_jax.memorization.store import Scores, Store
from tests.ensemble.members import experiment


def test_margins_in_a_store_give_the_margin_estimates(tmp_path):
    found = experiment(**{"memorization.estimator": "margin", "memorization.members": 60})
    train, test = len(found.train), len(found.dataset.test)
    draws = np.random.default_rng(0)
    masks = draws.random((60, train)) < 0.7
    margins = draws.integers(-500, 900, (60, train + test)) / 256
    store = Store(tmp_path / "members", train=train, test=test, statistic="margin", writes=True)
    for rows in np.array_split(np.arange(60), 4):
        parts = np.split(margins[rows], [train], axis=1)
        store.append(Scores(rows, masks[rows], *parts))
    output, halves = estimated(found, store, 60, influence="full")
    expected = estimate(masks, margins[:, :train], margins[:, train:], estimator="margin")
    np.testing.assert_array_equal(output.memorization, expected.memorization)
    np.testing.assert_array_equal(output.influence[0].values, expected.influence[0].values)
    even = estimate(masks[::2], margins[::2, :train], estimator="margin")
    np.testing.assert_array_equal(halves[60][0], even.memorization)
    save(tmp_path / "memorization.npz", as_estimates(found, output))
    assert load(tmp_path / "memorization.npz").estimator == "margin"
