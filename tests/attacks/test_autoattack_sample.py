"""With a tolerance, the slow attacks run on a random sample, and the interval covers the rest.

The attacks are stand-ins with closed form on a linear model. APGD is made too weak, so that the
attacks after it break images, whose number is known.
"""

import collections
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bat_jax.attacks import anytime, autoattack, checks, result, sampling, versions
from bat_jax.attacks.auto_pgd import Apgd
from bat_jax.attacks.checks import RobustnessWarning
from bat_jax.attacks.engine import Engine
from bat_jax.attacks.fab import FabTargeted
from bat_jax.attacks.protocol import Outcome
from bat_jax.attacks.verdict_file import VerdictFile
from bat_jax.errors import UserError
from tests.attacks import linear

COUNT = 120
BATCH = 8
TOLERANCE = 0.3
ATTACKS = ("apgd-ce", "fab-t", "square")


def attack(name, epsilon, norm, version="standard", eot=None, count=1):
    """Returns attacks that differ in how far they reach: 0.8, 0.9 and 1 times epsilon."""
    if name == "fab-t":
        return FabTargeted(0.9 * epsilon, norm)
    return Apgd(epsilon if name == "square" else 0.8 * epsilon, norm, "cross_entropy")


def nearest_error(weights, images, labels, epsilon):
    """Returns just misclassified images of a linear model, and whether they are near enough."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    logits = flat @ weights
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    normals = weights.T[None] - weights.T[labels][:, None]
    size = np.abs(normals).sum(axis=2)
    gaps = np.where(size > 0, (own - logits) / np.maximum(size, 1e-9), np.inf)
    target, rows = gaps.argmin(axis=1), np.arange(len(images))
    step = gaps[rows, target] * (1 + 1e-4)
    moved = flat + step[:, None] * np.sign(normals[rows, target])
    return moved.reshape(images.shape).astype(np.float32), step <= epsilon


@pytest.fixture(scope="module", autouse=True)
def attacked():
    """Puts the stand-ins in place; returns how often each of them attacked each image."""
    _, weights, _, _ = linear.problem(count=1)
    found = {}

    def run(engine, attack, images, labels, targets, keys, scale=None):
        assert len(images) == len(labels) == len(targets) == len(keys) <= engine.batch_size
        times = found.setdefault((type(attack).__name__, attack.epsilon), collections.Counter())
        times.update(image.tobytes() for image in images)
        moved, is_near = nearest_error(weights, images, labels, attack.epsilon)
        return Outcome(moved, is_near, np.zeros(len(images), bool))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, "create", attack)
        patch.setattr(Engine, "run", run)
        yield found


@pytest.fixture(scope="module")
def problem():
    """Returns the arguments, and the attack that breaks each image."""
    logits_fn, weights, images, labels = linear.problem(count=COUNT)
    distances = linear.distances(weights, images, labels, "linf")
    epsilon = float(np.quantile(distances, 0.4))
    broken_by = np.select([distances < factor * epsilon for factor in (0.8, 0.9, 1)], (0, 1, 2), -1)
    arguments = {
        "logits_fn": logits_fn,
        "images": images,
        "labels": labels,
        "key": jax.random.key(0),
        "epsilon": epsilon,
        "attacks": ATTACKS,
        "batch_size": BATCH,
        "devices": jax.devices()[:1],
    }
    return arguments, broken_by


def run(arguments, **options):
    """Returns the result, without warnings of masked gradients."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RobustnessWarning)
        return autoattack(**{**arguments, **options})


@pytest.fixture(scope="module")
def exact(problem):
    return run(problem[0])


@pytest.fixture(scope="module")
def sampled(problem):
    return run(problem[0], tolerance=TOLERANCE)


def test_the_exact_verdict_has_no_sample(problem, exact):
    _, broken_by = problem
    np.testing.assert_array_equal(exact.robust, broken_by == -1)
    for number, name in enumerate(ATTACKS):
        np.testing.assert_array_equal(exact.by_attack[name], broken_by == number)
    assert exact.sample is None
    assert not exact.not_run.any()
    assert exact.interval == (exact.robust.mean(), exact.robust.mean())
    assert exact.robust_accuracy == exact.robust.mean()


def test_the_interval_is_within_the_tolerance_and_covers_the_truth(exact, sampled):
    low, high = sampled.interval
    assert 0 < high - low <= TOLERANCE + 1e-9
    assert low <= exact.robust.mean() <= high
    assert low <= sampled.robust_accuracy <= high


