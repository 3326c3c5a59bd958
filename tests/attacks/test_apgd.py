"""Auto-PGD follows its schedule, keeps its constraint and breaks every breakable image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.attacks import apgd, apgd_targeted, geometry, inner_losses
from bat_jax.attacks.auto_pgd import Apgd, _intervals
from bat_jax.attacks.protocol import Problem
from bat_jax.errors import UserError
from tests.attacks import apgd_reference, linear

NORMS = ("linf", "l2")


def test_checkpoints_are_those_of_the_paper():
    intervals = _intervals(100)
    assert np.flatnonzero(intervals).tolist() == [22, 41, 57, 70, 80, 87, 93, 99]
    assert intervals[intervals > 0].tolist() == [22, 19, 16, 13, 10, 7, 6, 6]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["cross_entropy", "dlr", "targeted"])
def test_it_breaks_exactly_the_breakable_images(norm, loss):
    logits_fn, weights, images, labels = linear.problem()
    epsilon = linear.median_radius(weights, images, labels, norm)
    options = {"epsilon": epsilon, "norm": norm, "batch_size": 48, "num_iterations": 30}
    if loss == "targeted":
        adversarial = apgd_targeted(logits_fn, images, labels, jax.random.key(3), **options)
    else:
        adversarial = apgd(logits_fn, images, labels, jax.random.key(3), loss=loss, **options)
    assert geometry.within(np.asarray(adversarial), images, epsilon, norm).all()
    broken = np.asarray(jnp.argmax(logits_fn(adversarial), axis=-1)) != labels
    expected = linear.distances(weights, images, labels, norm) < epsilon
    # Untargeted losses may lead to a class that is not the nearest.
    assert (broken == expected).mean() >= (1.0 if loss == "targeted" else 0.9)
    assert not (broken & ~expected).any()


@pytest.mark.parametrize("norm", NORMS)
def test_the_start_is_on_the_sphere_and_belongs_to_the_image(norm):
    images = jnp.full((4, 8, 8, 1), 0.5)
    keys = jax.random.split(jax.random.key(0), 4)
    start = geometry.random_start(keys, images, 0.1, norm)
    np.testing.assert_allclose(geometry.length(start - images, norm), 0.1, rtol=1e-5)
    alone = geometry.random_start(keys[2:3], images[2:3], 0.1, norm)
    np.testing.assert_array_equal(alone, start[2:3])


def run(logits_fn, images, labels, steps, **settings):
    """Yields the states of an attack, of one batch, without the engine."""
    attack = Apgd(epsilon=0.1, norm="linf", loss="cross_entropy", **settings)
    keys = jax.random.split(jax.random.key(0), len(labels))
    problem = Problem(jnp.asarray(images), jnp.asarray(labels), jnp.asarray(labels), keys)
    state = attack.begin(problem)
    step = jax.jit(lambda number, state: attack.step(logits_fn, problem, number, state))
    for number in range(steps):
        state = step(jnp.int32(number), state)
        yield state


def test_the_step_is_halved_if_the_loss_no_longer_rises():
    def flat_after_start(x):
        return jnp.zeros((len(x), 4)) + 0 * x.sum(axis=(1, 2, 3))[:, None]

    images, labels = np.full((2, 8, 8, 1), 0.5, np.float32), np.zeros(2, np.int32)
    sizes = [float(s.step_size[0]) for s in run(flat_after_start, images, labels, 101)]
    halvings = [number for number in range(1, 101) if sizes[number] < sizes[number - 1]]
    # Nothing ever rises, so condition (i) holds at every checkpoint.
    assert halvings == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sizes[-1] == pytest.approx(0.2 / 2**8)


def test_the_step_is_kept_while_the_loss_rises():
    logits_fn, _, images, labels = linear.problem(count=2)
    attack = Apgd(epsilon=0.1, norm="linf", loss="cross_entropy")
    keys = jax.random.split(jax.random.key(0), 2)
    problem = Problem(jnp.asarray(images), jnp.asarray(labels), jnp.asarray(labels), keys)
    # The loss has risen 15 and 16 times; at the first checkpoint, after 22 moves, it rises again.
    state = attack.begin(problem)._replace(
        loss=jnp.full(2, -jnp.inf), rises=jnp.array([15, 16], jnp.int32)
    )
    state = attack.step(logits_fn, problem, jnp.int32(22), state)
    # 0.75 of 22 are 16.5.
    np.testing.assert_allclose(state.step_size, [0.1, 0.2])
    np.testing.assert_array_equal(state.halved, [True, False])


class Waves:
    """Logits that are sums of sines of the pixels, with their gradient, in float64 NumPy."""

    def __init__(self, frequencies, *, images):
        rng = np.random.default_rng(0)
        self.inner = rng.normal(size=(12, 8))
        self.outer = rng.normal(size=(8, 3))
        self.images = rng.uniform(0.0, 1.0, size=(images * len(frequencies), 2, 2, 3))
        self.frequency = np.repeat(frequencies, images)
        self.labels = self.logits(self.images).argmax(axis=1)

    def logits(self, x, sin=np.sin):
        return sin(self.frequency[:, None] * (x.reshape(-1, 12) @ self.inner)) @ self.outer

    def look(self, row, x):
        """Returns the cross-entropy of an image, its gradient and whether it is misclassified."""
        angle = self.frequency[row] * (x.reshape(12) @ self.inner)
        logits = np.sin(angle) @ self.outer
        p = np.exp(logits - logits.max())
        p /= p.sum()
        label = self.labels[row]
        slope = self.outer @ (p - np.eye(3)[label])
        gradient = self.inner @ (self.frequency[row] * np.cos(angle) * slope)
        return -np.log(p[label]), gradient.reshape(x.shape), logits.argmax() != label


@pytest.mark.parametrize(
    ("norm", "epsilon", "frequencies", "met"),
    [
        ("linf", 0.3, (3.0, 6.0), [set(), {"i"}]),
        ("l2", 1.0, (0.3, 1.0, 3.0), [set(), {"i"}, {"ii"}]),
    ],
)
def test_every_iterate_and_step_size_is_that_of_the_paper(norm, epsilon, frequencies, met):
    """Pins the momentum, both conditions, their thresholds and the return to the best iterate."""
    waves = Waves(frequencies, images=10)
    with jax.enable_x64(True):
        attack = Apgd(epsilon=epsilon, norm=norm, loss="cross_entropy")
        keys = jax.random.split(jax.random.key(0), len(waves.labels))
        labels = jnp.asarray(waves.labels)
        problem = Problem(jnp.asarray(waves.images), labels, labels, keys)

        def step(state, number):
            following = attack.step(lambda x: waves.logits(x, jnp.sin), problem, number, state)
            return following, (state.x, following.step_size)

        state, (iterates, etas) = jax.jit(
            lambda: jax.lax.scan(step, attack.begin(problem), jnp.arange(101))
        )()
    iterates, etas = np.asarray(iterates), np.asarray(etas)

    reasons, returns, compared = [], 0, 0
    for row in range(len(waves.labels)):
        expected = apgd_reference.run(
            functools.partial(waves.look, row), waves.images[row], iterates[:, row], epsilon, norm
        )
        if expected["closest"] < 1e-11:
            continue  # Rounding decides which of two losses is larger.
        compared += 1
        np.testing.assert_array_equal(etas[:, row], expected["etas"])
        np.testing.assert_allclose(iterates[1:, row], expected["iterates"], rtol=0, atol=1e-9)
        np.testing.assert_array_equal(state.adversarial[row], expected["adversarial"])
        reasons += expected["reasons"]
        returns += expected["returns"]
    # The images cover all cases of the schedule: neither condition, each alone, and returns.
    assert all(why in reasons for why in met)
    assert returns > 50
    assert compared >= 15


def test_the_last_misclassified_iterate_is_returned():
    logits_fn, _, images, labels = linear.problem(count=8)
    seen = list(run(logits_fn, images, labels, 12))
    predictions = [np.asarray(jnp.argmax(logits_fn(s.x), axis=-1)) for s in seen]
    start = seen[0].best
    predictions = [np.asarray(jnp.argmax(logits_fn(start), axis=-1)), *predictions[:-1]]
    iterates = [start, *(s.x for s in seen[:-1])]
    for row in range(8):
        expected = None
        for iterate, prediction in zip(iterates, predictions, strict=True):
            if prediction[row] != labels[row]:
                expected = iterate[row]
        if expected is not None:
            np.testing.assert_array_equal(seen[-1].adversarial[row], expected)
            assert bool(seen[-1].found[row])


def test_dlr_ignores_scale_and_shift():
    logits = jax.random.normal(jax.random.key(0), (5, 6))
    labels, targets = jnp.arange(5), jnp.arange(5)[::-1]
    for loss in (inner_losses.dlr, inner_losses.targeted_dlr):
        np.testing.assert_allclose(
            loss(logits, labels, targets), loss(1000 * logits + 7, labels, targets), rtol=1e-3
        )


def test_dlr_follows_its_formula():
    logits = jnp.array([[3.0, 1.0, 2.0, -1.0, 0.5]])
    label, target = jnp.array([0]), jnp.array([3])
    assert float(inner_losses.dlr(logits, label, target)[0]) == pytest.approx(-(3 - 2) / (3 - 1))
    assert float(inner_losses.targeted_dlr(logits, label, target)[0]) == pytest.approx(
        -(3 - -1) / (3 - (1 + 0.5) / 2)
    )
    assert float(inner_losses.margin(logits, jnp.array([1]))[0]) == -2.0


def test_too_few_classes_are_refused():
    logits_fn, _, images, labels = linear.problem(count=4, classes=3)
    with pytest.raises(UserError, match="4 classes or more, and logits_fn has 3"):
        apgd_targeted(logits_fn, images, labels, jax.random.key(0), epsilon=0.1)


def test_an_unknown_loss_is_refused():
    logits_fn, _, images, labels = linear.problem(count=4)
    with pytest.raises(UserError, match="expected cross_entropy or dlr"):
        apgd.__wrapped__(logits_fn, images, labels, jax.random.key(0), epsilon=0.1, loss="kl")
