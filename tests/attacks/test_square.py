"""Square draws as in its paper, keeps its constraint and never raises the margin."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.attacks import geometry, inner_losses
from bat_jax.attacks.protocol import Problem
from bat_jax.attacks.square_attack import (
    Square,
    _l2_query,
    _l2_start,
    _linf_query,
    _linf_start,
    _pyramids,
    square,
)
from tests.attacks import linear

NORMS = ("linf", "l2")


def test_window_sides_follow_the_schedule():
    sides = Square(epsilon=0.1, norm="linf")._sides(28, 28)
    # The first step looks at the start. p is halved once MORE than 10, 50, ... queries were made.
    assert sides[1] == sides[11] == 25
    assert sides[12] == sides[51] == 18
    assert sides[52] == sides[201] == 13
    assert sides[4002] == sides[5000] == 2
    longer = Square(epsilon=0.1, norm="linf", num_queries=10000)._sides(224, 224)
    assert [longer[step] for step in (6001, 6002, 8002)] == [18, 13, 9]
    for place, query in enumerate((10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)):
        before, after = (round((0.8 / 2**halvings) ** 0.5 * 224) for halvings in (place, place + 1))
        assert (longer[query + 1], longer[query + 2]) == (before, after)
    assert (Square(epsilon=0.1, norm="l2")._sides(28, 28)[1:] % 2 == 1).all()


def test_the_linf_start_is_vertical_stripes():
    x = jnp.full((8, 8, 3), 0.5)
    offset = _linf_start(x, jax.random.key(0), epsilon=0.1) - x
    np.testing.assert_allclose(jnp.abs(offset), 0.1, rtol=1e-5)
    np.testing.assert_array_equal(offset, jnp.broadcast_to(offset[:1], offset.shape))
    assert len(np.unique(np.sign(offset[0]))) == 2


def test_a_linf_window_is_a_square_of_one_sign_per_channel():
    x = jnp.full((8, 8, 3), 0.5)
    query = jax.jit(functools.partial(_linf_query, epsilon=0.1, side=jnp.int32(3)))
    places, drawn = set(), set()
    for seed in range(60):
        changed = np.asarray(query(x, x, jax.random.key(seed)) - x)
        inside = changed[:, :, 0] != 0
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert len(rows) == len(columns) == 3
        assert inside.sum() == 9
        places.add((rows[0], columns[0]))
        signs = np.sign(changed[rows[0] : rows[0] + 3, columns[0] : columns[0] + 3])
        assert (signs == signs[0, 0]).all()
        drawn.add(tuple(signs[0, 0]))
    assert {row for row, _ in places} == {column for _, column in places} == set(range(6))
    assert len(drawn) == 2**3


@pytest.mark.parametrize(("side", "turned"), [(3, False), (5, True), (6, False)])
def test_pyramids_are_two_halves_of_opposite_sign(side, turned):
    positions = jnp.arange(side)
    eta = np.asarray(_pyramids(positions, positions, jnp.int32(side), is_turned=turned))
    eta = eta.T if turned else eta
    upper, lower = eta[: side // 2], eta[side // 2 :]
    assert (upper > 0).all()
    assert (lower < 0).all()
    # The middles of both are the sum of 1 / k^2 up to half of the side and one more.
    top = sum(1 / k**2 for k in range(1, side // 2 + 2))
    assert upper.max() == pytest.approx(top, rel=1e-5)
    assert lower.min() == pytest.approx(-top, rel=1e-5)


def test_an_l2_query_uses_all_of_epsilon():
    x = jnp.full((15, 15, 3), 0.5)
    best = jax.jit(functools.partial(_l2_start, epsilon=0.4))(x, jax.random.key(0))
    query = jax.jit(functools.partial(_l2_query, epsilon=0.4, side=jnp.int32(5)))
    for seed in range(5):
        moved = query(x, best, jax.random.key(seed))
        offset = moved - x
        assert float(jnp.sqrt(jnp.sum(offset**2))) == pytest.approx(0.4, rel=1e-5)
        assert bool(jnp.any(moved != best))
    # The start is a grid of 5 x 5 tiles, so it fills the image.
    assert float(jnp.mean(best != x)) > 0.9


def test_an_l2_query_follows_its_formula():
    x, epsilon, side = np.full((9, 9, 2), 0.5), 0.4, 3
    offset = np.random.default_rng(0).normal(size=x.shape)
    offset *= 0.7 * epsilon / np.linalg.norm(offset)  # Some of epsilon is unused.
    images = [jnp.asarray(one, jnp.float32) for one in (x, x + offset)]
    query = jax.jit(functools.partial(_l2_query, epsilon=epsilon, side=jnp.int32(side)))
    turns = set()
    for seed in range(6):
        key = jax.random.key(seed)
        draws = np.asarray(jax.random.uniform(key, (7,)))
        corners = np.floor(draws[:4] * (9 - side + 1)).astype(int).reshape(2, 2)
        first, second = (np.s_[row : row + side, column : column + side] for row, column in corners)
        # The upper row of a window, and the two lower ones, whose middle is in the last.
        pyramid = np.array([[0.25, 1.25, 0.25], [-0.25, -0.25, -0.25], [-0.25, -1.25, -0.25]])
        eta = pyramid if draws[4] < 0.5 else pyramid.T
        turns.add(draws[4] < 0.5)
        either = np.zeros(x.shape, bool)
        either[first] = either[second] = True
        moved = np.where(either, 0, offset)
        for channel in range(2):
            v = offset[(*first, channel)]
            u = np.where(draws[5 + channel] < 0.5, -1, 1) * eta / np.linalg.norm(eta)
            u = u + v / np.linalg.norm(v)
            inside = np.sum(offset[either[..., channel], channel] ** 2)
            unused = (epsilon**2 - np.sum(offset**2)) / 2
            moved[(*first, channel)] = u / np.linalg.norm(u) * np.sqrt(inside + unused)
        expected = x + moved * epsilon / np.linalg.norm(moved)
        np.testing.assert_allclose(query(*images, key), expected, atol=1e-5)
    assert len(turns) == 2


@pytest.mark.parametrize("norm", NORMS)
def test_it_lowers_the_margin_within_the_constraint(norm):
    logits_fn, weights, images, labels = linear.problem()
    epsilon = 2 * linear.median_radius(weights, images, labels, norm)
    attack = functools.partial(square, epsilon=epsilon, norm=norm, num_queries=300)
    adversarial = np.asarray(attack(logits_fn, images, labels, jax.random.key(0), batch_size=48))
    assert geometry.within(adversarial, images, epsilon, norm).all()
    margin = inner_losses.margin(logits_fn(adversarial), jnp.asarray(labels))
    # White-noise weights are the hardest for squares: random search finds half of it.
    can_be_broken = linear.distances(weights, images, labels, norm) < epsilon
    assert (np.asarray(margin) < 0)[can_be_broken].mean() > 0.4
    assert not (np.asarray(margin) < 0)[~can_be_broken].any()


def test_skipping_queries_that_change_nothing_changes_nothing():
    logits_fn, weights, images, labels = linear.problem(count=2)
    epsilon = 0.3 * float(linear.distances(weights, images, labels, "linf").min())
    attack = Square(epsilon=epsilon, norm="linf", num_queries=400)
    keys = jax.random.split(jax.random.key(5), 2)
    labels = jnp.asarray(labels)
    problem = Problem(jnp.asarray(images), labels, labels, keys)
    step = jax.jit(lambda number, state: attack.step(logits_fn, problem, number, state))
    state = attack.begin(problem)
    evaluations = 0
    for number in range(attack.num_steps):
        state = step(jnp.int32(number), state)
        evaluations += 1
        if bool(state.done.all()):
            break
    assert evaluations < attack.num_steps - 5
    assert not bool(state.found.any())

    sides = attack._sides(8, 8)

    @jax.jit
    def ask(row, best, number, side):
        key = jax.random.fold_in(keys[row], number)
        image = _linf_query(problem.images[row], best, key, epsilon=epsilon, side=side)
        return image, inner_losses.margin(logits_fn(image[None]), labels[row][None])[0]

    for row in range(2):
        best = attack.begin(problem).adversarial[row]
        least = float(inner_losses.margin(logits_fn(best[None]), labels[row : row + 1])[0])
        for number in range(1, 401):
            image, margin = ask(row, best, number, jnp.int32(sides[number]))
            if margin < least:
                best, least = image, margin
        np.testing.assert_allclose(state.adversarial[row], best, atol=1e-6)