def test_the_sample_is_what_was_run(problem, sampled):
    _, broken_by = problem
    found = sampled.sample
    assert found.attacks == ("fab-t", "square")
    assert sorted(found.order) == list(np.flatnonzero(broken_by != 0))
    assert 0 < found.drawn < len(found.order)
    drawn, rest = np.split(found.order, [found.drawn])
    np.testing.assert_array_equal(np.sort(rest), np.flatnonzero(sampled.not_run))
    np.testing.assert_array_equal(sampled.robust[drawn], broken_by[drawn] == -1)
    assert found.broken == (broken_by[drawn] > 0).sum()
    assert sampled.robust[rest].all()
    assert str(found) == f"fab-t and square on {found.drawn} of {len(found.order)} images"
    rate = 1 - found.broken / found.drawn
    assert sampled.robust_accuracy == pytest.approx(len(found.order) * rate / COUNT)


def test_it_stops_as_soon_as_it_may(sampled):
    found = sampled.sample
    is_broken = ~sampled.robust[found.order[: found.drawn]]
    first = sampling.Sample.of(found.attacks, found.order, found.confidence)
    before = first.extended(is_broken[:-1])
    assert not before.is_within(TOLERANCE * COUNT)
    assert before.needed(TOLERANCE * COUNT) == 1
    # The limits do not depend on the batches.
    assert (
        before.extended(is_broken[-1:]).limits == first.extended(is_broken).limits == found.limits
    )


@pytest.mark.parametrize(
    ("population", "width", "draws"), [(540, 3.0, 329), (10, 0.0, 10), (10, 10.0, 1)]
)
def test_as_many_images_are_drawn_as_are_needed(population, width, draws):
    sample = sampling.Sample.of(("square",), np.arange(population), 0.95)
    assert sample.needed(width) == draws
    assert sample.extended(np.zeros(draws, bool)).is_within(width)
    assert not sample.extended(np.zeros(draws - 1, bool)).is_within(width)


def test_less_confidence_runs_fewer_images(problem, sampled):
    less = run(problem[0], tolerance=TOLERANCE, confidence=0.6)
    assert less.sample.drawn < sampled.sample.drawn


def test_a_later_call_continues_to_the_exact_verdict(problem, exact, sampled, attacked, tmp_path):
    arguments, broken_by = problem
    attacked.clear()
    path, other = tmp_path / "sampled.npz", tmp_path / "exact.npz"
    first = run(arguments, tolerance=TOLERANCE, path=path)
    assert first.sample.drawn == sampled.sample.drawn
    kept = first.adversarial.copy()
    narrower = run(arguments, tolerance=TOLERANCE / 2, path=path)
    assert narrower.sample is None or narrower.sample.drawn > first.sample.drawn
    last = run(arguments, path=path)
    assert last.sample is None
    # What an earlier call returned is the caller's own.
    np.testing.assert_array_equal(first.adversarial, kept)
    assert last.interval == exact.interval
    np.testing.assert_array_equal(last.adversarial != exact.adversarial, False)
    # Every image that stood was attacked, and once.
    assert [times.total() for times in attacked.values()] == [
        ((broken_by == -1) | (broken_by >= number)).sum() for number in range(3)
    ]
    assert all(times.most_common(1)[0][1] == 1 for times in attacked.values())
    run(arguments, path=other)
    with np.load(path) as one, np.load(other) as two:
        assert sorted(one.files) == sorted(two.files)
        for name in two.files:
            if name != "seconds":
                np.testing.assert_array_equal(one[name], two[name])


class StoppedError(Exception):
    """Stops the evaluation from outside."""


def stop_after(monkeypatch, count):
    written, write = [], VerdictFile.write

    def write_and_stop(file, verdicts):
        write(file, verdicts)
        written.append(verdicts)
        if len(written) == count:
            raise StoppedError

    monkeypatch.setattr(VerdictFile, "write", write_and_stop)


