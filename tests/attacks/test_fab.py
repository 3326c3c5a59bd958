"""FAB's projection is the shortest step, and the attack finds the nearest boundary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from bat_jax.attacks import fab_targeted, geometry
from bat_jax.attacks.fab import FabTargeted, shortest_steps
from bat_jax.attacks.protocol import Problem
from tests.attacks import linear

NORMS = ("linf", "l2")


@pytest.mark.parametrize("norm", NORMS)
def test_steps_reach_the_hyperplane_inside_the_box(norm):
    x = jax.random.uniform(jax.random.key(0), (64, 6, 6, 1))
    w = jax.random.normal(jax.random.key(1), (64, 6, 6, 1))
    r = jax.random.normal(jax.random.key(2), (64,)) * 2
    d = shortest_steps(x, w, r, norm)
    assert bool(jnp.all((x + d >= -1e-6) & (x + d <= 1 + 1e-6)))
    np.testing.assert_allclose(jnp.sum(w * d, axis=(1, 2, 3)), -r, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_steps_are_the_shortest(norm):
    x = np.asarray(jax.random.uniform(jax.random.key(0), (6, 2, 3, 1)), np.float64)
    w = np.asarray(jax.random.normal(jax.random.key(1), (6, 2, 3, 1)), np.float64)
    r = np.array([0.1, -0.2, 0.3, -0.4, 0.6, -0.8])
    d = shortest_steps(*(jnp.asarray(v, jnp.float32) for v in (x, w, r)), norm)
    for row in range(6):
        box = [(-v, 1 - v) for v in x[row].ravel()]
        normal = w[row].ravel()
        found = np.asarray(geometry.length(d[row : row + 1], norm))[0]
        if norm == "linf":  # minimise t, -t <= d_i <= t
            count = len(normal)
            eye, ones = np.eye(count), np.ones((count, 1))
            best = optimize.linprog(
                np.r_[np.zeros(count), 1],
                A_ub=np.block([[eye, -ones], [-eye, -ones]]),
                b_ub=np.zeros(2 * count),
                A_eq=np.r_[normal, 0][None],
                b_eq=[-r[row]],
                bounds=[*box, (0, None)],
            ).fun
        else:
            best = (
                optimize.minimize(
                    lambda v: v @ v,
                    np.zeros(len(normal)),
                    jac=lambda v: 2 * v,
                    bounds=box,
                    constraints=optimize.LinearConstraint(normal[None], -r[row], -r[row]),
                    method="SLSQP",
                ).fun
                ** 0.5
            )
        assert found == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_an_unreachable_hyperplane_moves_to_the_corner_of_the_box(norm):
    x = jnp.array([0.25, 0.5]).reshape(1, 1, 2, 1)
    w = jnp.array([1.0, -2.0]).reshape(1, 1, 2, 1)
    d = shortest_steps(x, w, jnp.array([5.0]), norm)
    np.testing.assert_allclose(d.ravel(), [-0.25, 0.5])


@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_means_no_step(norm):
    x = jnp.full((1, 2, 2, 1), 0.5)
    d = shortest_steps(x, jnp.zeros_like(x), jnp.array([1.0]), norm)
    np.testing.assert_array_equal(d, 0.0)


def test_a_step_mixes_those_from_the_iterate_and_the_image_and_goes_back():
    logits_fn, weights, images, labels = linear.problem(count=6, classes=2)
    normals = np.float64(weights.T[1 - labels] - weights.T[labels])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    x0 = np.float64(images.reshape(6, 64))
    away = linear.distances(weights, images, labels, "l2")[:, None]
    # Iterates at some share of the way to the boundary, and beside the way.
    share = np.array([0.0, 0.5, 0.85, 0.95, 0.97, 1.2])[:, None]
    beside = np.random.default_rng(0).normal(scale=0.01, size=(6, 64))
    beside -= (beside * normals).sum(axis=1, keepdims=True) * normals
    x = x0 + share * away * normals + beside

    attack = FabTargeted(epsilon=9.0, norm="l2")
    problem = Problem(
        jnp.asarray(images),
        jnp.asarray(labels),
        jnp.asarray(1 - labels),
        jax.random.split(jax.random.key(0), 6),
    )
    state = attack.begin(problem)._replace(x=jnp.asarray(x.reshape(images.shape), jnp.float32))
    step = jax.jit(lambda state: attack.step(logits_fn, problem, jnp.int32(1), state))

    d, d0 = (1 - share) * away * normals, away * normals
    size = np.abs(1 - share) * away
    alpha = np.minimum(size / (size + away), 0.1)
    assert 0 < (alpha < 0.1).sum() < 6
    moved = (1 - alpha) * (x + 1.05 * d) + alpha * (x0 + 1.05 * d0)
    is_wrong = np.asarray(logits_fn(moved.astype(np.float32))).argmax(axis=1) != labels
    assert 0 < is_wrong.sum() < 6
    expected = np.where(is_wrong[:, None], x0 + 0.9 * (moved - x0), moved)
    np.testing.assert_allclose(step(state).x.reshape(6, 64), expected, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_it_breaks_exactly_the_breakable_images(norm):
    logits_fn, weights, images, labels = linear.problem()
    epsilon = linear.median_radius(weights, images, labels, norm)
    options = {"epsilon": epsilon, "norm": norm, "batch_size": 48, "num_iterations": 20}
    adversarial = np.asarray(fab_targeted(logits_fn, images, labels, jax.random.key(0), **options))
    broken = np.asarray(jnp.argmax(logits_fn(adversarial), axis=-1)) != labels
    expected = linear.distances(weights, images, labels, norm) < epsilon
    np.testing.assert_array_equal(broken, expected)
    assert geometry.within(adversarial, images, epsilon, norm).all()
    np.testing.assert_array_equal(adversarial[~broken], images[~broken])
