"""FAB's projection is the shortest step, and the attack finds the nearest boundary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from bat_jax.attacks import fab_targeted, geometry
from bat_jax.attacks.fab import shortest_steps
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
