"""The version `plus` against Croce and Hein's PyTorch implementation.

tests/golden/make_autoattack_versions.py made the reference: the first 100 Fashion-MNIST test images
and an adversarially trained network.
"""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest

from bat_jax.attacks import autoattack
from tests.attacks.test_autoattack_golden import EPSILON, problem

REFERENCE = Path(__file__).parents[1] / "golden" / "autoattack_versions.npz"
PLUS = ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")


@functools.cache
def reference():
    with np.load(REFERENCE, allow_pickle=False) as archive:
        return dict(archive)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf"])
def test_plus_leaves_the_images_that_the_reference_leaves(norm):
    logits_fn, images, labels = problem("adversarial", 100)
    left = []
    for name in PLUS:
        robust = autoattack(
            logits_fn,
            images,
            labels,
            jax.random.key(0),
            epsilon=EPSILON[norm],
            norm=norm,
            version="plus",
            attacks=(name,),
            batch_size=104,
            keep_adversarial=False,
        ).robust
        expected = reference()[f"plus/{norm}/{name}"]
        print(f"{norm} {name}: {robust.sum()} {expected.sum()} equal {(robust == expected).sum()}")
        assert (robust == expected).mean() >= 0.96
        left.append((robust, expected))
    ours, theirs = (np.all(rows, axis=0) for rows in zip(*left, strict=True))
    print(f"{norm} plus: {ours.sum()} {theirs.sum()} equal {(ours == theirs).sum()}")
    assert (ours == theirs).mean() >= 0.98
