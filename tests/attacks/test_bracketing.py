"""Minimal norms: brackets contain the true ones, where these are known, and curves fall."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.attacks import (
    MinimalNorms,
    RobustnessWarning,
    autoattack,
    geometry,
    minimal_norms,
)
from bat_jax.attacks.engine import Engine
from bat_jax.attacks.protocol import Outcome
from bat_jax.errors import UserError
from tests.attacks import claims, linear

KEY = jax.random.key(0)


def distance(x, normal, gap, norm):
    """Returns the least ||d|| with normal.d >= gap and 0 <= x + d <= 1."""
    room = np.where(normal > 0, 1 - x, x)
    size = np.abs(normal)
    if norm == "l1":  # The steepest pixels first, each as far as it can move.
        length = 0.0
        for place in np.argsort(-size):
            gain = size[place] * room[place]
            if gain >= gap:
                return length + gap / size[place]
            gap, length = gap - gain, length + room[place]
        return math.inf
    if (size * room).sum() < gap:
        return math.inf
    # d_i = min(t s_i, room_i): a larger t moves pixels further, until they reach the gap.
    speed = np.ones_like(size) if norm == "linf" else size
    low, high = 0.0, float((room / speed).max())
    for _ in range(100):
        middle = (low + high) / 2
        is_enough = (size * np.minimum(middle * speed, room)).sum() >= gap
        low, high = (low, middle) if is_enough else (middle, high)
    moved = np.minimum(high * speed, room)
    return moved.max() if norm == "linf" else float(np.linalg.norm(moved))


def true_norms(weights, images, labels, norm):
    """Returns every image's minimal norm on a linear model."""
    flat, weights = np.float64(images.reshape(len(images), -1)), np.float64(weights)
    logits = flat @ weights
    return np.array(
        [
            min(
                distance(x, weights[:, t] - weights[:, y], z[y] - z[t], norm)
                for t in range(len(z))
                if t != y
            )
            for x, y, z in zip(flat, labels, logits, strict=True)
        ]
    )


def linear_problem(spread):
    """Returns a linear model and images around gray; with a spread of 8, many pixels are 0 or 1."""
    logits_fn, weights, images, _ = linear.problem(count=16)
    images = np.clip(0.5 + spread * (images - 0.5), 0, 1).astype(np.float32)
    return logits_fn, weights, images, np.asarray(logits_fn(images)).argmax(axis=1).astype(np.int32)


LINEAR = [(norm, spread, ("fab-t",)) for norm in ("linf", "l2", "l1") for spread in (1, 8)]
SLOW = [
    pytest.param(norm, spread, attacks, marks=pytest.mark.slow)
    for norm, spread, _ in LINEAR
    for attacks in (("apgd-t",), ("fab-t", "apgd-ce", "apgd-t"))
] + [pytest.param(*one, marks=pytest.mark.slow) for one in LINEAR if one[:2] != ("l2", 8)]


@pytest.mark.parametrize(("norm", "spread", "attacks"), [("l2", 8, ("fab-t",)), *SLOW])
def test_brackets_contain_the_true_norms_of_a_linear_model(norm, spread, attacks):
    logits_fn, weights, images, labels = linear_problem(spread)
    true = true_norms(weights, images, labels, norm)
    free = true_norms(weights, 0.5 + 0 * images, labels, norm)
    assert (spread == 1) == bool(np.isfinite(free).all() and images.min() > 0.3)
    # FAB-T approaches the boundary to half of a percent: choose radii away from the norms.
    ordered = np.sort(true)
    has_gap = ordered[1:] > 1.025 * ordered[:-1]
    radii = ((ordered[1:] + ordered[:-1]) / 2)[has_gap][:7]
    assert len(radii) == 7
    found = minimal_norms(
        logits_fn, images, labels, KEY, epsilons=radii, norm=norm, attacks=attacks, batch_size=16
    )
    assert (found.lower < true).all()
    assert (found.upper > true * 0.9999).all()
    # Every verdict on the grid is the true one.
    for radius in radii:
        np.testing.assert_array_equal(found.robust(radius), true > radius)
    assert geometry.within(found.adversarial, images, found.upper, norm).all()
    if "fab-t" in attacks:
        np.testing.assert_allclose(found.fab, true, rtol=8e-3)
    else:
        assert found.fab is None