def test_a_stopped_sample_resumes(problem, sampled, tmp_path, monkeypatch):
    arguments, _ = problem
    path = tmp_path / "verdicts.npz"
    with monkeypatch.context() as patch:
        # Two batches into the sample.
        stop_after(patch, COUNT // BATCH + 2)
        with pytest.raises(StoppedError):
            run(arguments, tolerance=TOLERANCE, path=path)
    with np.load(path) as archive:
        assert 0 < archive["drawn"] < sampled.sample.drawn
    resumed = run(arguments, tolerance=TOLERANCE, path=path)
    assert resumed.interval == sampled.interval
    np.testing.assert_array_equal(resumed.not_run, sampled.not_run)
    np.testing.assert_array_equal(resumed.robust, sampled.robust)


@pytest.mark.parametrize("attacks_done", [1, 2])
def test_an_exact_evaluation_can_end_with_a_sample(
    problem, exact, attacked, attacks_done, tmp_path, monkeypatch
):
    arguments, broken_by = problem
    attacked.clear()
    path = tmp_path / "verdicts.npz"
    standing = [int(((broken_by == -1) | (broken_by >= n)).sum()) for n in range(3)]
    with monkeypatch.context() as patch:
        # Two batches into fab-t, or into square.
        stop_after(patch, sum(-(-count // BATCH) for count in standing[:attacks_done]) + 2)
        with pytest.raises(StoppedError):
            run(arguments, path=path)
    result = run(arguments, tolerance=TOLERANCE, path=path)
    assert result.sample.attacks == ATTACKS[attacks_done:]
    low, high = result.interval
    assert low <= exact.robust.mean() <= high <= result.robust.mean()
    last = run(arguments, path=path)
    np.testing.assert_array_equal(last.robust, exact.robust)
    assert all(times.most_common(1)[0][1] == 1 for times in attacked.values())


def test_a_sample_goes_on_to_the_exact_verdict_in_whole_batches(problem, tmp_path, monkeypatch):
    # No image is broken: the limits become certain before the last image.
    arguments = {**problem[0], "epsilon": 1e-6}
    path = tmp_path / "verdicts.npz"
    population = len(run(arguments, tolerance=0.9, path=path).sample.order)
    drawn, extended = [], sampling.Sample.extended
    monkeypatch.setattr(
        sampling.Sample,
        "extended",
        lambda sample, is_broken: drawn.append(len(is_broken)) or extended(sample, is_broken),
    )
    run(arguments, path=path)
    already, *batches = drawn
    assert sum(drawn) == population
    assert len(batches) == -(-(population - already) // BATCH)


def test_the_order_belongs_to_the_images(problem, sampled):
    arguments, _ = problem
    keys = jax.vmap(lambda n: jax.random.fold_in(arguments["key"], n))(jnp.arange(COUNT))
    ranks = sampling.ranks(keys)
    order = sampled.sample.order
    assert (np.diff(ranks[order]) > 0).all()
    np.testing.assert_array_equal(sampling.ranks(keys[3:9]), ranks[3:9])
    assert stats.kstest(ranks / 2.0**64, "uniform").pvalue > 0.01
    assert (sampling.ranks(jax.random.split(jax.random.key(1), COUNT)) != ranks).all()


def test_attacks_without_slow_ones_are_exact(problem, exact):
    result = run(problem[0], attacks=("apgd-ce",), tolerance=0.01)
    assert result.sample is None
    np.testing.assert_array_equal(result.robust, ~exact.by_attack["apgd-ce"])


def test_a_tolerance_that_needs_all_images_gives_the_exact_verdict(problem, exact):
    result = run(problem[0], tolerance=1e-9)
    low, high = result.interval
    assert low == high == exact.robust.mean()


@pytest.mark.slow
def test_intervals_of_other_samples_cover_the_truth_as_often_as_they_claim(problem, exact):
    arguments, _ = problem
    truth, missed = exact.robust.mean(), []
    for seed in range(100):
        result = run(arguments, key=jax.random.key(seed), tolerance=0.2, confidence=0.6)
        low, high = result.interval
        missed.append(not low <= truth <= high)
    assert 0 < np.mean(missed) <= 0.4


def test_square_in_a_sample_gives_a_warning(problem, sampled):
    arguments, broken_by = problem
    with pytest.warns(RobustnessWarning, match="square would lower robust accuracy by at least"):
        autoattack(**arguments, tolerance=TOLERANCE)
    found = sampled.sample
    drawn = int((broken_by[found.order[: found.drawn]] == 2).sum())
    least = anytime.limits(len(found.order), found.drawn, drawn).low
    assert result._least(sampled.by_attack["square"], found) == least <= (broken_by == 2).sum()
    checks.warn_if_square_wins(2, 1000, in_sample=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tolerance": 0.0}, "tolerance: 0.0; expected a number above 0 and below 1"),
        ({"tolerance": -0.1}, "tolerance: -0.1; expected"),
        ({"tolerance": 1.0}, "tolerance: 1.0; expected"),
        ({"tolerance": np.nan}, "tolerance: nan; expected"),
        ({"confidence": 1.0}, "confidence: 1.0; expected"),
        ({"attacks": ("fab-t", "apgd-ce")}, "attacks: fab-t, apgd-ce; expected fab-t and square"),
        (
            {"key": jnp.broadcast_to(jax.random.key(3), (COUNT,))},
            "images 0 and 1 have the same key",
        ),
    ],
)
def test_what_a_tolerance_cannot_mean_is_refused(problem, changed, message):
    with pytest.raises(UserError, match=message):
        autoattack(**{**problem[0], "tolerance": 0.1, **changed})


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (np.array(COUNT + 1), "drawn holds 121 to 121; expected 1 to 120"),
        (np.array(COUNT), "drawn is 120; expected at most"),
        (np.array([1]), r"drawn is int64 of shape \(1,\)"),
        (np.array(0.5), "drawn is float64"),
    ],
)
def test_a_damaged_sample_is_refused(problem, drawn, message, tmp_path):
    arguments, _ = problem
    path = tmp_path / "verdicts.npz"
    run(arguments, tolerance=0.9, path=path, keep_adversarial=False)
    with np.load(path) as archive:
        arrays = {**archive, "drawn": drawn}
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=message):
        autoattack(**arguments, path=path, keep_adversarial=False)
