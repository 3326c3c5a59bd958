"""Defences that AutoAttack does not measure well give their warnings."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.attacks import autoattack, checks
from bat_jax.attacks.checks import RobustnessWarning
from bat_jax.errors import UserError
from tests.attacks import linear


def attack(logits_fn, images, labels, **options):
    """Returns the result and the messages of its warnings."""
    options = {"epsilon": 0.01, "attacks": ("apgd-ce",), **options}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = autoattack(logits_fn, images, labels, jax.random.key(0), **options)
    assert all(issubclass(warning.category, RobustnessWarning) for warning in caught)
    return result, [str(warning.message) for warning in caught]


@pytest.fixture(scope="module")
def problem():
    logits_fn, weights, images, labels = linear.problem(count=16)
    return logits_fn, images, labels, linear.median_radius(weights, images, labels, "linf")


def test_a_sound_model_gets_no_warning(problem):
    logits_fn, images, labels, _ = problem
    assert attack(logits_fn, images, labels)[1] == []


def test_noise_drawn_while_tracing_gives_a_warning(problem):
    logits_fn, images, labels, _ = problem
    noise = np.random.default_rng(0)

    def noisy(x):
        return logits_fn(x) + noise.normal(size=linear.CLASSES).astype(np.float32)[None]

    assert "logits_fn is random" in attack(noisy, images, labels)[1][0]


def test_noise_drawn_while_running_gives_a_warning(problem):
    logits_fn, images, _, _ = problem
    noise = np.random.default_rng(0)

    def draw():
        return noise.normal(size=(1, linear.CLASSES)).astype(np.float32)

    def noisy(x):
        shape = jax.ShapeDtypeStruct((1, linear.CLASSES), jnp.float32)
        return logits_fn(x) + jax.lax.stop_gradient(jax.pure_callback(draw, shape))

    with pytest.warns(RobustnessWarning, match="logits_fn is random"):
        checks.warn_if_random(noisy, images)


def test_probabilities_give_a_warning(problem):
    logits_fn, images, labels, _ = problem
    messages = attack(lambda x: jax.nn.softmax(logits_fn(x)), images, labels)[1]
    assert ["looks like probabilities" in message for message in messages] == [True]


def test_a_saturated_head_gives_a_warning_and_does_not_fool_the_verdict(problem):
    logits_fn, images, labels, epsilon = problem
    options = {"epsilon": epsilon, "attacks": ("apgd-ce", "apgd-t")}
    plain, _ = attack(logits_fn, images, labels, **options)
    saturated, messages = attack(lambda x: 1000 * logits_fn(x), images, labels, **options)
    assert len(messages) == 1
    assert "apgd-ce: the gradient is zero for" in messages[0]
    np.testing.assert_array_equal(saturated.robust, plain.robust)
    assert plain.robust.mean() == pytest.approx(0.5)


def quantised(problem):
    """Returns a model without gradients, and the labels it gives."""
    logits_fn, images, _, epsilon = problem
    steps = 2 * epsilon

    def rounded(x):
        return logits_fn(jnp.round(x / steps) * steps)

    return rounded, np.asarray(jnp.argmax(rounded(images), axis=-1)).astype(np.int32)


def test_gradients_masked_from_all_but_square_give_a_warning(problem):
    logits_fn, labels = quantised(problem)
    _, images, _, epsilon = problem
    options = {"epsilon": 2 * epsilon, "attacks": ("apgd-ce", "square")}
    result, messages = attack(logits_fn, images, labels, **options)
    assert result.by_attack["square"].any()
    assert any("apgd-ce: the gradient is zero for 16 of 16" in message for message in messages)
    assert any("square lowered robust accuracy by" in message for message in messages)


@pytest.mark.slow
def test_square_in_a_sample_judges_a_model_without_gradients(problem):
    logits_fn, labels = quantised(problem)
    _, images, _, epsilon = problem
    options = {"epsilon": 1.1 * epsilon, "attacks": ("apgd-ce", "square"), "batch_size": 4}
    exact, _ = attack(logits_fn, images, labels, **options)
    result, messages = attack(logits_fn, images, labels, tolerance=0.7, **options)
    sample = result.sample
    drawn = sample.order[: sample.drawn]
    assert 0 < sample.broken < sample.drawn < len(sample.order) == 16
    np.testing.assert_array_equal(result.robust[drawn], exact.robust[drawn])
    low, high = result.interval
    assert low <= exact.robust.mean() <= high < 1
    assert any("apgd-ce: the gradient is zero for 16 of 16" in message for message in messages)
    assert any("square would lower robust accuracy by at least" in one for one in messages)


def test_three_classes_get_the_untargeted_loss(problem):
    logits_fn, weights, images, labels = linear.problem(count=16, classes=3)
    epsilon = linear.median_radius(weights, images, labels, "linf")
    options = {"epsilon": epsilon, "attacks": ("apgd-t", "fab-t")}
    result, messages = attack(logits_fn, images, labels, **options)
    assert list(result.by_attack) == ["apgd-dlr", "fab-t"]
    assert len(messages) == 1
    assert "apgd-t needs at least 4 classes and the model has 3" in messages[0]
    expected = linear.distances(weights, images, labels, "linf") > epsilon
    np.testing.assert_array_equal(result.robust, expected)


def test_two_classes_omit_it():
    logits_fn, _, images, labels = linear.problem(count=8, classes=2)
    result, messages = attack(logits_fn, images, labels, attacks=("apgd-ce", "apgd-t"))
    assert list(result.by_attack) == ["apgd-ce"]
    assert "it is left out" in messages[0]
    with pytest.warns(RobustnessWarning), pytest.raises(UserError, match="with 2 classes; add"):
        autoattack(logits_fn, images, labels, jax.random.key(0), epsilon=0.1, attacks=("apgd-t",))


def test_nan_logits_count_as_broken(problem):
    logits_fn, images, labels, _ = problem
    images = images.copy()
    images[3, 0, 0, 0] = 0.9  # NaN at once.
    images[4, 0, 0, 0] = 0.795  # NaN within the ball, if the attack looks there.

    def partial(x):
        return jnp.where(x[:, 0, 0] > 0.8, jnp.nan, logits_fn(x))

    result, messages = attack(partial, images, labels, attacks=("apgd-ce", "square"))
    assert not result.clean[3]
    assert result.is_nan[[3, 4]].all()
    assert result.is_nan.sum() == 2
    assert not result.robust[[3, 4]].any()
    assert any("logits are NaN for 2 of 16 images" in message for message in messages)


def test_logits_that_are_nan_everywhere_give_a_warning(problem):
    _, images, labels, _ = problem
    result, messages = attack(lambda x: jnp.full((len(x), 6), jnp.nan), images, labels)
    assert not result.robust.any()
    assert not result.clean.any()
    assert "logits are NaN for 16 of 16 images" in messages[-1]


def test_pgd_far_above_autoattack_gives_a_warning():
    robust = np.arange(100) < 30
    with pytest.warns(RobustnessWarning, match=r"11\.0 points above AutoAttack's"):
        checks.warn_if_pgd_misleads(np.arange(100) < 41, robust)
    checks.warn_if_pgd_misleads(np.arange(100) < 40, robust)


def test_square_may_break_a_fifth_of_a_point_without_a_warning():
    checks.warn_if_square_wins(2, 1000)
    with pytest.warns(RobustnessWarning, match=r"square lowered robust accuracy by 0\.30 points"):
        checks.warn_if_square_wins(3, 1000)