class Network:
    """A network on images of two pixels, whose minimal norms a grid of points shows."""

    inner = np.array([[4.0, -5.0, 3.0, 2.0], [3.0, 4.0, -6.0, 2.0]], np.float32)
    bias = np.array([-2.0, 0.5, 1.0, -3.0], np.float32)
    outer = np.random.default_rng(4).normal(size=(4, 4)).astype(np.float32)

    @classmethod
    def logits(cls, xp, x):
        return xp.tanh(x.reshape(len(x), 2) @ cls.inner + cls.bias[None]) @ cls.outer


@pytest.fixture(scope="module")
def tiny():
    """Returns the network, images, labels, two of them wrong, and the norms by brute force."""
    images = np.random.default_rng(0).uniform(size=(16, 1, 2, 1)).astype(np.float32)
    labels = Network.logits(np, images).argmax(axis=1).astype(np.int32)
    steps = np.linspace(0, 1, 401, dtype=np.float32)
    points = np.array([*itertools.product(steps, steps)])
    classes = Network.logits(np, points).argmax(axis=1)
    labels[:2] = (labels[:2] + 1) % 4
    offsets = np.abs(points[None] - images.reshape(-1, 1, 2))
    others = classes[None] != labels[:, None]
    norms = {
        norm: np.where(others, length, np.inf).min(axis=1)
        for norm, length in (
            ("linf", offsets.max(axis=2)),
            ("l2", np.linalg.norm(offsets, axis=2)),
            ("l1", offsets.sum(axis=2)),
        )
    }
    return images, labels, norms


def bracketed(tiny, norm, attacks=("fab-t", "apgd-ce", "apgd-t"), **options):
    images, labels, _ = tiny
    arguments = {
        "logits_fn": lambda x: Network.logits(jnp, x),
        "images": images,
        "labels": labels,
        "key": KEY,
        "epsilons": (0.02, 0.05, 0.1, 0.2, 0.4),
        "batch_size": 16,
    }
    return minimal_norms(**{**arguments, **options}, norm=norm, attacks=attacks)


@pytest.fixture(scope="module")
def found(tiny):
    return bracketed(tiny, "linf", attacks=("apgd-ce",))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_tiny_network_has_the_norms_of_brute_force(tiny, norm):
    result = bracketed(tiny, norm)
    expected = np.where(result.clean, tiny[2][norm], 0)
    rounding = 2 / 400  # Of the points.
    assert (result.upper >= expected - rounding).all()
    near = expected < 0.38
    assert near.sum() > 8
    np.testing.assert_allclose(result.upper[near], expected[near], atol=0.01)


def test_no_bracket_is_below_brute_force(tiny, found):
    expected = np.where(found.clean, tiny[2]["linf"], 0)
    assert (found.upper >= expected - 2 / 400).all()
    assert (found.lower <= expected + 2 / 400).mean() > 0.8


def test_brackets_lie_between_neighbouring_radii(found):
    radii = np.array([0.0, *found.epsilons, np.inf])
    place = np.searchsorted(radii, found.lower)
    np.testing.assert_array_equal(radii[place], found.lower)
    attacked = found.clean
    np.testing.assert_array_equal(found.upper[attacked] <= radii[place + 1][attacked], True)
    np.testing.assert_array_equal(found.upper[attacked] > found.lower[attacked], True)
    assert not found.upper[~attacked].any()
    assert not found.lower[~attacked].any()
    assert (~attacked).sum() == 2


def test_a_larger_radius_breaks_no_fewer_images(found):
    curve = np.array([found.robust(e) for e in np.linspace(0, 0.4, 30)])
    np.testing.assert_array_equal(curve[0], found.clean)
    assert not (curve[1:] & ~curve[:-1]).any()
    assert 0 < curve[-1].sum() < curve[0].sum()


def test_images_are_verified_at_their_distances(tiny, found):
    images, labels, _ = tiny
    broken = np.isfinite(found.upper) & found.clean
    predicted = Network.logits(np, found.adversarial).argmax(axis=1)
    assert (predicted != labels)[broken].all()
    np.testing.assert_allclose(
        geometry.distances(found.adversarial, images, "linf")[broken],
        found.upper[broken],
        atol=1e-6,
    )
    np.testing.assert_array_equal(found.adversarial[~broken], images[~broken])


