"""One-step attacks of fast training against NumPy in float64, and as the trainer draws them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import losses
from bat_jax.attacks import PgdSettings, geometry, pgd_trajectory

EPSILON = 8 / 255
SHAPE = (5, 4, 4, 1)


@pytest.fixture(scope="module")
def problem():
    """Weights of a linear classifier of three classes, images up to the box, and labels."""
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(16, 3))
    images = np.clip(generator.uniform(-0.2, 1.2, SHAPE), 0, 1)
    return weights, images, np.arange(5) % 3


def logits_fn_of(weights, scale=1.0):
    return lambda x: x.reshape(len(x), -1) @ (scale * jnp.float32(weights))


def input_gradient(weights, images, labels):
    """Returns the gradient of the cross-entropy of a linear classifier in its images."""
    logits = images.reshape(len(images), -1) @ weights
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return ((probabilities - np.eye(3)[labels]) @ weights.T).reshape(images.shape)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_pgd_with_one_step_gives_the_published_image(problem, clip, scale):
    weights, images, labels = problem
    image_keys = jax.random.split(jax.random.key(0), 5)
    factor, k = scale or 1.0, 1.0 if clip else 2.0
    settings = PgdSettings(
        epsilon=EPSILON,
        step_size=EPSILON if not clip else 1.25 * EPSILON,
        num_steps=1,
        start_radius=k,
        project=clip,
        unroll=False,
    )
    drawn = np.float64(geometry.uniform(image_keys, jnp.float32(images), factor * k * EPSILON))
    # FGSM-RS and N-FGSM as docs/method.md has them. A warm-up leaves the step as it is where
    # epsilon bounds it.
    epsilon, step_size = factor * EPSILON, settings.step_size * (1.0 if clip else factor)
    start = np.clip(images + drawn, 0, 1) - images
    moved = start + step_size * np.sign(input_gradient(weights, images + start, labels))
    if clip:
        moved = np.clip(moved, -epsilon, epsilon)
    expected = np.clip(images + moved, 0, 1)
    found = pgd_trajectory(
        logits_fn_of(weights),
        jnp.float32(images),
        jnp.asarray(labels),
        image_keys,
        settings,
        scale=None if scale is None else jnp.float32(scale),
    ).images
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (np.abs(found - images).max() > epsilon + 1e-3) != clip


def test_the_alignment_is_the_cosine_of_both_gradients_and_leaves_out_zeros(problem):
    weights, images, labels = problem
    drawn = np.random.default_rng(2).uniform(-0.3, 0.3, SHAPE)
    first = input_gradient(weights, images, labels).reshape(5, -1)
    second = input_gradient(weights, images + drawn, labels).reshape(5, -1)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    expected = (first * second).sum(1) / lengths
    arrays = jnp.float32(images), jnp.asarray(labels), jnp.float32(drawn)
    found, is_defined = losses.gradient_alignment(logits_fn_of(weights), *arrays)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert is_defined.all()

    def total(scale):
        return jnp.sum(losses.gradient_alignment(logits_fn_of(weights, scale), *arrays)[0])

    assert np.isfinite(jax.grad(total)(0.0))
    found, is_defined = losses.gradient_alignment(logits_fn_of(0 * weights), *arrays)
    np.testing.assert_array_equal(found, np.zeros(5))
    assert not is_defined.any()


def test_the_alignment_is_differentiated_through_the_noisy_gradient_alone(problem):
    weights, images, labels = problem
    drawn = jnp.float32(np.random.default_rng(2).uniform(-0.3, 0.3, SHAPE))
    arrays = jnp.float32(images), jnp.asarray(labels), drawn

    def cosine(of_first, of_second):
        """Returns the summed cosine of gradients at two sets of weights."""
        rows = []
        for scale, moved in ((of_first, 0.0), (of_second, drawn)):
            logits = (arrays[0] + moved).reshape(5, -1) @ (scale * jnp.float32(weights))
            gap = jax.nn.softmax(logits) - jax.nn.one_hot(arrays[1], 3)
            rows.append(gap @ (scale * jnp.float32(weights)).T)
        lengths = jnp.linalg.norm(rows[0], axis=1) * jnp.linalg.norm(rows[1], axis=1)
        return jnp.sum(jnp.sum(rows[0] * rows[1], axis=1) / lengths)

    def total(scale):
        return jnp.sum(losses.gradient_alignment(logits_fn_of(weights, scale), *arrays)[0])

    expected = jax.grad(cosine, argnums=1)(1.0, 1.0)
    np.testing.assert_allclose(jax.grad(total)(1.0), expected, rtol=1e-3)
