"""AutoAttack's verdicts are the worst case, verified, for any batches and devices."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.attacks import autoattack, geometry
from bat_jax.attacks.draws import Purpose
from bat_jax.attacks.engine import Engine
from bat_jax.errors import UserError
from tests.attacks import claims, linear

WHITE_BOX = ("apgd-ce", "apgd-t", "fab-t")


@pytest.fixture(scope="module")
def problem():
    logits_fn, weights, images, labels = linear.problem()
    labels = labels.copy()
    labels[:5] = (labels[:5] + 1) % linear.CLASSES  # Clean errors.
    epsilon = linear.median_radius(weights, images[5:], labels[5:], "linf")
    expected = linear.distances(weights, images, labels, "linf") > epsilon
    expected[:5] = False
    return logits_fn, images, labels, epsilon, expected


@pytest.fixture(scope="module")
def result(problem):
    logits_fn, images, labels, epsilon, _ = problem
    return autoattack(
        logits_fn, images, labels, jax.random.key(0), epsilon=epsilon, attacks=WHITE_BOX
    )


def test_the_verdict_is_exact(problem, result):
    np.testing.assert_array_equal(result.robust, problem[4])


def test_no_attack_is_credited_with_clean_errors(problem, result):
    assert not result.clean[:5].any()
    assert result.clean[5:].all()
    assert not result.robust[:5].any()
    assert not any(broken[:5].any() for broken in result.by_attack.values())


def test_every_image_is_robust_or_a_clean_error_or_broken_once(result):
    broken = np.sum([*result.by_attack.values()], axis=0)
    np.testing.assert_array_equal(broken + result.robust + ~result.clean, 1)


def test_adversarial_images_break_the_model_within_the_constraint(problem, result):
    logits_fn, images, labels, epsilon, _ = problem
    assert geometry.within(result.adversarial, images, epsilon, "linf").all()
    predicted = np.asarray(jnp.argmax(logits_fn(result.adversarial), axis=-1))
    np.testing.assert_array_equal(predicted == labels, result.robust)
    untouched = result.robust | ~result.clean
    np.testing.assert_array_equal(result.adversarial[untouched], images[untouched])


@pytest.mark.parametrize(("batch_size", "devices"), [(7, 1), (48, 8)])
def test_batches_and_devices_do_not_change_the_verdicts(problem, result, batch_size, devices):
    logits_fn, images, labels, epsilon, _ = problem
    again = autoattack(
        logits_fn,
        images,
        labels,
        jax.random.key(0),
        epsilon=epsilon,
        attacks=WHITE_BOX,
        batch_size=batch_size,
        devices=jax.devices()[:devices],
    )
    for name in WHITE_BOX:
        np.testing.assert_array_equal(again.by_attack[name], result.by_attack[name])
    np.testing.assert_allclose(again.adversarial, result.adversarial, atol=1e-5)


def test_a_loop_on_the_device_gives_the_same_verdicts(problem, result):
    logits_fn, images, labels, epsilon, _ = problem
    key = jax.random.key(0)
    again = autoattack(
        logits_fn, images, labels, key, epsilon=epsilon, attacks=("apgd-ce",), loop="device"
    )
    np.testing.assert_array_equal(again.by_attack["apgd-ce"], result.by_attack["apgd-ce"])


def test_no_batch_recompiles(problem):
    logits_fn, images, labels, epsilon, _ = problem
    traces = []

    def counted(x):
        traces.append(x.shape[0])
        return logits_fn(x)

    def run(count):
        traces.clear()
        autoattack(
            counted,
            images[5 : 5 + count],
            labels[5 : 5 + count],
            jax.random.key(0),
            epsilon=epsilon / 10,
            attacks=("fab-t",),
            batch_size=8,
            devices=jax.devices()[:1],
        )
        return sorted(traces)

    # Five batches take no more traces of the model than two: one per batch shape.
    assert run(16) == run(40)


@pytest.mark.parametrize("is_per_image", [False, True])
def test_only_legal_images_that_the_model_misclassifies_count_as_broken(monkeypatch, is_per_image):
    epsilon = claims.EPSILON
    if is_per_image:  # The first image is not claimed: its radius must not be another one's.
        epsilon = np.where(np.arange(len(claims.IMAGES)) > 0, epsilon, 2 * epsilon)
    monkeypatch.setattr(Engine, "run", claims.run)
    found = autoattack(
        claims.logits_fn,
        claims.IMAGES,
        claims.LABELS,
        jax.random.key(0),
        epsilon=epsilon,
        attacks=("apgd-ce",),
        batch_size=8,
    )
    assert found.clean.all()
    np.testing.assert_array_equal(found.by_attack["apgd-ce"], claims.IS_BROKEN)
    np.testing.assert_array_equal(found.robust, ~claims.IS_BROKEN)
    expected = np.where(claims.IS_BROKEN[:, None, None, None], claims.ADVERSARIAL, claims.IMAGES)
    np.testing.assert_array_equal(found.adversarial, expected)


class Counter(NamedTuple):
    """The state of an attack that begins with weak types, as `jnp.full` gives them."""

    adversarial: Any
    found: Any
    done: Any
    flat: Any
    loss: Any


class Counting:
    """Counts the traces of its step."""

    epsilon, norm, min_classes, num_steps, segment = 0.1, "linf", 2, 4, 2
    purpose = Purpose.SQUARE

    def __init__(self):
        self.traces = 0

    def begin(self, problem):
        no = jnp.zeros(len(problem.images), bool)
        return Counter(problem.images, no, no, no, jnp.full(len(problem.images), jnp.inf))

    def step(self, logits_fn, problem, number, state):
        self.traces += 1
        return state._replace(loss=jnp.min(logits_fn(state.adversarial), axis=1))


def test_the_first_step_is_not_compiled_separately():
    attack = Counting()
    engine = Engine(lambda x: x[:, 0, :6, 0], batch_size=8, devices=jax.devices()[:1])
    labels = np.zeros(8, np.int32)
    images = np.zeros((8, *linear.SHAPE), np.float32)
    keys = jax.random.split(jax.random.key(0), 8)
    engine.run(attack, images, labels, labels[:, None], keys)
    assert attack.traces == 1


class Drawing(Counting):
    """Returns draws of every image's key, and claims to break those whose target is 1."""

    num_steps = 1

    def __init__(self, purpose):
        super().__init__()
        self.purpose = purpose

    def begin(self, problem):
        draws = geometry.uniform(problem.keys, problem.images)
        return super().begin(problem)._replace(adversarial=draws)

    def step(self, logits_fn, problem, number, state):
        return state._replace(found=problem.targets == 1)


