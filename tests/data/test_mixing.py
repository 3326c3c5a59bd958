"""CutMix against NumPy, pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.data import cutmix, mixing


@pytest.mark.parametrize(
    ("center", "size"), [((4, 3), 4), ((0, 7), 5), ((2, 2), 0), ((5, 1), 8), ((7, 7), 3)]
)
def test_boxes_and_targets_are_those_of_numpy(center, size):
    generator = np.random.default_rng(0)
    images, targets = generator.uniform(size=(4, 8, 8, 3)), np.eye(4)
    permutation = np.array([2, 0, 1, 3])
    expected, row, column = images.copy(), *center
    top, bottom = np.clip([row - size // 2, row + size // 2], 0, 8)
    left, right = np.clip([column - size // 2, column + size // 2], 0, 8)
    expected[:, top:bottom, left:right] = images[permutation][:, top:bottom, left:right]
    kept = 1 - (bottom - top) * (right - left) / 64
    found, found_targets = cutmix(
        jnp.float32(images),
        jnp.float32(targets),
        center=jnp.asarray(center),
        size=jnp.asarray(size),
        permutation=jnp.asarray(permutation),
    )
    np.testing.assert_array_equal(found, np.float32(expected))
    np.testing.assert_allclose(
        found_targets, kept * targets + (1 - kept) * targets[permutation], rtol=1e-6
    )


def test_draws_cover_every_center_and_sizes_of_the_uniform_share():
    draws = jax.vmap(lambda key: mixing.draw(key, 4, 8, 8))(
        jax.random.split(jax.random.key(0), 999)
    )
    assert set(np.unique(draws.center)) == set(range(8))
    # P(int(8 sqrt(u)) < 4) = P(u < 1/4).
    assert abs(np.mean(np.asarray(draws.size) < 4) - 0.25) < 0.05
    assert np.asarray(draws.size).max() <= 8
    assert all(sorted(permutation) == [0, 1, 2, 3] for permutation in draws.permutation.tolist())
