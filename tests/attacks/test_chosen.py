"""Attacks on chosen classes: only those classes count, and linear programs agree."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from bat_jax.attacks import apgd_targeted, autoattack, chosen, fab_targeted, geometry
from bat_jax.errors import UserError
from tests.attacks import linear

KEY = jax.random.key(0)
CHOSEN = (1, 4)
GROUP = jax.jit(chosen.grouped, static_argnums=2)


@pytest.mark.parametrize("classes", [(2,), (0, 3), (0, 1, 2, 3, 4)])
def test_a_grouped_model_is_wrong_where_a_chosen_class_wins(classes):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(40, 5)).astype(np.float32), rng.integers(0, 5, 40)
    labels = labels.astype(np.int32)
    found = np.asarray(GROUP(logits, labels, classes))
    reached = chosen.reached(logits, labels, classes)
    np.testing.assert_array_equal(found.argmax(axis=1) != labels, reached)
    assert 0 < reached.sum() < 40
    for row in range(40):
        goals = [k for k in classes if k != labels[row]]
        others = [k for k in range(5) if k not in goals]
        np.testing.assert_array_equal(found[row, goals], logits[row, goals])
        assert found[row, labels[row]] == logits[row, others].max()
        rest = [k for k in others if k != labels[row]]
        np.testing.assert_array_equal(found[row, rest], logits[row].min())
    if len(classes) == 5:
        np.testing.assert_array_equal(found, logits)


def test_an_image_with_nan_logits_stays_wrong():
    logits = np.array([[1.0, np.nan, 0.0]], np.float32)
    assert np.isnan(GROUP(logits, np.zeros(1, np.int32), (2,))).any()


def test_targets_are_the_strongest_chosen_classes():
    logits = np.array([[5, 1, 3, 2], [5, 1, 3, 2], [np.nan, 1, 3, 2]], np.float32)
    labels = np.array([0, 2, 3], np.int32)
    found = chosen.strongest(logits, labels, (1, 2, 3), 9)
    np.testing.assert_array_equal(found, [[2, 3, 1], [3, 1, 3], [2, 1, 2]])
    np.testing.assert_array_equal(chosen.strongest(logits, labels, (1, 2), 1), [[2], [1], [2]])


@pytest.fixture(scope="module")
def problem():
    """Returns a linear model, images, labels, and the least Linf radius to reach a class."""
    logits_fn, weights, images, labels = linear.problem(count=16)
    weights = np.float64(weights)

    def radius(x, target):
        # Minimise e with |d_i| <= e, where the target beats every class at x + d.
        normals = np.delete(weights - weights[:, [target]], target, axis=1).T
        ones = np.ones((64, 1))
        return optimize.linprog(
            np.r_[np.zeros(64), 1],
            A_ub=np.block([[normals, np.zeros((5, 1))], [np.eye(64), -ones], [-np.eye(64), -ones]]),
            b_ub=np.r_[-normals @ x, np.zeros(128)],
            bounds=[(None, None)] * 64 + [(0, None)],
        ).fun

    radii = np.array(
        [
            min(radius(x, target) for target in CHOSEN if target != y)
            for x, y in zip(np.float64(images.reshape(16, 64)), labels, strict=True)
        ]
    )
    return logits_fn, images, labels, radii


@pytest.fixture(scope="module")
def result(problem):
    logits_fn, images, labels, radii = problem
    labels = labels.copy()
    labels[0] = (labels[0] + 1) % linear.CLASSES
    return autoattack(
        logits_fn,
        images,
        labels,
        KEY,
        epsilon=float(np.sort(radii)[7:9].mean()),
        attacks=("apgd-t",),
        target_classes=CHOSEN,
        batch_size=16,
    )


def test_verdicts_are_those_of_linear_programs(problem, result):
    logits_fn, images, _, radii = problem
    epsilon = float(np.sort(radii)[7:9].mean())
    assert result.target_classes == CHOSEN
    expected = radii > epsilon
    expected[0] = False  # A clean error is broken, whatever its class.
    np.testing.assert_array_equal(result.robust, expected)
    assert not result.clean[0]
    broken = ~result.robust & result.clean
    predicted = np.asarray(logits_fn(result.adversarial)).argmax(axis=1)
    assert np.isin(predicted[broken], CHOSEN).all()
    assert geometry.within(result.adversarial, images, epsilon, "linf").all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-dlr", "fab-t", "square"])
def test_other_attacks_reach_the_classes_too(problem, name):
    logits_fn, images, labels, radii = problem
    epsilon = float(np.sort(radii)[10:12].mean())
    found = autoattack(
        logits_fn,
        images,
        labels,
        KEY,
        epsilon=epsilon,
        attacks=(name,),
        target_classes=CHOSEN,
        batch_size=16,
    )
    assert not (~found.robust & (radii > epsilon)).any()
    least = 0.3 if name == "square" else 0.9
    assert (~found.robust & (radii < epsilon)).sum() >= least * (radii < epsilon).sum()


@pytest.mark.slow
@pytest.mark.parametrize("attack", [apgd_targeted, fab_targeted])
def test_single_attacks_reach_the_classes(problem, attack):
    logits_fn, images, labels, radii = problem
    epsilon = float(np.sort(radii)[7:9].mean())
    found = attack(
        logits_fn, images, labels, KEY, epsilon=epsilon, target_classes=CHOSEN, batch_size=16
    )
    reached = chosen.reached(np.asarray(logits_fn(found)), labels, CHOSEN)
    assert not (reached & (radii > epsilon)).any()
    # FAB-T aims at one boundary at a time, where another class may win.
    assert (reached == (radii < epsilon)).sum() >= 15


@pytest.mark.slow
def test_choosing_all_classes_is_choosing_none(problem):
    logits_fn, images, labels, radii = problem
    options = {"epsilon": float(np.median(radii)), "attacks": ("apgd-ce", "apgd-t", "fab-t")}
    plain = autoattack(logits_fn, images, labels, KEY, **options)
    every = autoattack(logits_fn, images, labels, KEY, target_classes=range(6), **options)
    for name in plain.by_attack:
        np.testing.assert_array_equal(every.by_attack[name], plain.by_attack[name])
    assert plain.target_classes is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"target_classes": ()}, "target_classes: none; expected some of 0 to 5, each once"),
        ({"target_classes": (6,)}, "target_classes: 6; expected some of 0 to 5"),
        ({"target_classes": (-1, 2)}, "target_classes: -1, 2; expected some of"),
        ({"target_classes": (2, 2)}, "target_classes: 2, 2; expected some of 0 to 5, each once"),
        ({"attacks": ("fab",)}, "attacks: fab has no target; expected others with target_classes"),
    ],
)
def test_bad_choices_are_reported(problem, changed, words):
    logits_fn, images, labels, _ = problem
    arguments = {"epsilon": 0.1, "target_classes": CHOSEN, **changed}
    with pytest.raises(UserError, match=words):
        autoattack(logits_fn, images, labels, KEY, **arguments)


@pytest.mark.parametrize("make", [jnp.array, np.array, lambda it: [jnp.array(one) for one in it]])
def test_classes_may_be_an_array(make):
    # Without the tests' type checker, which refuses arrays.
    classes = inspect.unwrap(chosen.given)(make([0, 1, 2]))
    assert classes == (0, 1, 2)
    chosen.check(classes, np.zeros(3, np.int32), linear.CLASSES)


def test_an_image_of_the_only_chosen_class_is_refused(problem):
    _, _, labels, _ = problem
    with pytest.raises(UserError, match=rf"{labels[3]} is the label of image \d+, which has no"):
        chosen.check((int(labels[3]),), labels, linear.CLASSES)
