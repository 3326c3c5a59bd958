"""The union of threats: images are robust to it that withstand each of them, and no others."""

import inspect
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.attacks import Threat, autoattack, threats, union
from bat_jax.attacks.engine import Engine
from bat_jax.errors import UserError

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).uniform(0.4, 0.6, size=(24, 8, 8, 1)).astype(np.float32)


def linear_model():
    """Returns logits of three classes, and how far images of the first are from the others.

    The second class differs from the first in all pixels, so that it is near in Linf; the third in
    four pixels, so that it is near in L1. The distances are below 0.4: no face of the box is near.
    """
    rng = np.random.default_rng(1)
    weights = np.zeros((64, 3), np.float32)
    weights[:, 1] = rng.choice([-1.0, 1.0], 64)
    weights[rng.permutation(64)[:4], 2] = [6.0, -6.0, 6.0, -6.0]
    flat = IMAGES.reshape(len(IMAGES), 64)
    bias = (-np.array([0, 1.5, 2.0]) - 0.5 * weights.sum(axis=0)).astype(np.float32)
    gaps = -(np.float64(flat) @ weights + bias)[:, 1:]
    assert (gaps > 0).all()
    dual = {"linf": 1, "l2": 2, "l1": np.inf}
    norms = {
        norm: (gaps / np.linalg.norm(weights[:, 1:], order, axis=0)).min(axis=1)
        for norm, order in dual.items()
    }
    return lambda x: x.reshape(len(x), 64) @ jnp.asarray(weights) + bias[None], norms


@pytest.fixture(scope="module")
def problem():
    """Returns arguments, and by threat which images withstand it; four have a wrong label."""
    logits_fn, norms = linear_model()
    labels = np.where(np.arange(24) < 4, 1, 0).astype(np.int32)
    withstands = {}
    for norm, true in norms.items():
        ordered = np.sort(true)[5:12]
        place = np.argmax(ordered[1:] / ordered[:-1])  # Away from the norms.
        epsilon = float(ordered[place : place + 2].mean())
        withstands[Threat(norm, epsilon)] = (true > epsilon) & (labels == 0)
    arguments = {"logits_fn": logits_fn, "images": IMAGES, "labels": labels, "key": KEY}
    return {**arguments, "threats": [*withstands]}, withstands


def assert_exact(found, withstands):
    np.testing.assert_array_equal(found.clean, np.arange(24) >= 4)
    np.testing.assert_array_equal(found.robust, np.all([*withstands.values()], axis=0))
    for threat, robust in withstands.items():
        np.testing.assert_array_equal(found.under(tuple(threat)), robust)


def test_it_is_exact_on_a_linear_model_and_resumes(problem, tmp_path, monkeypatch):
    arguments, withstands = problem
    # Every threat breaks images that another does not.
    linf, l2, l1 = (robust[4:] for robust in withstands.values())
    assert (linf & ~l1).any()
    assert (l1 & ~linf).any()
    assert (l2 != l1).any()
    assert (l2 != linf).any()
    path = tmp_path / "new" / "verdicts.npz"
    options = {"attacks": ("fab-t",), "batch_size": 16}
    assert_exact(union(**arguments, **options, path=path), withstands)

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(Engine, "run", refuse)
    assert_exact(union(**arguments, **options, path=path), withstands)
    # The files are those of AutoAttack under each threat.
    arguments = {name: one for name, one in arguments.items() if name != "threats"}
    for (norm, epsilon), robust in withstands.items():
        found = autoattack(
            **arguments,
            **options,
            norm=norm,
            epsilon=epsilon,
            path=tmp_path / "new" / f"verdicts-{norm}-{epsilon:.6g}.npz",
            keep_adversarial=False,
        )
        np.testing.assert_array_equal(found.robust, robust)


@pytest.fixture
def known(problem, monkeypatch):
    """Makes attacks find what is known; returns the images that they were run on, by norm."""
    _, withstands = problem
    rows_of = {image.tobytes(): row for row, image in enumerate(IMAGES)}
    image_keys = np.asarray(
        jax.random.key_data(jax.vmap(lambda n: jax.random.fold_in(KEY, n))(jnp.arange(24)))
    )
    attacked = {}

    def attack(logits_fn, images, labels, keys, *, epsilon, norm, **_):
        rows = np.array([rows_of[image.tobytes()] for image in images])
        np.testing.assert_array_equal(jax.random.key_data(keys), image_keys[rows])
        attacked[norm] = rows
        robust, clean = withstands[norm, epsilon][rows], rows >= 4
        return types.SimpleNamespace(robust=robust, clean=clean)

    monkeypatch.setattr(threats, "autoattack", attack)
    return attacked


def test_broken_images_may_be_skipped_and_the_union_is_the_same(problem, known):
    arguments, withstands = problem
    found = union(**arguments, skip_broken=True)
    np.testing.assert_array_equal(found.robust, np.all([*withstands.values()], axis=0))
    np.testing.assert_array_equal(found.clean, np.arange(24) >= 4)
    left = np.ones(24, bool)
    for threat, robust in withstands.items():
        np.testing.assert_array_equal(known[threat.norm], np.flatnonzero(left))
        np.testing.assert_array_equal(found.broken_by[threat], left & found.clean & ~robust)
        left &= robust
    first, second, _ = withstands
    np.testing.assert_array_equal(found.under(first), withstands[first])
    with pytest.raises(UserError, match="were not attacked under it: only the union is known"):
        found.under(second)


@pytest.mark.usefixtures("known")
def test_a_threat_under_which_nothing_is_left_to_attack(problem, monkeypatch):
    arguments, _ = problem

    def attack(*_, **options):
        nothing = np.zeros(24, bool)
        assert options["norm"] == "linf"
        return types.SimpleNamespace(robust=nothing, clean=~nothing)

    monkeypatch.setattr(threats, "autoattack", attack)
    found = union(**arguments, skip_broken=True)
    assert not found.robust.any()
    assert [int(broken.sum()) for broken in found.broken_by.values()] == [24, 0, 0]


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "threats: none; expected at least one"),
        (("linf", 0.1), "threats: 'linf'; expected pairs of a norm and a radius"),
        ([("linf",)], r"threats: \('linf',\); expected pairs"),
        ([("l2", np.ones(24))], "expected pairs of a norm and a radius"),
        ([("l3", 0.1)], "norm: 'l3'; expected linf, l2 or l1"),
        ([("l2", -1)], "epsilon: -1.0; expected a number above 0"),
        ([("l2", 0.5), Threat("l2", 0.5)], r"threats: \('l2', 0.5\) twice"),
    ],
)
def test_bad_threats_are_reported(problem, given, words):
    with pytest.raises(UserError, match=words) as error:
        inspect.unwrap(union)(**{**problem[0], "threats": given})
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("known")
def test_nothing_is_said_of_another_threat(problem):
    found = union(**problem[0])
    with pytest.raises(UserError, match=r"threat: \('l2', 9.0\); expected one of \('linf', "):
        found.under(("l2", 9.0))
