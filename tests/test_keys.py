"""Typed and raw keys give the same draws; anything else is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import attacks, keys
from bat_jax.errors import UserError
from tests.attacks import linear


def same(key, other):
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(other))


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), np.int32(3), jax.random.key(3)])
def test_seeds_of_any_kind_derive_the_same_keys(seed):
    expected = keys.derive(3, keys.Purpose.ATTACK, 2)
    same(keys.derive(seed, keys.Purpose.ATTACK, 2), expected)
    same(keys.derive(seed, keys.Purpose.ATTACK, np.int64(2)), expected)


def test_raw_keys_draw_like_the_typed_keys_they_hold():
    key, raw = jax.random.key(3), jax.random.PRNGKey(3)
    places = jnp.arange(4)
    expected = keys.per_image(key, places)
    same(keys.per_image(raw, places), expected)
    same(keys.per_image(np.asarray(raw), places), expected)
    same(keys.per_image(jax.random.key_data(expected), places), expected)
    same(jax.jit(keys.per_image)(raw, places), expected)


@pytest.mark.parametrize("wrong", [3, None, "key", 0.5, np.zeros(2), jnp.zeros(3, jnp.uint32)])
def test_a_value_that_is_not_a_key_is_refused_in_one_line(wrong):
    with pytest.raises(
        UserError, match=r"^key is .*expected a key, such as jax\.random\.key\(0\)$"
    ):
        keys.typed(wrong)


@pytest.mark.parametrize(
    ("attack", "options"),
    [
        (attacks.pgd, {"step_size": 0.1, "num_steps": 1}),
        (attacks.apgd, {"num_iterations": 1}),
        (attacks.apgd_targeted, {"num_iterations": 1, "num_targets": 1}),
        (attacks.fab_targeted, {"num_iterations": 1, "num_targets": 1}),
        (attacks.square, {"num_queries": 1}),
    ],
)
def test_every_attack_takes_raw_keys(attack, options):
    logits_fn, _, images, labels = linear.problem(count=4)
    typed, raw = (
        attack(logits_fn, images, labels, key, epsilon=0.1, **options)
        for key in (jax.random.key(1), jax.random.PRNGKey(1))
    )
    np.testing.assert_array_equal(typed, raw)
    with pytest.raises(UserError, match=r"key is int32 of shape \(\)"):
        attack(logits_fn, images, labels, jnp.int32(1), epsilon=0.1, **options)