@pytest.mark.parametrize("purpose", [Purpose.SQUARE, Purpose.FAB])
def test_every_start_draws_anew_until_one_breaks_the_image(purpose):
    engine = Engine(lambda x: x[:, 0, :, 0], batch_size=8, devices=jax.devices()[:1])
    images, labels = np.zeros((4, 1, 6, 1), np.float32), np.zeros(4, np.int32)
    keys = jax.random.split(jax.random.key(0), 4)
    targets = np.array([[1, 0], [0, 1], [0, 0], [1, 1]], np.int32)
    outcome = engine.run(Drawing(purpose), images, labels, targets, keys)
    np.testing.assert_array_equal(outcome.found, [True, True, False, True])
    for key, number, found in zip(keys, (0, 1, 1, 0), outcome.adversarial, strict=True):
        own = jax.random.fold_in(jax.random.fold_in(key, int(purpose)), number)
        expected = jax.random.uniform(own, (1, 6, 1), jnp.float32, -1, 1)
        np.testing.assert_array_equal(found, expected)


def test_batches_of_an_attack_have_few_sizes():
    engine = Engine(lambda x: x[:, 0, :6, 0], batch_size=256, devices=jax.devices()[:1])
    attack, sizes = Counting(), []
    for count in (209, 200, 190, 60, *range(1, 257)):
        sizes.append(engine._size(attack, count))
        engine._programs[attack, (sizes[-1], *linear.SHAPE)] = None
        assert sizes[-1] >= count
    assert sizes[:4] == [216, 216, 216, 64]
    assert len(set(sizes)) <= 9


def test_the_model_is_traced_once_per_shape_and_its_arrays_are_not_embedded():
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(64, 10)), jnp.float32)
    logits_fn = jax.jit(lambda x: x.reshape(len(x), -1) @ weights)
    engine = Engine(logits_fn, batch_size=8, devices=jax.devices()[:1])
    constants = engine._model.constants((8, 8, 8, 1))
    assert [constant.shape for constant in constants] == [(64, 10)]
    assert engine._model.constants((4, 8, 8, 1))[0] is constants[0]


