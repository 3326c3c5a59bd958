"""The estimates against brute force, their errors against two halves, and flipped labels."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bat_jax.data.fashion_mnist import read as read_fashion_mnist
from bat_jax.ensemble.members import Ensemble
from bat_jax.errors import UserError
from bat_jax.memorization.agreement import of_halves
from bat_jax.memorization.estimator import Statistics
from bat_jax.training.building import build, planned
from configs import digits_memorization, fashion_mnist_memorization
from tests.memorization.brute_force import memorization_of

pytestmark = pytest.mark.slow


def scores_of(experiment, members):
    """Yields the scores of members 0 to `members` - 1, round by round."""
    ensemble = Ensemble(experiment, members=members)
    for start in range(0, members, ensemble.round_size):
        numbers = np.arange(start, min(start + ensemble.round_size, members))
        yield ensemble.train(numbers)


def statistics_of(experiment):
    labels = experiment.train.labels, experiment.dataset.test.labels
    estimator = experiment.config.memorization.estimator
    return Statistics(*labels, influence="none", estimator=estimator)


@functools.cache
def digits(estimator="difference"):
    config = digits_memorization.get_config()
    config.parallel.devices = 2
    config.memorization.estimator = estimator
    return build(config)


@functools.cache
def on_digits():
    """Returns the estimates of 1,000 members, and those of its even and odd members."""
    whole, even, odd = (statistics_of(digits()) for _ in range(3))
    for scores in scores_of(digits(), 1000):
        whole.update(scores.masks, scores.train, scores.test)
        for half, parity in ((even, 0), (odd, 1)):
            rows = scores.members % 2 == parity
            half.update(scores.masks[rows], scores.train[rows], scores.test[rows])
    return tuple(statistics.estimated() for statistics in (whole, even, odd))


@functools.cache
def on_digits_by_margins():
    """Returns the estimates from the margins of the first 250 of the same members."""
    statistics = statistics_of(digits("margin"))
    for scores in scores_of(digits("margin"), 250):
        statistics.update(scores.masks, scores.train, scores.test)
    return statistics.estimated()


def test_standard_errors_predict_how_far_two_halves_differ():
    whole, *halves = on_digits()
    even, odd = (half.memorization for half in halves)
    agreement = of_halves(even, odd, standard_error=whole.memorization_se)
    print(agreement)
    assert 0.8 <= agreement.variance <= 1.2


def chosen_for_brute_force():
    """Returns twenty rows across the range: by rank among those that are not 0."""
    whole, *_ = on_digits()
    ranked = np.argsort(whole.memorization)
    ranked = ranked[np.abs(whole.memorization[ranked]) > 0]
    return ranked[np.linspace(0, len(ranked) - 1, 20).astype(int)]


@functools.cache
def plan():
    """Returns the plan of a member; always the same object, so that it compiles once."""
    return planned(digits(), examples=round(0.7 * len(digits().train)))


@functools.cache
def by_brute_force(row):
    """Returns the memorization of a row and its standard error, from 200 models on each side."""
    experiment = digits()
    return memorization_of(
        experiment.evaluated(),  # As patches, much faster in a loop on CPU.
        jnp.float32(experiment.train.images) / 255,
        jnp.asarray(experiment.train.labels),
        row,
        models=200,
        epochs=experiment.config.train.epochs,
        batch_size=experiment.config.train.batch_size,
        schedule=plan().learning_rate,
        decay=experiment.config.train.optimizer.weight_decay,
    )


def assert_agrees_with_brute_force(estimates):
    z = []
    for row in chosen_for_brute_force():
        value, error = by_brute_force(int(row))
        # A proportion of 0 or 1 has no error of its own: half a count, as the next one would.
        joint = np.hypot(max(error, 0.5 / 200), estimates.memorization_se[row])
        z.append((estimates.memorization[row] - value) / joint)
        print(row, round(estimates.memorization[row], 3), round(value, 3), round(z[-1], 2))
    assert np.abs(z).max() <= 3


def test_estimates_agree_with_brute_force():
    whole, *_ = on_digits()
    assert_agrees_with_brute_force(whole)


def test_estimates_from_margins_agree_with_brute_force():
    assert_agrees_with_brute_force(on_digits_by_margins())


def flipped(experiment, part):
    """Returns the experiment with some of its training labels moved to another class."""
    draws = np.random.default_rng(0)
    train, classes = experiment.train, experiment.dataset.num_classes
    rows = draws.choice(len(train), round(part * len(train)), replace=False)
    labels = train.labels.copy()
    labels[rows] = (labels[rows] + draws.integers(1, classes, len(rows))) % classes
    is_flipped = np.zeros(len(train), bool)
    is_flipped[rows] = True
    return dataclasses.replace(
        experiment, train=dataclasses.replace(train, labels=labels.astype(np.int32))
    ), is_flipped


def auroc_of_flipped(config, members):
    config.parallel.devices = 2
    experiment, is_flipped = flipped(build(config), 0.05)
    statistics = statistics_of(experiment)
    for scores in scores_of(experiment, members):
        statistics.update(scores.masks, scores.train, scores.test)
    memorization = statistics.estimated().memorization
    known = np.isfinite(memorization)  # Of few members, fewer than four may lack an image.
    found = roc_auc_score(is_flipped[known], memorization[known])
    print(f"AUROC {found:.4f}, {is_flipped.sum()} of {len(is_flipped)} labels flipped")
    return found


def test_flipped_labels_are_found_by_memorization_on_digits():
    assert auroc_of_flipped(digits_memorization.get_config(), 50) >= 0.98


def test_flipped_labels_are_found_by_memorization_on_fashion_mnist():
    try:
        read_fashion_mnist(None)
    except UserError as error:
        pytest.skip(str(error))
    config = fashion_mnist_memorization.get_config()
    config.memorization.estimator = "margin"
    assert auroc_of_flipped(config, 50) >= 0.98
