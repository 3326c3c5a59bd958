"""PGD keeps its constraint in every case, and finds what brute force finds."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from bat_jax import attacks
from bat_jax.attacks import PgdSettings, RobustnessWarning, pgd_trajectory
from bat_jax.errors import UserError

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def problem():
    """A network of two layers with random weights, images, and the labels it gives them."""
    first = jax.random.normal(jax.random.key(1), (64, 16)) / 4
    second = jax.random.normal(jax.random.key(2), (16, 4))

    def logits_fn(images):
        return jnp.tanh((images - 0.5).reshape(len(images), -1) @ first) @ second

    images = jax.random.uniform(jax.random.key(0), (16, *SHAPE))
    return logits_fn, images, jnp.argmax(logits_fn(images), axis=-1)


def linear(weights):
    """Returns the logits (w.x, 0) of two classes."""

    def logits_fn(images):
        score = images.reshape(len(images), -1) @ weights
        return jnp.stack([score, jnp.zeros_like(score)], axis=-1)

    return logits_fn


def pgd(*arguments, **options):
    """Attacks in a loop, which compiles faster than one step after another."""
    return attacks.pgd(*arguments, **{"unroll": False, **options})


def distance(a, b, norm):
    offset = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    flat = offset.reshape(len(offset), -1)
    return np.abs(flat).max(1) if norm == "linf" else np.linalg.norm(flat, axis=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    ("loss", "epsilon", "step_size", "restarts"),
    [("cross_entropy", 8 / 255, 3.0, 1), ("kl", 1.0, 0.1, 1), ("margin", 0.3, 0.1, 2)],
)
def test_images_stay_in_the_ball_and_the_box(problem, norm, loss, epsilon, step_size, restarts):
    logits_fn, images, labels = problem
    adversarial = pgd(
        logits_fn,
        images,
        labels,
        jax.random.key(0),
        epsilon=epsilon,
        step_size=step_size,
        num_steps=3,
        norm=norm,
        loss=loss,
        restarts=restarts,
    )
    assert np.all(distance(adversarial, images, norm) <= epsilon + 1e-6)
    assert adversarial.min() >= 0.0
    assert adversarial.max() <= 1.0
    assert np.all(distance(adversarial, images, norm) > 0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_epsilon_zero_returns_the_image_itself(problem, norm):
    logits_fn, images, labels = problem
    adversarial = pgd(
        logits_fn,
        images,
        labels,
        jax.random.key(0),
        epsilon=0.0,
        step_size=0.1,
        num_steps=3,
        norm=norm,
    )
    np.testing.assert_array_equal(adversarial, images)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_a_linear_model_is_attacked_to_its_analytic_optimum(norm, loss):
    weights = jax.random.normal(jax.random.key(2), (64,))
    images = jnp.full((3, *SHAPE), 0.5)
    labels = jnp.zeros(3, jnp.int32)
    epsilon = 0.2
    adversarial = pgd(
        linear(weights),
        images,
        labels,
        jax.random.key(0),
        epsilon=epsilon,
        step_size=0.1,
        num_steps=20,
        norm=norm,
        loss=loss,
    )
    direction = jnp.sign(weights) if norm == "linf" else weights / jnp.linalg.norm(weights)
    expected = images - epsilon * direction.reshape(1, *SHAPE)
    np.testing.assert_allclose(adversarial, expected, atol=2e-3)


def test_kl_moves_away_from_the_reference_whatever_the_label(problem):
    logits_fn, images, labels = problem
    attack = {"epsilon": 0.3, "step_size": 0.03, "num_steps": 5, "loss": "kl"}
    key = jax.random.key(0)
    adversarial = pgd(logits_fn, images, labels, key, **attack, random_start=False)
    other = pgd(logits_fn, images, (labels + 1) % 4, key, **attack, random_start=False)
    # The clean image is a stationary point of the divergence: TRADES starts beside it.
    np.testing.assert_array_equal(adversarial, other)
    start, end = (
        pgd(logits_fn, images, labels, key, **{**attack, "num_steps": steps}, gaussian_start=0.1)
        for steps in (0, 5)
    )
    p = np.asarray(jax.nn.softmax(logits_fn(images)))
    before, after = (
        np.sum(p * (np.log(p) - jax.nn.log_softmax(logits_fn(x))), axis=-1) for x in (start, end)
    )
    assert np.all(before > 0)
    assert np.all(after > 2 * before)


def offsets_of_starts(**options):
    """Returns the offsets of 2,000 starts, far from the faces of the box, in three pixels."""
    starts = attacks.pgd(
        lambda x: x[:, 0, :2, 0],
        jnp.full((2000, 1, 3, 1), 0.5),
        jnp.zeros(2000, jnp.int32),
        jax.random.key(0),
        epsilon=0.4,
        step_size=0.1,
        num_steps=0,
        **options,
    )
    return np.asarray(starts, np.float64).reshape(2000, 3) - 0.5


def assert_independent(columns, *distributions):
    """Tests every column against a distribution, and that no two are correlated."""
    for column, distribution in zip(columns.T, distributions, strict=True):
        assert stats.kstest(column, distribution.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(columns.T) - np.eye(len(distributions))).max() < 0.1


def test_random_starts_are_uniform_in_the_cube():
    assert_independent(offsets_of_starts(norm="linf") / 0.4, *[stats.uniform(-1, 2)] * 3)


def test_random_starts_are_uniform_in_the_l2_ball():
    offsets = offsets_of_starts(norm="l2")
    length = np.linalg.norm(offsets, axis=1, keepdims=True)
    # On a sphere in three dimensions, every coordinate is uniform (Archimedes).
    columns = np.concatenate([offsets / length, (length / 0.4) ** 3], axis=1)
    assert_independent(columns, *[stats.uniform(-1, 2)] * 3, stats.uniform)


def test_gaussian_starts_have_the_given_deviation():
    assert_independent(offsets_of_starts(gaussian_start=0.05), *[stats.norm(0, 0.05)] * 3)


def test_draws_belong_to_the_image_not_to_its_batch(problem):
    logits_fn, images, labels = problem
    keys = jax.random.split(jax.random.key(3), len(images))
    attack = {"epsilon": 0.3, "step_size": 0.1, "num_steps": 3}
    whole = pgd(logits_fn, images, labels, keys, **attack)
    part = pgd(logits_fn, images[5:9], labels[5:9], keys[5:9], **attack)
    np.testing.assert_allclose(whole[5:9], part, atol=1e-6)


def test_a_restart_never_makes_an_image_harder_to_break(problem):
    logits_fn, images, labels = problem
    broken = []
    for restarts in (1, 5):
        adversarial = pgd(
            logits_fn,
            images,
            labels,
            jax.random.key(0),
            epsilon=0.15,
            step_size=0.1,
            num_steps=1,
            restarts=restarts,
        )
        broken.append(np.asarray(jnp.argmax(logits_fn(adversarial), -1) != labels))
    assert np.all(broken[1] >= broken[0])
    assert broken[1].sum() >= broken[0].sum()


def test_a_misclassified_restart_is_kept_before_one_of_larger_loss():
    # Three classes: near x = 1, class 1 wins narrowly (low cross-entropy); near x = 0, class 0
    # still wins while its probability is lower.
    def logits_fn(images):
        x = images[:, 0, 0, 0]
        low, high = jnp.asarray([0.1, 0.0, 0.0]), jnp.asarray([2.0, 2.1, -9.0])
        return jnp.where(x[:, None] > 0.5, high[None, :], low[None, :]) + 0.0 * x[:, None]

    images = jnp.full((64, 1, 1, 1), 0.5)
    labels = jnp.zeros(64, jnp.int32)
    first, found = (
        pgd_trajectory(
            logits_fn,
            images,
            labels,
            jax.random.key(0),
            PgdSettings(epsilon=0.5, step_size=0.0, num_steps=3, restarts=restarts, unroll=False),
        )
        for restarts in (1, 12)
    )
    # Of the three steps two are counted: of the first restart alone, and of the one that is kept.
    is_broken = np.asarray(first.images)[:, 0, 0, 0] > 0.5
    assert 0 < np.mean(is_broken) < 1
    np.testing.assert_array_equal(first.robust_steps, np.where(is_broken, 0, 2))
    assert np.all(np.asarray(found.images) > 0.5)
    np.testing.assert_array_equal(found.robust_steps, 0)


def starts_at_any_point(restarts, key, **changed):
    """Attacks images of one pixel that class 0 always wins, the less the larger the pixel."""

    def logits_fn(images):
        x = images[:, 0, 0, 0]
        return jnp.stack([2 - x, jnp.zeros_like(x)], axis=-1)

    fixed = {"epsilon": 0.5, "step_size": 0.0, "num_steps": 0, "unroll": False}
    settings = PgdSettings(**{**fixed, "restarts": restarts, **changed})
    images, labels = jnp.full((64, 1, 1, 1), 0.5), jnp.zeros(64, jnp.int32)
    return pgd_trajectory(logits_fn, images, labels, key, settings)


@pytest.fixture(scope="module")
def three_starts():
    """Returns keys, and the starts with them and with those of two restarts."""
    keys = jax.random.split(jax.random.key(0), 64)
    folded = [jax.vmap(lambda key, n=n: jax.random.fold_in(key, n))(keys) for n in (1, 2)]
    starts = [starts_at_any_point(1, some).images for some in (keys, *folded)]
    return keys, np.asarray(starts)


def test_of_restarts_that_break_nothing_that_of_the_largest_loss_is_kept(three_starts):
    keys, starts = three_starts
    np.testing.assert_array_equal(starts_at_any_point(3, keys).images, starts.max(axis=0))


def test_a_loss_that_is_nan_counts_as_the_largest(three_starts):
    keys, starts = three_starts

    def loss(logits, labels):
        return jnp.where(logits[:, 0] > 1.7, jnp.nan, -logits[:, 0])

    # It is NaN where x < 0.3; the first of several such starts is kept.
    is_nan = starts < 0.3
    expected = np.where(
        is_nan.any(axis=0),
        np.take_along_axis(starts, is_nan.argmax(axis=0)[None], axis=0)[0],
        starts.max(axis=0),
    )
    np.testing.assert_array_equal(starts_at_any_point(3, keys, loss=loss).images, expected)


def test_a_gradient_lost_in_any_restart_is_reported(three_starts):
    keys, starts = three_starts

    def loss(logits, labels):
        # The root of x - 0.3, whose gradient is NaN where it is cut off.
        return jnp.sqrt(jnp.maximum(1.7 - logits[:, 0], 0.0))

    with pytest.warns(RobustnessWarning, match="not finite"):
        found = starts_at_any_point(3, keys, loss=loss, num_steps=1)
    is_lost = (starts < 0.3).any(axis=(0, 2, 3, 4))
    assert 0 < is_lost.sum() < 64
    np.testing.assert_array_equal(found.lost_gradient, is_lost)


def test_unrolled_and_looped_steps_give_the_same_images(problem):
    logits_fn, images, labels = problem
    attack = {"epsilon": 0.3, "step_size": 0.1, "num_steps": 4}
    results = [
        pgd(logits_fn, images, labels, jax.random.key(0), **attack, unroll=unroll)
        for unroll in (True, False)
    ]
    np.testing.assert_allclose(*results, atol=1e-6)


def test_robust_steps_count_the_steps_withstood():
    # Class 0 wins while x > 0.5; each step lowers x by 0.1 from 0.85: 0.75, 0.65, 0.55, 0.45.
    def logits_fn(images):
        x = images[:, 0, 0, 0] - 0.5
        return jnp.stack([x, -x], axis=-1)

    trajectory = pgd_trajectory(
        logits_fn,
        jnp.full((1, 1, 1, 1), 0.85),
        jnp.zeros(1, jnp.int32),
        jax.random.key(0),
        PgdSettings(epsilon=1.0, step_size=0.1, num_steps=6, random_start=False),
    )
    assert trajectory.robust_steps[0] == 3


def test_l2_steps_keep_their_direction_where_gradients_are_tiny():
    weights = 1e-25 * jax.random.normal(jax.random.key(2), (64,))
    images = jnp.full((1, *SHAPE), 0.5)
    adversarial = pgd(
        linear(weights),
        images,
        jnp.zeros(1, jnp.int32),
        jax.random.key(0),
        epsilon=0.2,
        step_size=0.1,
        num_steps=5,
        norm="l2",
        loss="margin",
        random_start=False,
    )
    np.testing.assert_allclose(distance(adversarial, images, "l2"), 0.2, rtol=1e-5)


def test_a_loss_may_be_any_function(problem):
    logits_fn, images, labels = problem
    attack = {"epsilon": 0.1, "step_size": 0.03, "num_steps": 3, "restarts": 2}

    def margin(logits, labels):
        is_label = labels[:, None] == jnp.arange(logits.shape[-1])[None]
        strongest = jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1)
        return strongest - jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1)

    key = jax.random.key(0)
    by_name = pgd(logits_fn, images, labels, key, **attack, loss="margin")
    np.testing.assert_allclose(
        pgd(logits_fn, images, labels, key, **attack, loss=margin), by_name, atol=1e-6
    )
    with pytest.raises(UserError, match=r"loss: returned shape \(\).*one value an image"):
        pgd(logits_fn, images, labels, key, **attack, loss=lambda *_: jnp.zeros(()))


@pytest.mark.parametrize("loss", ["cross_entropy", optax.softmax_cross_entropy])
def test_targets_replace_labels_only_in_the_loss(problem, loss):
    logits_fn, images, labels = problem
    settings = PgdSettings(epsilon=0.1, step_size=0.03, num_steps=2, loss=loss)
    other = (labels + 1) % 4

    def attack(labels, settings, **targets):
        key = jax.random.key(0)
        return pgd_trajectory(logits_fn, images, labels, key, settings, **targets)

    one_hot = jax.nn.one_hot(other, 4)
    from_targets = attack(labels, settings, targets=one_hot)
    from_labels = attack(other, dataclasses.replace(settings, loss="cross_entropy"))
    np.testing.assert_allclose(from_targets.images, from_labels.images, atol=1e-6)
    # Of two steps the first is counted, by the labels.
    first = attack(labels, dataclasses.replace(settings, num_steps=1), targets=one_hot)
    is_correct = jnp.argmax(logits_fn(first.images), axis=-1) == labels
    np.testing.assert_array_equal(from_targets.robust_steps, is_correct)
    assert np.any(from_targets.robust_steps != from_labels.robust_steps)


def test_mixed_targets_mix_the_gradients():
    def logits_fn(images):
        return images[:, 0, 0, :]

    images = jnp.full((1, 1, 1, 3), 0.5)
    targets = jnp.asarray([[0.5, 0.5, 0.0]])
    attack = {"epsilon": 0.2, "step_size": 0.2, "num_steps": 1, "random_start": False}
    label = jnp.zeros(1, jnp.int32)
    key = jax.random.key(0)
    # Gradient of the soft cross-entropy: p - t = (1/3 - 1/2, 1/3 - 1/2, 1/3).
    mixed = pgd(logits_fn, images, label, key, **attack, targets=targets)
    np.testing.assert_allclose(mixed[0, 0, 0], [0.3, 0.3, 0.7], atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilon": -0.1}, "epsilon: -0.1"),
        ({"epsilon": math.nan}, "epsilon: nan"),
        ({"epsilon": math.inf}, "epsilon: inf"),
        ({"step_size": math.nan}, "step_size: nan"),
        ({"gaussian_start": -1.0}, "gaussian_start: -1.0"),
        ({"num_steps": -1}, "num_steps: -1"),
        ({"restarts": 0}, "restarts: 0"),
    ],
)
def test_wrong_settings_are_refused_by_name(wrong, message):
    with pytest.raises(UserError, match=message):
        PgdSettings(**{"epsilon": 0.1, "step_size": 0.1, "num_steps": 1, **wrong})


def rooted(images):
    """Returns logits whose gradient is not finite where the image is 0."""
    size = jnp.sqrt(jnp.sum(images**2, axis=(1, 2, 3)))
    return jnp.stack([size + 1, jnp.zeros_like(size)], axis=-1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_gradient_that_is_not_finite_moves_nothing_and_gives_a_warning(norm):
    images = jnp.stack([jnp.full(SHAPE, value) for value in (0.0, 0.5, 0.0)])
    labels = jnp.zeros(3, jnp.int32)
    attack = {"epsilon": 0.1, "step_size": 0.1, "num_steps": 2, "norm": norm, "random_start": False}
    key = jax.random.key(0)
    with pytest.warns(RobustnessWarning, match="not finite for 2 of 3 images"):
        adversarial = pgd(rooted, images, labels, key, **attack)
    np.testing.assert_array_equal(adversarial[::2], images[::2])
    np.testing.assert_allclose(distance(adversarial, images, norm)[1], 0.1, rtol=1e-5)
    # Compiled, nothing is known yet that could be warned of; the images are the same.
    compiled = jax.jit(lambda x: pgd_trajectory(rooted, x, labels, key, PgdSettings(**attack)))
    trajectory = compiled(images)
    np.testing.assert_allclose(trajectory.images, adversarial, atol=1e-6)
    np.testing.assert_array_equal(trajectory.lost_gradient, [True, False, True])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": lambda x: 2 * x - 1}, r"values from -.* are not all in \[0, 1\]; normalise"),
        ({"images": lambda x: 255 * x}, "not all in"),
        ({"images": lambda x: x + jnp.nan}, "image 0 holds NaN"),
        ({"images": lambda x: (255 * x).astype(jnp.uint8)}, "images: uint8; expected floating"),
        ({"images": lambda x: x[0]}, "images: shape"),
        ({"images": lambda x: x.transpose(0, 3, 1, 2)}, "1 or 3 channels"),
        ({"labels": lambda y: y + 4}, "has label .; expected 0 to 3"),
        ({"labels": lambda y: y - 9}, "expected 0 to 3"),
        ({"labels": lambda y: y[:3]}, "one integer per image"),
        ({"labels": lambda y: y.astype(jnp.float32)}, "labels: float32"),
        ({"key": lambda key: jnp.zeros(3)}, "key is float32 of shape"),
        ({"key": lambda key: jax.random.split(key, 3)}, "3.* for 16 images"),
    ],
)
def test_wrong_arrays_are_refused_in_one_line(problem, wrong, message):
    logits_fn, images, labels = problem
    arrays = {"images": images, "labels": labels, "key": jax.random.key(0)}
    arrays |= {name: change(arrays[name]) for name, change in wrong.items()}
    with pytest.raises(UserError, match=message) as error:
        pgd(logits_fn, **arrays, epsilon=0.1, step_size=0.1, num_steps=1)
    assert "\n" not in str(error.value)


def test_a_ball_wider_than_the_box_gives_a_warning():
    with pytest.warns(RobustnessWarning, match="epsilon: 8 exceeds .* such as 8 / 255"):
        PgdSettings(epsilon=8.0, step_size=2.0, num_steps=1)
    PgdSettings(epsilon=8.0, step_size=2.0, num_steps=1, norm="l2")
