"""Attacks in the L1 ball: the projection is the nearest point, and verdicts are exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from bat_jax.attacks import PgdSettings, autoattack, geometry
from bat_jax.attacks.auto_pgd_l1 import ApgdL1, _largest_signs
from bat_jax.attacks.fab import shortest_steps
from bat_jax.attacks.l1_ball import nearest_step
from bat_jax.attacks.protocol import Problem
from bat_jax.attacks.square_attack import Square
from bat_jax.attacks.square_l1 import _pattern, query, start
from bat_jax.errors import UserError
from tests.attacks import linear


def expected_step(u, x, epsilon):
    """Returns the projection of one step, in float64: lambda by sorting its breakpoints."""
    u, x = np.float64(u), np.float64(x)
    size, room = np.abs(u), np.where(u > 0, 1 - x, x)

    def at(level):
        return np.clip(size - level, 0, room)

    level = 0.0
    if at(0).sum() > epsilon:
        points = np.unique(np.r_[0, np.maximum(size - room, 0).ravel(), size.ravel()])
        sums = np.array([at(point).sum() for point in points])  # They fall.
        after = int(np.argmax(sums <= epsilon))
        low, high = points[after - 1], points[after]
        share = (sums[after - 1] - epsilon) / (sums[after - 1] - sums[after])
        level = low + share * (high - low)
    return np.sign(u) * np.where(size > (1 + 1e-6) * level, at(level), 0)


PROJECT = jax.jit(nearest_step)


@pytest.mark.parametrize("scale", [0.02, 0.3, 20.0])
@pytest.mark.parametrize("epsilon", [0.01, 3.0, 40.0])
def test_the_projection_is_the_nearest_point(scale, epsilon):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(12, 8, 8, 1)).astype(np.float32)
    u = (scale * rng.normal(size=x.shape)).astype(np.float32)
    x[:3] = np.round(x[:3])  # No room in half of the directions.
    u[3] = scale  # All entries are equal.
    u[4] = np.round(u[4], 1)  # Some are.
    u[5] = 0.0
    u[6, 1:] = 0.0
    u[7, 0, 0] = 1000.0
    found = np.asarray(PROJECT(u, x, epsilon))
    expected = np.stack([expected_step(*row, epsilon) for row in zip(u, x, strict=True)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * max(1.0, scale))
    assert geometry.within(np.clip(x + found, 0, 1), x, epsilon, "l1").all()


def test_pixels_that_are_projected_to_zero_do_not_change_at_all():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(4, 8, 8, 1)).astype(np.float32)
    found = np.asarray(PROJECT(rng.normal(size=x.shape).astype(np.float32), x, 2.0))
    assert 2 < (found != 0).sum(axis=(1, 2, 3)).max() < 30
    np.testing.assert_array_equal((x + found)[found == 0], x[found == 0])


def test_no_nearer_point_is_found_by_a_solver():
    rng = np.random.default_rng(1)
    x, u = rng.uniform(size=5), rng.normal(size=5)
    found = expected_step(u, x, 0.5)
    # d = p - q with p, q >= 0.
    best = optimize.minimize(
        lambda v: np.sum((v[:5] - v[5:] - u) ** 2),
        np.zeros(10),
        bounds=[*((0, 1 - v) for v in x), *((0, v) for v in x)],
        constraints=optimize.LinearConstraint(np.ones((1, 10)), -np.inf, 0.5),
        method="SLSQP",
    )
    assert np.sum((found - u) ** 2) <= best.fun + 1e-6


def test_the_ball_allows_for_rounding_only():
    x = np.full((1, 8, 8, 1), 0.5, np.float32)
    moved = x.copy()
    moved[0, 0, 0, 0] += 0.25
    assert geometry.within(moved, x, 0.25, "l1").all()
    assert not geometry.within(moved, x, 0.2499, "l1").any()
    assert float(geometry.length(jnp.asarray(moved - x), "l1")[0]) == pytest.approx(0.25)


def test_the_radius_shrinks_in_stages():
    radii, checkpoints, ends = ApgdL1(epsilon=2.0, loss="cross_entropy")._schedule()
    # The start of every stage is evaluated too.
    np.testing.assert_array_equal(radii, [6.0] * 31 + [4.0] * 31 + [2.0] * 41)
    assert np.flatnonzero(ends).tolist() == [30, 61]
    assert checkpoints.sum() == 30 + 30 + 40
    radii, checkpoints, ends = ApgdL1(2.0, "cross_entropy", in_stages=False)._schedule()
    assert np.flatnonzero(checkpoints).tolist() == list(range(4, 101, 4))
    assert set(radii) == {2.0}
    assert not ends.any()


def test_a_step_moves_the_largest_entries_and_ties():
    gradient = jnp.array([[3.0, -2.0, 2.0, 0.5, -1.0, 0.0, 0.1, 0.2]]).reshape(1, 2, 4, 1)
    signs = jax.jit(_largest_signs)
    for share, expected in (
        (0.125, [1, 0, 0, 0, 0, 0, 0, 0]),
        (0.25, [1, -1, 1, 0, 0, 0, 0, 0]),
        (0.5, [1, -1, 1, 0, -1, 0, 0, 0]),
        (1.0, [1, -1, 1, 1, -1, 0, 1, 1]),
        (0.0, [1, 0, 0, 0, 0, 0, 0, 0]),
    ):
        found = signs(gradient, jnp.full(1, share))
        np.testing.assert_array_equal(np.asarray(found).ravel(), expected)


def reference(look, x, iterates, attack):
    """Returns the sizes of steps and shares of Auto-PGD on one image, without stages."""
    count, epsilon = x.size, attack.epsilon
    eta, tau, changed, best_loss, best = epsilon, 0.2, float(count), -np.inf, None
    current, path = iterates[0], []
    for number in range(attack.num_steps):
        loss, gradient = look(current)
        if loss > best_loss:
            best_loss, best, best_gradient = loss, current, gradient
        if number and number % 4 == 0:
            now = float((best != x).sum())
            tau = now / (1.5 * count)
            if now < 0.95 * changed:
                eta, current, gradient = epsilon, best, best_gradient
            else:
                eta = max(eta / 1.5, epsilon / 10)
            changed = now
        place = int(np.clip(np.floor((1 - tau) * count), 0, count - 1))
        threshold = np.sort(np.abs(gradient).ravel())[place]
        signs = np.where(np.abs(gradient) >= threshold, np.sign(gradient), 0)
        moved = current - x + eta * signs / (np.abs(signs).sum() + 1e-10)
        current = x + expected_step(moved, x, epsilon)
        path.append((current, eta, tau))
    return path


def test_every_iterate_is_that_of_the_paper():
    rng = np.random.default_rng(0)
    inner, outer = rng.normal(size=(64, 8)), rng.normal(size=(8, 3))
    images, labels = rng.uniform(size=(3, 8, 8, 1)), np.zeros(3, np.int64)

    def look(x):
        angle = x.ravel() @ inner
        logits = np.sin(angle) @ outer
        p = np.exp(logits) / np.exp(logits).sum()
        gradient = inner @ (np.cos(angle) * (outer @ (p - np.eye(3)[0])))
        return -np.log(p[0]), gradient.reshape(x.shape)

    attack = ApgdL1(1.5, "cross_entropy", num_iterations=100, in_stages=False)
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 3)
        problem = Problem(*(jnp.asarray(v) for v in (images, labels, labels)), keys)

        def step(state, number):
            following = attack.step(
                lambda x: jnp.sin(x.reshape(3, 64) @ inner) @ outer, problem, number, state
            )
            return following, (state.x, following.step_size, following.share)

        _, (iterates, etas, shares) = jax.jit(
            lambda: jax.lax.scan(step, attack.begin(problem), jnp.arange(attack.num_steps))
        )()
    iterates, etas, shares = (np.asarray(v) for v in (iterates, etas, shares))
    for row in range(3):
        path = reference(look, images[row], iterates[:, row], attack)
        for number in range(100):
            expected, eta, tau = path[number]
            assert etas[number, row] == pytest.approx(eta)
            assert shares[number, row] == pytest.approx(tau)
            np.testing.assert_allclose(iterates[number + 1, row], expected, rtol=0, atol=1e-6)


def greedy_distance(x, normal, gap):
    """Returns the least ||d||_1 with normal.d >= gap in the box: the steepest pixels first."""
    room = np.where(normal > 0, 1 - x, x)
    length = 0.0
    for place in np.argsort(-np.abs(normal)):
        gain = abs(normal[place]) * room[place]
        if gain >= gap:
            return length + gap / abs(normal[place])
        gap, length = gap - gain, length + room[place]
    return np.inf


@pytest.fixture(scope="module")
def boxed():
    """Returns a linear model, images near the faces of the box, and their distances."""
    logits_fn, weights, images, _ = linear.problem(count=16)
    images = np.clip(0.5 + 8 * (images - 0.5), 0, 1).astype(np.float32)
    flat = images.reshape(len(images), -1).astype(np.float64)
    logits = flat @ weights.astype(np.float64)
    labels = logits.argmax(axis=1).astype(np.int32)
    distances, unbounded = (
        np.array(
            [
                min(
                    distance(x, (weights[:, t] - weights[:, y]).astype(np.float64), z[y] - z[t])
                    for t in range(linear.CLASSES)
                    if t != y
                )
                for x, y, z in zip(flat, labels, logits, strict=True)
            ]
        )
        for distance in (greedy_distance, lambda _, normal, gap: gap / np.abs(normal).max())
    )
    # The box matters.
    assert (distances > 1.05 * unbounded).sum() >= 2
    return logits_fn, images, labels, distances


@pytest.mark.parametrize("attack", ["apgd-t", "fab-t"])
def test_the_verdict_is_exact(boxed, attack):
    logits_fn, images, labels, distances = boxed
    epsilon = float(np.sort(distances)[7:9].mean())
    result = autoattack(
        logits_fn,
        images,
        labels,
        jax.random.key(0),
        epsilon=epsilon,
        norm="l1",
        attacks=(attack,),
        batch_size=16,
    )
    np.testing.assert_array_equal(result.robust, distances > epsilon)
    assert geometry.within(result.adversarial, images, epsilon, "l1").all()


def test_steps_to_a_hyperplane_are_the_shortest():
    rng = np.random.default_rng(0)
    x, w = rng.uniform(size=(6, 2, 3, 1)), rng.normal(size=(6, 2, 3, 1))
    r = np.array([0.1, -0.2, 0.3, -0.4, 0.6, -0.8])
    step = jax.jit(functools.partial(shortest_steps, norm="l1"))
    d = np.asarray(step(*(jnp.asarray(v, jnp.float32) for v in (x, w, r))))
    for row in range(6):
        normal, room = w[row].ravel(), x[row].ravel()
        best = optimize.linprog(
            np.ones(12),
            A_eq=np.r_[normal, -normal][None],
            b_eq=[-r[row]],
            bounds=[*((0, 1 - v) for v in room), *((0, v) for v in room)],
        )
        assert np.abs(d[row]).sum() == pytest.approx(best.fun, rel=1e-4)
        assert np.sum(d[row] * w[row]) == pytest.approx(-r[row], rel=1e-4)
        assert ((x[row] + d[row] > -1e-6) & (x[row] + d[row] < 1 + 1e-6)).all()
    far = np.asarray(step(*(jnp.asarray(v, jnp.float32) for v in (x, w, 100 * r))))
    expected = np.where(w * r[:, None, None, None] > 0, x, 1 - x)
    np.testing.assert_allclose(np.abs(far), expected, atol=1e-6)


def template(height, width):
    found, row, column = np.zeros((height, width)), height // 2, width // 2
    for j in range(max(row, column) + 1):
        rows = slice(max(row - j, 0), max(row + j + 1, 0))
        found[rows, max(column - j, 0) : column + j + 1] += 1 / (j + 1) ** 4
    return found / max(found.sum(), 1e-30)


@pytest.mark.parametrize("side", [1, 3, 4, 7, 8])
def test_the_pattern_has_two_halves_of_opposite_sign(side):
    expected = np.zeros((side, side))
    expected[: side // 2] = template(side // 2, side) if side > 1 else 0
    expected[side // 2 :] = -template(side - side // 2, side)
    expected /= np.abs(expected).sum()
    place = jnp.arange(8)
    draw = jax.jit(functools.partial(_pattern, is_turned=False))
    found = np.asarray(draw(place, place, jnp.int32(side)))
    np.testing.assert_allclose(found[:side, :side], expected, atol=1e-6)
    assert not found[side:].any()
    turned = jax.jit(functools.partial(_pattern, is_turned=True))(place, place, jnp.int32(side))
    np.testing.assert_array_equal(turned, found.T)


def test_square_fills_the_ball_and_stays_in_it():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(15, 15, 3)).astype(np.float32)
    best = jax.jit(functools.partial(start, epsilon=6.0))(x, jax.random.key(0))
    ask = jax.jit(functools.partial(query, epsilon=6.0, side=jnp.int32(5)))
    for seed in range(5):
        moved = np.asarray(ask(x, best, jax.random.key(seed)))
        assert geometry.within(moved[None], x[None], 6.0, "l1").all()
        assert np.abs(moved - x).sum() == pytest.approx(6.0, rel=0.02)
        assert (moved != np.asarray(best)).any()
    sides = Square(epsilon=6.0, norm="l1")._sides(8, 8)[1:]
    assert (sides.max(), sides.min()) == (7, 3)


def test_square_breaks_no_image_that_cannot_be_broken(boxed):
    logits_fn, images, labels, distances = boxed
    epsilon = float(np.sort(distances)[10:12].mean())
    attack = Square(epsilon=epsilon, norm="l1", num_queries=300)
    keys = jax.random.split(jax.random.key(0), len(images))
    problem = Problem(*(jnp.asarray(v) for v in (images, labels, labels)), keys)

    @jax.jit
    def run():
        return jax.lax.fori_loop(
            0, 301, lambda i, s: attack.step(logits_fn, problem, i, s), attack.begin(problem)
        )

    state = run()
    assert geometry.within(np.asarray(state.adversarial), images, epsilon, "l1").all()
    found = np.asarray(state.found)
    assert not found[distances > epsilon].any()
    assert found[distances < epsilon].mean() > 0.3


def test_pgd_refuses_it():
    with pytest.raises(UserError, match="norm: 'l1'; expected linf or l2"):
        PgdSettings(epsilon=1.0, step_size=0.1, num_steps=3, norm="l1")
