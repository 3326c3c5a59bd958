"""A radius per image gives every image the attack of its own radius."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import attacks
from bat_jax.attacks import checks, geometry
from bat_jax.errors import UserError
from tests.attacks import linear

KEY = jax.random.key(0)
RADII = {"linf": (0.0625, 0.03125), "l2": (0.5, 0.125), "l1": (3.0, 1.0)}


@functools.cache
def problem():
    """Returns a small network, images anywhere in the box, and the labels it gives them."""
    rng = np.random.default_rng(0)
    inner, outer = rng.normal(size=(64, 8)) / 4, rng.normal(size=(8, 5))
    inner, outer = (jnp.asarray(weights, jnp.float32) for weights in (inner, outer))

    def logits_fn(x):
        return jnp.tanh((x - 0.5).reshape(len(x), -1) @ inner) @ outer

    images = rng.uniform(size=(6, *linear.SHAPE)).astype(np.float32)
    return logits_fn, images, np.asarray(logits_fn(images)).argmax(axis=1).astype(np.int32)


def autoattack(logits_fn, images, labels, key, **options):
    names = ("apgd-ce", "fab")
    options |= {"version": "plus", "attacks": names, "restarts": {"apgd-ce": 1, "fab": 2}}
    return attacks.autoattack(logits_fn, images, labels, key, **options).adversarial


ATTACKS = {
    "apgd": functools.partial(attacks.apgd, num_iterations=12),
    "apgd_targeted": functools.partial(attacks.apgd_targeted, num_iterations=12, num_targets=2),
    "fab_targeted": functools.partial(attacks.fab_targeted, num_iterations=8, num_targets=2),
    "square": functools.partial(attacks.square, num_queries=60),
    "autoattack": autoattack,
    "pgd": functools.partial(attacks.pgd, step_size=0.02, num_steps=4, unroll=False),
}
SLOW = [
    pytest.param(name, norm, marks=pytest.mark.slow)
    for name in ATTACKS
    for norm in RADII
    if (name, norm) not in {("pgd", "linf"), ("pgd", "l1")}
]


@pytest.mark.parametrize(("name", "norm"), [("pgd", "linf"), *SLOW])
def test_every_image_has_the_attack_of_its_own_radius(name, norm):
    logits_fn, images, labels = problem()
    attack = functools.partial(ATTACKS[name], logits_fn, images, labels, KEY, norm=norm)
    large, small = RADII[norm]
    is_large = np.arange(6) % 2 == 0
    radii = np.where(is_large, large, small)
    found = np.asarray(attack(epsilon=radii))
    for radius in RADII[norm]:
        rows = radii == radius
        expected = np.asarray(attack(epsilon=radius))[rows]
        np.testing.assert_allclose(found[rows], expected, rtol=0, atol=1e-5)
    assert geometry.within(found, images, radii, norm).all()
    assert not geometry.within(found, images, 0.9 * small, norm).all()


def test_a_radius_for_all_may_be_traced():
    logits_fn, images, labels = problem()
    settings = {"step_size": 0.02, "num_steps": 3}

    def attack(epsilon):
        return attacks.pgd(logits_fn, images, labels, KEY, epsilon=epsilon, **settings)

    np.testing.assert_allclose(jax.jit(attack)(0.0625), attack(0.0625), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("epsilon", "words"),
    [
        (np.full(5, 0.1), r"float64 of shape \(5,\); expected a number, or one per image, shape"),
        (np.full((6, 1), 0.1), r"float64 of shape \(6, 1\); expected a number, or one per image"),
        (np.array([0.1, 0.1, -0.1, 0.1, 0.1, 0.1]), "-0.1 of image 2; expected .*a number above 0"),
        (np.array([0.1, np.nan, 0, 0.1, 0.1, 0.1]), "nan of image 1; expected .*a number above 0"),
        (np.array([0.1] * 5 + [np.inf]), "inf of image 5"),
        (np.array([True] * 6), "bool of shape"),
        (np.array(["8"] * 6), "<U1 of shape"),
    ],
)
def test_bad_radii_are_reported_in_one_line(epsilon, words):
    with pytest.raises(UserError, match=f"^epsilon: {words}"):
        checks.radii(epsilon, "l2", 6)
    for attack in (attacks.autoattack, ATTACKS["pgd"]):
        with pytest.raises(UserError, match=f"^epsilon: {words}"):
            attack(*problem(), KEY, epsilon=epsilon, norm="l2")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_leaves_an_image_of_radius_0_as_it_is(norm):
    logits_fn, images, labels = problem()
    radii = np.array([0.1, 0, 0.1, 0, 0.1, 0])
    found = ATTACKS["pgd"](logits_fn, images, labels, KEY, epsilon=radii, norm=norm)
    is_changed = np.any(np.asarray(found) != images, axis=(1, 2, 3))
    np.testing.assert_array_equal(is_changed, radii > 0)
    with pytest.raises(UserError, match=r"0\.0 of image 1; expected a number above 0, such as"):
        checks.radii(radii, norm, 6)


def test_a_factor_of_the_radius_is_the_images_own_not_the_channels():
    images = jax.random.uniform(KEY, (3, 4, 4, 3))
    labels = jnp.zeros(3, jnp.int32)
    settings = attacks.PgdSettings(epsilon=0.1, step_size=0.1, num_steps=1, unroll=False)
    for factors in (np.array([1.0, 0.5, 0.0]), jnp.array([1.0, 0.5, 0.0]), np.float64(0.5), 0.5):
        found = attacks.pgd_trajectory(
            lambda x: x.sum(axis=(1, 2)), images, labels, KEY, settings, scale=factors
        ).images
        moved = np.abs(found - images).max(axis=(1, 2, 3))
        np.testing.assert_allclose(moved, np.broadcast_to(0.1 * factors, 3), atol=1e-6)


def test_a_radius_for_all_is_no_factor():
    assert checks.radii(0.1, "linf", 6) == (0.1, None)
    with pytest.raises(UserError, match="epsilon: nan; expected"):
        checks.radii(float("nan"), "linf", 6)
    with pytest.warns(attacks.RobustnessWarning, match="exceeds the pixel scale"):
        checks.radii(np.array([1.0, 8.0]), "linf", 2)
