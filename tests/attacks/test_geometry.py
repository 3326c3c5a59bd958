"""Lengths of perturbations."""

import jax
import jax.numpy as jnp
import numpy as np

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
