"""Randomised models: attacks average over draws of the model, and further draws vote."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.attacks import autoattack, geometry, versions
from bat_jax.attacks.auto_pgd import Apgd
from bat_jax.attacks.draws import Purpose
from bat_jax.attacks.engine import Engine
from bat_jax.attacks.expectation import Expectation
from bat_jax.attacks.judge import Judge
from bat_jax.attacks.protocol import Outcome, Problem
from bat_jax.errors import UserError
from tests.attacks import linear

ATTACKS = ("apgd-ce", "apgd-dlr")
# Of the Gaussian noise on every weight.
NOISE = 0.02


def noisy(weights):
    """Returns a linear model whose weights are drawn anew for every key."""

    def logits_fn(x, key):
        return x.reshape(len(x), -1) @ (weights + NOISE * jax.random.normal(key, weights.shape))

    return logits_fn


@pytest.fixture(scope="module")
def two_classes():
    """Returns a randomised model, the weights that it has on average, and its images."""
    _, weights, images, labels = linear.problem(count=32, classes=2)
    epsilon = linear.median_radius(weights, images, labels, "linf")
    return noisy(weights), weights, images, labels, epsilon


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("rand") / "verdicts.npz"


@pytest.fixture(scope="module")
def found(two_classes, path):
    logits_fn, _, images, labels, epsilon = two_classes
    options = {"epsilon": epsilon, "eot": 20, "attacks": ATTACKS[:1], "path": path}
    return autoattack(logits_fn, images, labels, jax.random.key(0), **options)


def test_a_noisy_linear_model_is_as_robust_as_its_expectation(two_classes, found):
    _, weights, images, labels, epsilon = two_classes
    # The difference of both logits is Gaussian: a draw is right with a probability above 1 / 2 if
    # the expected logits are. Draws decide unless the expected margin is within their deviation.
    normal = (weights[:, 1] - weights[:, 0]).astype(np.float64)
    distances = linear.distances(weights, images, labels, "linf")
    margin = (distances - epsilon) * np.abs(normal).sum()
    deviation = NOISE * np.sqrt(2) * np.linalg.norm(images.reshape(len(images), -1), axis=1)
    is_clear = np.abs(margin) > 1.5 * deviation
    assert is_clear.sum() >= 12
    assert 3 <= (distances > epsilon)[is_clear].sum() <= is_clear.sum() - 3
    np.testing.assert_array_equal(found.robust[is_clear], (distances > epsilon)[is_clear])


def test_the_result_has_the_numbers_of_draws(found):
    assert (found.eot, found.draws) == (20, 21)


def test_adversarial_images_keep_the_constraint(two_classes, found):
    _, _, images, _, epsilon = two_classes
    assert geometry.within(found.adversarial, images, epsilon, "linf").all()


def test_draws_belong_to_the_images(two_classes, found):
    logits_fn, _, images, labels, epsilon = two_classes
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(0), n))(jnp.arange(len(images)))
    rows = np.array([30, 8, 21, 2, 17])
    some = autoattack(
        logits_fn,
        images[rows],
        labels[rows],
        keys[rows],
        epsilon=epsilon,
        eot=20,
        attacks=ATTACKS[:1],
        batch_size=8,
    )
    np.testing.assert_array_equal(some.clean, found.clean[rows])
    np.testing.assert_array_equal(some.robust, found.robust[rows])
    np.testing.assert_allclose(some.adversarial, found.adversarial[rows], atol=1e-5)


def test_a_deterministic_model_gets_the_verdicts_of_the_standard_attacks():
    logits_fn, weights, images, labels = linear.problem(count=16)
    epsilon = linear.median_radius(weights, images, labels, "linf")
    labels = labels.copy()
    labels[:2] = (labels[:2] + 1) % linear.CLASSES
    options = {"epsilon": epsilon, "batch_size": 16}
    key = jax.random.key(0)
    plain = autoattack(logits_fn, images, labels, key, attacks=ATTACKS, **options)
    drawn = autoattack(
        lambda x, key: logits_fn(x), images, labels, key, version="rand", eot=1, draws=1, **options
    )
    assert list(drawn.by_attack) == list(ATTACKS)
    for name in ATTACKS:
        np.testing.assert_array_equal(drawn.by_attack[name], plain.by_attack[name])
    np.testing.assert_array_equal(drawn.robust, plain.robust)
    assert plain.draws is plain.eot is None
    assert 0 < plain.robust.sum() < 14


class Voting(Engine):
    """Returns given logits for one draw after the other, and records the words of the keys."""

    def __init__(self, logits=None):
        self.votes, self.words = logits, []

    def logits(self, images, key_data=None):
        self.words.append(key_data)
        if self.votes is None:
            return np.zeros((len(images), 2), np.float32)
        return self.votes[len(self.words) - 1]


def test_every_draw_of_every_sitting_has_an_own_key():
    engine, keys = Voting(), jax.random.split(jax.random.key(3), 5)
    judge = Judge(engine, np.zeros(5, np.int32), keys, 3)
    rows = np.array([4, 1])
    for sitting in (0, 1, 2):
        judge(np.zeros((2, 1, 2, 1), np.float32), rows, sitting)
    words = np.array(engine.words)
    assert words.shape == (9, 2, 2)
    for place, (sitting, draw) in enumerate((i, j) for i in range(3) for j in range(3)):
        for row, image in enumerate(rows):
            key = keys[image]
            for number in (int(Purpose.JUDGEMENT), sitting, draw):
                key = jax.random.fold_in(key, number)
            np.testing.assert_array_equal(words[place, row], jax.random.key_data(key))
    assert len(np.unique(words.reshape(18, 2), axis=0)) == 18


@pytest.mark.parametrize(
    ("votes", "is_right"),
    [
        ([1, 1], True),
        ([1, 0], False),
        ([1, 1, 0], True),
        ([1, 0, 0], False),
        ([1, 1, np.nan], False),
    ],
)
def test_more_than_half_of_the_draws_must_be_right(votes, is_right):
    # The first image of two gets the votes; the second is always right.
    drawn = [np.array([[0, vote - 0.5], [0, 3]], np.float32) for vote in votes]
    keys = jax.random.split(jax.random.key(3), 5)
    judge = Judge(Voting(drawn), np.ones(5, np.int32), keys, len(votes))
    mean, found = judge(np.zeros((2, 1, 2, 1), np.float32), np.arange(2), 1)
    np.testing.assert_array_equal(found, [is_right, True])
    np.testing.assert_allclose(mean, np.mean(drawn, axis=0))


def test_the_gradient_and_the_loss_are_means_over_the_draws():
    _, weights, images, labels = linear.problem(count=3, classes=3)
    attack = Expectation(Apgd(epsilon=0.1, norm="linf", loss="cross_entropy"), draws=4)
    keys = jax.random.split(jax.random.key(0), 3)
    problem = Problem(*(jnp.asarray(v) for v in (images, labels, labels)), keys)
    model = jax.vmap(lambda x, key: noisy(weights)(x[None], key)[0])
    begun = jax.jit(attack.begin)(problem)
    state = jax.jit(lambda state: attack.step(model, problem, jnp.int32(0), state))(begun)

    @jax.jit
    def drawn_weights(key):
        key = jax.random.fold_in(jax.random.fold_in(key, int(Purpose.EXPECTATION)), 0)
        drawn = jax.vmap(lambda n: jax.random.normal(jax.random.fold_in(key, n), weights.shape))
        return weights[None] + NOISE * drawn(jnp.arange(4))

    for row in range(3):
        drawn = np.asarray(drawn_weights(keys[row]), np.float64)
        x = np.asarray(begun.inner.x)[row]
        logits = x.astype(np.float64).ravel() @ drawn
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        own = np.eye(3)[labels[row]]
        gradient = np.mean([w @ (q - own) for w, q in zip(drawn, p, strict=True)], axis=0)
        np.testing.assert_allclose(
            np.asarray(state.inner.best_gradient)[row].ravel(), gradient, atol=1e-4
        )
        loss = np.mean(-np.log(p[:, labels[row]]))
        assert float(state.inner.best_loss[row]) == pytest.approx(loss, rel=1e-3)
        assert int(state.wrong[row]) == (logits.argmax(axis=1) != labels[row]).sum()


def test_all_starts_run_and_the_iterate_that_most_draws_misclassify_is_kept(two_classes):
    logits_fn, _, images, labels, epsilon = two_classes
    one, three = (
        Expectation(
            Apgd(epsilon=epsilon, norm="linf", loss="cross_entropy", num_iterations=2),
            draws=4,
            starts=starts,
        )
        for starts in (1, 3)
    )
    assert (one.num_steps, three.num_steps) == (3, 9)
    keys = jax.random.split(jax.random.key(0), len(images))
    problem = Problem(*(jnp.asarray(v) for v in (images, labels, labels)), keys)
    model = jax.vmap(lambda x, key: logits_fn(x[None], key)[0])
    step = jax.jit(lambda number, state: three.step(model, problem, number, state))
    states = [jax.jit(three.begin)(problem)]
    for number in range(three.num_steps):
        states.append(step(jnp.int32(number), states[-1]))
    begun, first, last = states[0], states[one.num_steps], states[-1]
    alone = begun
    step_alone = jax.jit(lambda number, state: one.step(model, problem, number, state))
    for number in range(one.num_steps):
        alone = step_alone(jnp.int32(number), alone)
    np.testing.assert_array_equal(alone.adversarial, first.adversarial)
    np.testing.assert_array_equal(alone.wrong, first.wrong)
    # Each start is at another point of the ball.
    restarted = states[one.num_steps + 1].inner.best
    assert not np.array_equal(restarted, begun.inner.x)
    wrong = np.array([state.wrong for state in states])
    assert (np.diff(wrong, axis=0) >= 0).all()
    # Half of the four draws are enough to claim it.
    assert (wrong == 2).any()
    np.testing.assert_array_equal([state.found for state in states], wrong >= 2)
    # More draws misclassify some images that the first start has claimed to break.
    assert (np.asarray(last.wrong) > np.asarray(first.wrong))[np.asarray(first.found)].any()


@pytest.mark.parametrize(("eot", "steps", "rounds"), [(2, 303, 1), (None, 101, 3)])
def test_starts_are_in_the_attack_on_a_randomised_model(
    two_classes, monkeypatch, eot, steps, rounds
):
    seen = []

    def find_nothing(engine, attack, images, labels, targets, keys, scale=None):
        seen.append((attack.num_steps, targets.shape[1]))
        return Outcome(images.copy(), np.zeros(len(images), bool), np.zeros(len(images), bool))

    monkeypatch.setattr(Engine, "run", find_nothing)
    logits_fn, _, images, labels, epsilon = two_classes
    plain = linear.problem(count=1, classes=2)[0]
    autoattack(
        plain if eot is None else logits_fn,
        images,
        labels,
        jax.random.key(0),
        epsilon=epsilon,
        eot=eot,
        attacks=ATTACKS[:1],
        restarts={"apgd-ce": 3},
    )
    assert seen == [(steps, rounds)]


def test_draws_in_l1_attack_within_epsilon_throughout():
    assert versions.create("apgd-ce", 1.0, "l1").in_stages
    assert not versions.create("apgd-ce", 1.0, "l1", eot=2).attack.in_stages
    plain, _, images, labels = linear.problem(count=8, classes=2)
    found = autoattack(
        lambda x, key: plain(x),
        images,
        labels,
        jax.random.key(0),
        norm="l1",
        epsilon=12.0,
        eot=1,
        draws=1,
        attacks=ATTACKS[:1],
    )
    assert not found.robust.any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"draws": 5}, "draws differ; draws was 21 and is 5"),
        (
            {"eot": None, "logits_fn": linear.problem(count=1, classes=2)[0]},
            "eot, draws differ; eot was 20 and is None",
        ),
    ],
)
def test_a_file_of_other_draws_is_refused(two_classes, found, path, changed, message):
    logits_fn, _, images, labels, epsilon = two_classes
    arguments = {"logits_fn": logits_fn, "epsilon": epsilon, "eot": 20, "attacks": ATTACKS[:1]}
    with pytest.raises(UserError, match=message):
        autoattack(
            **{**arguments, **changed},
            images=images,
            labels=labels,
            key=jax.random.key(0),
            path=path,
        )


def test_an_unknown_version_is_refused():
    with pytest.raises(UserError, match="version: 'fast'; expected standard"):
        versions.names("fast", None)


BAD = {
    "no draws": ({"eot": 0}, "eot: 0; expected a whole number, 1 or more"),
    "no votes": ({"draws": 0}, "draws: 0; expected a whole number, 1 or more"),
    "an attack that does not average": ({"attacks": ("apgd-ce", "square")}, "give version='rand'"),
    "the standard attacks": ({"version": "standard", "eot": 5}, "give version='rand'"),
    "no key": ({"logits_fn": lambda x: x}, r"takes \(x\); expected \(images, key\)"),
    "a key without eot": ({"version": "standard"}, r"expected \(images\): a randomised model"),
    "a tuple": ({"logits_fn": lambda x, key: (x[:, :4, 0, 0], x)}, "returned tuple"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_reported_in_one_line(two_classes, name):
    logits_fn, _, images, labels, epsilon = two_classes
    changed, message = BAD[name]
    arguments = {"logits_fn": logits_fn, "images": images, "labels": labels, "epsilon": epsilon}
    with pytest.raises(UserError, match=message) as caught:
        autoattack(**{**arguments, "key": jax.random.key(0), "version": "rand", **changed})
    assert "\n" not in str(caught.value)