def test_only_legal_images_that_the_model_misclassifies_count(monkeypatch):
    monkeypatch.setattr(Engine, "run", claims.run)
    found = minimal_norms(
        claims.logits_fn,
        claims.IMAGES,
        claims.LABELS,
        KEY,
        epsilons=(claims.EPSILON,),
        attacks=("apgd-ce",),
        batch_size=8,
    )
    # The image that counts is beyond epsilon by rounding.
    distance = geometry.distances(claims.ADVERSARIAL, claims.IMAGES, "linf")[claims.IS_BROKEN]
    assert (distance > claims.EPSILON).all()
    upper = np.where(claims.IS_BROKEN, claims.EPSILON, np.inf)
    np.testing.assert_array_equal(found.upper, upper)
    np.testing.assert_array_equal(found.lower, np.where(claims.IS_BROKEN, 0, claims.EPSILON))
    expected = np.where(claims.IS_BROKEN[:, None, None, None], claims.ADVERSARIAL, claims.IMAGES)
    np.testing.assert_array_equal(found.adversarial, expected)


@pytest.mark.slow
def test_verdicts_are_those_of_autoattack_unless_it_finds_less_in_a_larger_ball(tiny, found):
    images, labels, _ = tiny
    robust = np.array(
        [
            autoattack(
                lambda x: Network.logits(jnp, x),
                images,
                labels,
                KEY,
                epsilon=radius,
                attacks=("apgd-ce",),
                batch_size=16,
            ).robust
            for radius in found.epsilons
        ]
    )
    falls = ~(robust[1:] & ~robust[:-1]).any(axis=0)
    assert falls.sum() >= 14
    curve = np.array([found.robust(radius) for radius in found.epsilons])
    np.testing.assert_array_equal(curve[:, falls], robust[:, falls])


@pytest.mark.parametrize(
    ("epsilons", "words"),
    [
        ((), "epsilons: none"),
        ((0.1, 0.1), "epsilons: 0.1, then 0.1; expected ascending"),
        ((0.2, 0.1), "epsilons: 0.2, then 0.1; expected ascending"),
        ((0.0, 0.1), "epsilon: 0.0; expected a number above 0"),
        ((0.1, math.nan), "epsilon: nan; expected"),
    ],
)
def test_bad_radii_are_reported(tiny, epsilons, words):
    images, labels, _ = tiny
    with pytest.raises(UserError, match=words):
        minimal_norms(lambda x: x, images, labels, KEY, epsilons=epsilons)


def test_the_attacks_are_those_that_the_classes_allow():
    logits_fn, _, images, labels = linear.problem(count=2, classes=3)
    with pytest.warns(RobustnessWarning, match="apgd-dlr"):
        found = minimal_norms(
            logits_fn, images, labels, KEY, epsilons=(0.01,), attacks=("apgd-t",), batch_size=2
        )
    assert found.attacks == ("apgd-dlr",)


class StoppedError(Exception):
    """Stops a search from outside."""


def assert_same(found, other):
    assert found.epsilons == other.epsilons
    for name in ("lower", "upper", "fab", "clean", "adversarial"):
        np.testing.assert_array_equal(getattr(found, name), getattr(other, name))


def guess(engine, attack, images, labels, targets, keys, scale):
    """Moves all pixels of an image equally: as FAB-T by 0.3, and otherwise by up to the radius."""
    step = np.minimum(scale, 0.3)[:, None, None, None] * (1 - 0.2 * targets[:, :1, None, None])
    moved = np.clip(images + np.where(labels % 2, 1, -1)[:, None, None, None] * step, 0, 1)
    return Outcome(
        moved.astype(np.float32), np.ones(len(images), bool), np.zeros(len(images), bool)
    )


# The model classifies 14 of the 16 images correctly: three batches.
STOPPED = {"norm": "linf", "attacks": ("fab-t", "apgd-ce"), "batch_size": 5}