def test_a_single_key_or_one_per_image(problem, result):
    logits_fn, images, labels, epsilon, _ = problem
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(0), n))(jnp.arange(len(images)))
    rows = np.array([30, 8, 21])
    some = autoattack(
        logits_fn, images[rows], labels[rows], keys[rows], epsilon=epsilon, attacks=WHITE_BOX
    )
    np.testing.assert_array_equal(some.robust, result.robust[rows])
    np.testing.assert_allclose(some.adversarial, result.adversarial[rows], atol=1e-5)


def test_l2_keeps_its_constraint():
    logits_fn, weights, images, labels = linear.problem(seed=3)
    epsilon = linear.median_radius(weights, images, labels, "l2")
    result = autoattack(
        logits_fn,
        images,
        labels,
        jax.random.key(0),
        epsilon=epsilon,
        norm="l2",
        attacks=("apgd-t", "fab-t"),
    )
    np.testing.assert_array_equal(
        result.robust, linear.distances(weights, images, labels, "l2") > epsilon
    )
    assert geometry.within(result.adversarial, images, epsilon, "l2").all()


def test_adversarial_images_that_were_not_kept_are_refused(problem):
    logits_fn, images, labels, epsilon, _ = problem
    result = autoattack(
        logits_fn,
        images[:8],
        labels[:8],
        jax.random.key(0),
        epsilon=epsilon,
        attacks=("apgd-ce",),
        keep_adversarial=False,
    )
    with pytest.raises(UserError, match="pass keep_adversarial"):
        _ = result.adversarial


def good():
    logits_fn, _, images, labels = linear.problem(count=4)
    return {
        "logits_fn": logits_fn,
        "images": images,
        "labels": labels,
        "key": jax.random.key(0),
        "epsilon": 0.1,
    }


BAD = {
    "above 1": ({"images": good()["images"] * 2}, r"in image 0 are not all in \[0, 1\]"),
    "NaN": ({"images": good()["images"] * np.float32(np.nan)}, "image 0 holds NaN"),
    "integers": ({"images": np.zeros((4, 8, 8, 1), np.uint8)}, "uint8; expected float32"),
    "float64": ({"images": np.zeros((4, 8, 8, 1))}, "float64; expected float32"),
    "NCHW": ({"images": np.zeros((4, 1, 8, 8), np.float32)}, r"\): transpose\(0, 2, 3, 1\) puts"),
    "no channels": ({"images": np.zeros((4, 8, 8), np.float32)}, r"\): images\[\.\.\., None\] are"),
    "flat": ({"images": np.zeros((4, 64), np.float32)}, r"expected \(images, height"),
    "no images": ({"images": np.zeros((0, 8, 8, 1), np.float32)}, "images: none"),
    "too few labels": ({"labels": np.zeros(3, np.int32)}, r"expected one integer per image"),
    "one-hot labels": ({"labels": np.zeros((4, 6), np.int32)}, r"expected one integer per image"),
    "fractional labels": ({"labels": np.zeros(4, np.float32)}, r"expected one integer per image"),
    "label 6": ({"labels": np.array([0, 6, 0, 0])}, "image 1 has label 6; expected 0 to 5"),
    "label -1": ({"labels": np.array([0, 0, 0, -1])}, "image 3 has label -1"),
    "flat logits": ({"logits_fn": lambda x: x.sum(axis=(1, 2, 3))}, r"returned shape \(\d+,\)"),
    "one logit": ({"logits_fn": lambda x: x.sum(axis=(1, 2))}, "two classes or more"),
    "logits of one image": ({"logits_fn": lambda x: x[:1, :4, 0, 0]}, r"expected logits of shape"),
    "a tuple": ({"logits_fn": lambda x: (x[:, :4, 0, 0], x)}, "returned tuple"),
    "integers out": (
        {"logits_fn": lambda x: x[:, :4, 0, 0].astype(jnp.int32)},
        "expected floating-point",
    ),
    "epsilon 0": ({"epsilon": 0.0}, "epsilon: 0.0"),
    "batch size 0": ({"batch_size": 0}, "batch_size: 0"),
    "an attack twice": ({"attacks": ("square", "square")}, "each once"),
    "no attack": ({"attacks": ()}, "attacks: none"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_reported_in_one_line(name):
    changed, message = BAD[name]
    with pytest.raises(UserError, match=message) as caught:
        autoattack(**{**good(), **changed})
    assert "\n" not in str(caught.value)
