"""Attacks may search in a lower precision; only the float32 model decides what is broken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.attacks import autoattack
from bat_jax.attacks.checks import RobustnessWarning
from bat_jax.errors import UserError
from tests.attacks import linear

ATTACKS = ("apgd-ce",)


@pytest.fixture(scope="module")
def problem():
    """Returns the arguments, and whether each image withstands every perturbation."""
    logits_fn, weights, images, labels = linear.problem(count=32)
    epsilon = linear.median_radius(weights, images, labels, "linf")
    arguments = {
        "logits_fn": logits_fn,
        "images": images,
        "labels": labels,
        "key": jax.random.key(0),
        "epsilon": epsilon,
        "attacks": ATTACKS,
        "batch_size": 32,
    }
    return arguments, linear.distances(weights, images, labels, "linf") > epsilon


@pytest.fixture(scope="module")
def exact(problem):
    return autoattack(**problem[0])


def coarse(logits_fn):
    """Returns the model in bfloat16 with logits around 300, which it rounds to multiples of 2.

    A conversion instead would be skipped by compilers that may compute more precisely.
    """

    def search_fn(x):
        return jax.lax.reduce_precision(300 + logits_fn(x), exponent_bits=8, mantissa_bits=7)

    return search_fn


def assert_same(found, expected):
    np.testing.assert_array_equal(found.robust, expected.robust)
    np.testing.assert_array_equal(found.adversarial, expected.adversarial)


def test_rounding_breaks_no_image(problem, exact):
    arguments, stands = problem
    logits_fn = arguments["logits_fn"]
    found = autoattack(**arguments, search_fn=coarse(logits_fn))
    rounded = autoattack(**{**arguments, "logits_fn": coarse(logits_fn)})
    # The coarse model is misclassified where the exact one withstands every perturbation.
    assert (stands & rounded.clean & ~rounded.robust).any()
    assert found.robust[stands].all()
    np.testing.assert_array_equal(found.clean, exact.clean)
    broken = ~found.robust
    predicted = np.asarray(jnp.argmax(logits_fn(found.adversarial), axis=-1))
    np.testing.assert_array_equal(predicted[broken] == arguments["labels"][broken], False)
    assert (found.robust == exact.robust).mean() > 0.9


def test_images_whose_break_is_refuted_are_attacked_again(problem, exact):
    arguments, _ = problem
    # Whatever the search claims is wrong, so that every verdict is that of the second attack.
    with pytest.warns(RobustnessWarning, match="search_fn: predicts another class than"):
        found = autoattack(**arguments, search_fn=lambda x: -arguments["logits_fn"](x))
    assert_same(found, exact)


def test_bfloat16_finds_what_float32_finds(problem, exact):
    arguments, _ = problem

    def search_fn(x):
        return arguments["logits_fn"](x.astype(jnp.bfloat16).astype(jnp.float32))

    found = autoattack(**arguments, search_fn=search_fn)
    np.testing.assert_array_equal(found.robust, exact.robust)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search_fn": lambda x: x[:, 0, :5, 0]}, r"search_fn: returned logits of 5 classes; .* 6"),
        ({"search_fn": lambda x, key: x}, r"search_fn: takes \(x, key\); expected \(images\)"),
        (
            {
                "logits_fn": lambda x, key: x[:, 0, :6, 0],
                "search_fn": lambda x: x[:, 0, :6, 0],
                "version": "rand",
                "attacks": None,
            },
            "search_fn: given with eot; expected None",
        ),
    ],
)
def test_search_functions_that_cannot_be_used_are_refused(problem, options, message):
    with pytest.raises(UserError, match=message):
        autoattack(**{**problem[0], **options})


def test_a_file_does_not_mix_searches(problem, tmp_path):
    arguments, _ = problem
    options = {"keep_adversarial": False, "path": tmp_path / "verdicts.npz"}
    autoattack(**arguments, **options)
    with pytest.raises(UserError, match="search_fn differ; search_fn was None and is True"):
        autoattack(**arguments, **options, search_fn=arguments["logits_fn"])
