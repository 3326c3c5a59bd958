"""The version `plus`: more attacks, more starts, and FAB without a target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.attacks import autoattack, geometry, versions
from bat_jax.attacks.fab import Fab
from bat_jax.attacks.protocol import Problem
from bat_jax.errors import UserError
from tests.attacks import linear

NORMS = ("linf", "l2", "l1")


def test_versions_have_their_attacks_and_starts():
    plus = ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")
    assert versions.names("plus", None) == plus
    for norm in NORMS:
        starts = versions.starts("plus", norm, {"fab": 2}, plus)
        assert [starts[name] for name in plus] == [5, 5, 2, 1, 1, 1]
    starts = versions.starts("standard", "l1", None, versions.STANDARD)
    assert [starts[name] for name in versions.STANDARD] == [5, 1, 1, 1]


def test_rounds_are_targets_starts_or_labels():
    labels = np.array([7, 3], np.int32)
    strongest = np.arange(18, dtype=np.int32).reshape(2, 9)

    def rounds(name, norm, count=1, version="standard"):
        return versions.rounds(name, version, norm, count, labels, strongest)

    np.testing.assert_array_equal(rounds("apgd-t", "linf", 2), np.tile(strongest, 2))
    np.testing.assert_array_equal(rounds("apgd-t", "l1"), strongest[:, :5])
    assert rounds("apgd-t", "l1", version="plus").shape == rounds("fab-t", "l1").shape == (2, 9)
    np.testing.assert_array_equal(rounds("fab", "l2", 3), [[0, 1, 2], [0, 1, 2]])
    np.testing.assert_array_equal(rounds("apgd-ce", "l1", 5), np.tile(labels[:, None], 5))


@pytest.fixture(scope="module")
def problem():
    logits_fn, weights, images, labels = linear.problem(count=24)
    return logits_fn, weights, images, labels


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_breaks_the_breakable_images(problem, norm):
    logits_fn, weights, images, labels = problem
    epsilon = linear.median_radius(weights, images, labels, norm)
    result = autoattack(
        logits_fn,
        images,
        labels,
        jax.random.key(0),
        epsilon=epsilon,
        norm=norm,
        attacks=("fab",),
        restarts={"fab": 2},
        batch_size=24,
    )
    expected = linear.distances(weights, images, labels, norm) > epsilon
    # The nearest boundary from an iterate may not be that from the image.
    assert (result.robust == expected).mean() >= 0.9
    assert not (expected & ~result.robust).any()


@pytest.mark.parametrize("norm", NORMS)
def test_fab_starts_at_the_image_and_then_half_of_epsilon_away(problem, norm):
    _, _, images, labels = problem
    attack = Fab(epsilon=0.1, norm=norm)
    keys = jax.random.split(jax.random.key(0), 24)
    numbers = jnp.asarray(np.repeat([0, 1], 12).astype(np.int32))
    begin = jax.jit(attack.begin)
    state = begin(Problem(jnp.asarray(images), jnp.asarray(labels), numbers, keys))
    moved = np.asarray(state.x) - images
    assert not moved[:12].any()
    lengths = geometry.length(jnp.asarray(moved[12:]), norm)
    np.testing.assert_allclose(lengths, 0.05, rtol=1e-3)
    np.testing.assert_array_equal(state.adversarial, images)


def test_an_attack_without_a_random_start_has_no_restarts():
    with pytest.raises(UserError, match="restarts: fab-t has no random start"):
        versions.starts("standard", "linf", {"fab-t": 2}, versions.STANDARD)


def test_what_replaces_an_attack_starts_as_often():
    counts = versions.starts("standard", "linf", {"apgd-t": 3}, versions.STANDARD)
    assert counts["apgd-dlr"] == 3
    both = versions.starts("standard", "linf", {"apgd-t": 3}, ("apgd-dlr", "apgd-t"))
    assert both["apgd-dlr"] == 1


@pytest.mark.parametrize(
    ("restarts", "words"),
    [
        ({"fab": 2}, "restarts: 2 of fab; expected restarts of the attacks to run: apgd-ce"),
        ({"apgd-ce": 0}, "restarts of apgd-ce: 0; expected a whole number, 1 or more"),
    ],
)
def test_restarts_are_of_attacks_that_run(problem, restarts, words):
    logits_fn, _, images, labels = problem
    with pytest.raises(UserError, match=words):
        autoattack(
            logits_fn,
            images,
            labels,
            jax.random.key(0),
            epsilon=0.1,
            attacks=("apgd-ce",),
            restarts=restarts,
        )
