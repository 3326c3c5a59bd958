"""Lengths of perturbations, and which of them are legal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.attacks import geometry


def test_the_largest_change_is_exact_for_all_values():
    offsets = np.random.default_rng(0).normal(size=(6, 3, 3, 1)).astype(np.float32)
    offsets[1] = -0.0
    offsets[2, 0, 0] = -np.inf
    offsets[3, 0, 0] = np.nan
    offsets[4] *= np.float32(1e-40)
    found = jax.jit(lambda values: geometry.length(values, "linf"))(jnp.asarray(offsets))
    np.testing.assert_array_equal(found, np.abs(offsets).max(axis=(1, 2, 3)))
    half = jnp.asarray(offsets[:1], jnp.bfloat16)
    np.testing.assert_array_equal(geometry.length(half, "linf"), np.abs(half).max(axis=(1, 2, 3)))


@pytest.mark.parametrize(
    ("norm", "inside", "outside"),
    [
        # The number of changed pixels, of 16, and the change of each.
        ("linf", (16, 0.1), (1, 0.10001)),
        ("l2", (4, 0.05), (4, 0.050005)),
        ("l2", (1, 0.1), (16, 0.0250025)),
        ("l1", (16, 0.1 / 16), (16, 0.10001 / 16)),
        ("l1", (1, 0.1), (2, 0.050005)),
    ],
)
def test_what_is_just_beyond_epsilon_is_outside(norm, inside, outside):
    images = np.full((4, 4, 4, 1), 0.5, np.float32)
    adversarial = images.reshape(4, 16).copy()
    for row, (count, change) in enumerate((inside, outside, inside, outside)):
        adversarial[row, :count] += np.float32(change * (-1) ** row)
    adversarial = adversarial.reshape(images.shape)
    found = geometry.within(adversarial, images, 0.1, norm)
    np.testing.assert_array_equal(found, [True, False, True, False])
    # Every image by its own radius.
    radii = np.array([0.099, 0.101, 0.101, 0.099])
    found = geometry.within(adversarial, images, radii, norm)
    np.testing.assert_array_equal(found, [False, True, True, False])


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_what_is_below_0_or_above_1_is_outside(norm):
    values = np.array([0.0, -1e-3, 1.0, 1.001, np.nan], np.float32)
    images = np.full((5, 2, 2, 3), 0.5, np.float32)
    images[:, 1, 0, 2] = [0, 0, 1, 1, 1]
    adversarial = images.copy()
    adversarial[:, 1, 0, 2] = values
    found = geometry.within(adversarial, images, 0.1, norm)
    np.testing.assert_array_equal(found, [True, False, True, False, False])
