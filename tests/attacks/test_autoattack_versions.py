"""The L1 ball and the versions `plus` and `rand` against Croce and Hein's PyTorch implementation.

tests/golden/make_autoattack_versions.py made the reference: the first 100 Fashion-MNIST test images
and an adversarially trained network; for `rand`, the network behind Gaussian noise.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.attacks import autoattack
from tests.attacks.test_autoattack_golden import EPSILON, problem

REFERENCE = Path(__file__).parents[1] / "golden" / "autoattack_versions.npz"
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
L1 = 4.0
PLUS = ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")
NOISE = 0.2
SEEDS = 1
DRAWS = 200


@functools.cache
def reference():
    with np.load(REFERENCE, allow_pickle=False) as archive:
        return dict(archive)


def golden(*names):
    """Returns arrays of the reference."""
    return [reference()[name] for name in names]


def withstood(name, norm, epsilon, version="standard"):
    """Returns which images of the problem withstand one attack."""
    return autoattack(
        *problem("adversarial", 100),
        jax.random.key(0),
        epsilon=epsilon,
        norm=norm,
        version=version,
        attacks=(name,),
        batch_size=104,
        keep_adversarial=False,
    ).robust


@pytest.mark.slow
@pytest.mark.parametrize(("version", "attacks"), [("standard", STANDARD), ("plus", PLUS)])
def test_l1_leaves_the_images_that_the_reference_leaves(version, attacks):
    arrays = golden(*(f"{version}/l1/{name}" for name in attacks))
    theirs = dict(zip(attacks, arrays, strict=True))
    found = {name: withstood(name, "l1", L1, version) for name in attacks}
    found["all"] = np.all([*found.values()], axis=0)
    # Attacks without random starts have one seed.
    theirs["all"] = np.array(
        [
            np.all([one[min(seed, len(one) - 1)] for one in theirs.values()], axis=0)
            for seed in range(max(map(len, arrays)))
        ]
    )
    for name, robust in found.items():
        expected, *others = theirs[name]
        equal, own = (robust == expected).mean(), [(one == expected).mean() for one in others]
        counts = f"{robust.sum()}, {theirs[name].sum(axis=1)}"
        print(f"l1 {version} {name}: {counts}; equal {equal}, seeds {own}")
        # Its own seeds differ; no more images are left than by the worst of them, but for two.
        assert robust.sum() <= theirs[name].sum(axis=1).max() + 2
        assert equal >= min([0.98, *own]) - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_plus_leaves_the_images_that_the_reference_leaves(norm):
    left = []
    for name in PLUS:
        robust = withstood(name, norm, EPSILON[norm], "plus")
        expected = reference()[f"plus/{norm}/{name}"]
        print(f"{norm} {name}: {robust.sum()} {expected.sum()} equal {(robust == expected).sum()}")
        assert (robust == expected).mean() >= 0.96
        left.append((robust, expected))
    ours, theirs = (np.all(rows, axis=0) for rows in zip(*left, strict=True))
    print(f"{norm} plus: {ours.sum()} {theirs.sum()} equal {(ours == theirs).sum()}")
    assert (ours == theirs).mean() >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "prefix"), [("linf", "rand"), ("l2", "rand/l2")])
def test_rand_is_no_weaker_than_the_reference(norm, prefix):
    standing, right, right_clean = golden(f"{prefix}/robust", f"{prefix}/right", "rand/clean")
    logits_fn, images, labels = problem("adversarial", 100)

    def noisy(x, key):
        return logits_fn(x + NOISE * jax.random.normal(key, x.shape))

    @jax.jit
    def shares(x, key):
        def is_right(key):
            return jnp.argmax(noisy(x, key), axis=-1) == labels

        return jnp.mean(jax.lax.map(is_right, jax.random.split(key, DRAWS)), axis=0)

    found, robust = [], []
    for seed in range(SEEDS):
        result = autoattack(
            noisy,
            images,
            labels,
            jax.random.key(seed),
            epsilon=EPSILON[norm],
            norm=norm,
            version="rand",
            batch_size=104,
        )
        found.append(np.asarray(shares(result.adversarial, jax.random.key(100 + seed))))
        robust.append(result.robust)
    clean = np.asarray(shares(images, jax.random.key(99)))
    theirs, expected = right / DRAWS, right_clean / DRAWS
    print(f"{norm} clean: {clean.mean():.4f} {expected.mean():.4f}")
    print(f"robust: {np.mean(robust, axis=1)} {standing.mean(axis=1)}")
    print(f"right in further draws: {np.mean(found, axis=1)} {theirs.mean(axis=1)}")
    # The noise gives both sides the same probabilities on clean images.
    assert abs(clean - expected).max() < 0.2
    assert abs(clean.mean() - expected.mean()) < 0.02
    # The image that is returned, or the clean one, is classified correctly no more often.
    assert np.mean(found) <= theirs.mean() + 0.03