def stopped_search(tiny, path, attack):
    """Returns a whole search, one stopped twice within a batch, and the attacks they ran."""
    calls, stops = [], []

    def run(engine, *arguments):
        if len(calls) in stops:
            raise StoppedError
        calls.append((type(arguments[0]).__name__, len(arguments[1])))
        return attack(engine, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "run", run)
        whole = bracketed(tiny, **STOPPED)
        of_whole = calls[:]
        # In the second batch of FAB-T; then in the second batch of the second round, from there on.
        for stop in (4, 6 + 3 + 1):
            calls.clear()
            stops[:] = [stop]
            with pytest.raises(StoppedError):
                bracketed(tiny, **STOPPED, path=path)
        calls.clear()
        stops.clear()
        resumed = bracketed(tiny, **STOPPED, path=path)
    return whole, resumed, of_whole, calls


@pytest.fixture(scope="module")
def stopped(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("stopped") / "new" / "norms.npz"
    return *stopped_search(tiny, path, guess), path


def assert_resumed(whole, resumed, of_whole, of_resumed):
    assert_same(resumed, whole)
    assert len(set(whole.lower)) > 2
    # Three targets for each of three batches.
    assert of_whole[:9] == [("FabTargeted", 5)] * 6 + [("FabTargeted", 4)] * 3
    # FAB-T was repeated from its fourth attack, and the bisection goes on with its fifth.
    assert of_resumed == of_whole[9 + 4 :]


def test_a_stopped_search_ends_like_a_whole_one_and_repeats_at_most_a_batch(stopped):
    assert_resumed(*stopped[:4])


@pytest.mark.slow
def test_a_stopped_search_by_real_attacks_ends_like_a_whole_one(tiny, tmp_path):
    assert_resumed(*stopped_search(tiny, tmp_path / "norms.npz", Engine.run))


def test_a_finished_search_is_not_repeated(tiny, stopped, monkeypatch):
    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(Engine, "run", refuse)
    again = bracketed(tiny, **{**STOPPED, "batch_size": None}, path=stopped[-1])
    assert_same(again, stopped[0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"epsilons": (0.02, 0.05)},
            r"epsilons differ; epsilons was \[0.02, 0.05, 0.1, 0.2, 0.4\]",
        ),
        ({"key": jax.random.key(1)}, "key differ"),
        ({"attacks": ("apgd-ce",)}, "attacks differ"),
        ({"norm": "l2"}, "norm differ"),
        ({"labels": np.ones(16, np.int32)}, "images differ"),
        ({"keep_adversarial": False}, "keep_adversarial differ"),
        ({"logits_fn": lambda x: -Network.logits(jnp, x)}, "of another model"),
    ],
)
def test_the_file_of_another_search_is_refused_and_kept(tiny, stopped, changed, message):
    path = stopped[-1]
    content = path.read_bytes()
    with pytest.raises(UserError, match=message) as error:
        bracketed(tiny, **{**STOPPED, **changed}, path=path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("distance", lambda a: a * np.nan, "distance holds nan"),
        ("broken_at", lambda a: a + 9, "broken_at holds 9 to 14; expected 0 to 5"),
        ("in_round", lambda a: a[:3], r"in_round is bool of shape \(3,\)"),
        ("fab", lambda a: None, "fab is missing"),
    ],
)
def test_damaged_brackets_are_refused_by_name(tiny, stopped, name, change, message, tmp_path):
    with np.load(stopped[-1], allow_pickle=False) as archive:
        arrays = {**archive, name: change(archive[name])}
    path = tmp_path / "norms.npz"
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(UserError, match=message) as error:
        bracketed(tiny, **STOPPED, path=path)
    assert str(error.value).startswith(str(path))


def test_nothing_is_said_of_a_larger_radius(found):
    with pytest.raises(UserError, match=r"epsilon: 0.5; expected 0 to 0.4, the largest radius"):
        found.robust(0.5)


def test_a_nearer_image_counts_at_smaller_radii():
    upper = np.array([0.04, math.inf])
    found = MinimalNorms(
        epsilons=(0.05, 0.1),
        lower=np.array([0.0, 0.1]),
        upper=upper,
        fab=None,
        clean=np.ones(2, bool),
        attacks=("apgd-ce",),
        _adversarial=np.zeros((2, 1, 1, 1)),
    )
    np.testing.assert_array_equal(found.robust(0.05), [False, True])
    np.testing.assert_array_equal(found.robust(0.03), [True, True])
