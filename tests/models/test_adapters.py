"""Flax modules of any form as the trainer calls them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bat_jax import models
from bat_jax.errors import UserError
from bat_jax.models import adapted, pretrained

IMAGES = np.linspace(0, 1, 4 * 3 * 3, dtype=np.float32).reshape(4, 3, 3, 1)
RNGS = {"params": jax.random.key(3)}


@pytest.fixture(autouse=True)
def _promotes_as_jax_does():
    """Modules of users promote as JAX does by default."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Net(nnx.Module):
    """A layer in a list, batch norm, dropout and a constant."""

    def __init__(self, rngs, *, counted=False):
        self.layers = nnx.List([nnx.Linear(9, 4, rngs=rngs)])
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)
        self.scale = nnx.Variable(jnp.float32(2.0))
        self.counted = counted

    def __call__(self, images, features=False):
        x = self.norm(self.layers[0](images.reshape(len(images), -1)))
        x = self.dropout(x)
        logits = self.scale[...] * self.head(x)
        if self.counted:
            self.scale[...] += 1.0
        return (logits, x) if features else logits


class Bare(nn.Module):
    """Dropout and no features, with the switch that many modules have."""

    @nn.compact
    def __call__(self, images, *, deterministic):
        x = nn.Dense(5, name="first")(images.reshape(len(images), -1))
        x = nn.Dropout(0.5, deterministic=deterministic, rng_collection="drop_path")(x)
        return nn.Dense(3, name="head")(x)


def test_an_nnx_module_keeps_its_values_and_moves_its_statistics_alone():
    module = Net(nnx.Rngs(0))
    model = adapted(module)
    variables = model.init(jax.random.key(1), IMAGES)
    np.testing.assert_array_equal(
        variables["params"]["layers"]["0"]["kernel"], module.layers[0].kernel[...]
    )
    apply = jax.jit(model.apply, static_argnames=("train", "features", "mutable"))
    (logits, features), updated = apply(
        variables, IMAGES, train=True, features=True, mutable=("batch_stats",), rngs=RNGS
    )
    assert logits.shape == (4, 3)
    assert features.shape == (4, 4)
    hidden = IMAGES.reshape(4, -1) @ np.asarray(module.layers[0].kernel[...])
    moved = updated["batch_stats"]["norm"]["mean"]
    np.testing.assert_allclose(moved, 0.5 * hidden.mean(0), rtol=1e-5, atol=1e-6)
    # The module itself is untouched, and evaluation normalises by the statistics given.
    np.testing.assert_array_equal(module.norm.mean[...], np.zeros(4))
    evaluated = apply({**variables, **updated}, IMAGES)
    module.norm.mean[...] = updated["batch_stats"]["norm"]["mean"]
    module.norm.var[...] = updated["batch_stats"]["norm"]["var"]
    module.eval()
    np.testing.assert_allclose(evaluated, module(jnp.asarray(IMAGES)), rtol=1e-4, atol=1e-5)


def test_dropout_of_nnx_follows_the_key():
    model = adapted(Net(nnx.Rngs(0)))
    variables = model.init(jax.random.key(1), IMAGES)

    @jax.jit
    def dropped(key):
        outputs = model.apply(
            variables, IMAGES, train=True, features=True, mutable=["batch_stats"], rngs=key
        )
        return outputs[0][1]

    first, again = dropped(RNGS), dropped(RNGS)
    other = dropped({"params": jax.random.key(4)})
    np.testing.assert_array_equal(first, again)
    assert np.any((first == 0) != (other == 0))


def test_a_function_of_rngs_draws_by_the_key_and_keeps_constants():
    model = adapted(lambda rngs: Net(rngs))
    init = jax.jit(model.init)
    drawn, again, other = (init(jax.random.key(seed), IMAGES) for seed in (0, 0, 1))
    kernels = [found["params"]["head"]["kernel"] for found in (drawn, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.any(kernels[0] != kernels[2])
    direct = adapted(Net(nnx.Rngs(5)))
    # Variables may be on the host, as those that `fit` returns.
    held = jax.device_get(drawn)
    np.testing.assert_array_equal(model.apply(drawn, IMAGES), direct.apply(held, IMAGES))
    assert models.path_of(model) == f"{__name__}:Net"


def test_a_linen_module_without_features_gives_none():
    model = adapted(Bare())
    variables = model.init(jax.random.key(0), IMAGES)
    logits, features = model.apply(variables, IMAGES, features=True)
    assert features is None
    np.testing.assert_array_equal(logits, model.apply(variables, IMAGES))
    (dropped, _), updated = model.apply(
        variables, IMAGES, train=True, features=True, mutable=["batch_stats"], rngs=RNGS
    )
    assert not updated
    assert np.any(dropped != logits)


def test_pretrained_variables_start_the_training_except_for_fresh_parts():
    given = jax.tree.map(np.asarray, adapted(Bare()).init(jax.random.key(0), IMAGES))
    model = pretrained(Bare(), given, fresh=("head",))
    started = jax.jit(model.init)(jax.random.key(1), IMAGES)
    np.testing.assert_array_equal(
        started["params"]["first"]["kernel"], given["params"]["first"]["kernel"]
    )
    assert np.any(started["params"]["head"]["kernel"] != given["params"]["head"]["kernel"])
    np.testing.assert_array_equal(model.apply(given, IMAGES), adapted(Bare()).apply(given, IMAGES))


def test_a_fresh_part_starts_with_its_own_batch_statistics():
    class Head(nn.Module):
        classes: int

        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=True)(nn.Dense(self.classes)(x))

    class Normed(nn.Module):
        classes: int

        @nn.compact
        def __call__(self, images):
            return Head(self.classes, name="head")(images.reshape(len(images), -1))

    given = jax.tree.map(lambda leaf: leaf + 7, adapted(Normed(2)).init(jax.random.key(0), IMAGES))
    for classes in (2, 3):
        started = pretrained(Normed(classes), given, fresh=("head",)).init(
            jax.random.key(1), IMAGES
        )
        mean = started["batch_stats"]["head"]["BatchNorm_0"]["mean"]
        np.testing.assert_array_equal(mean, np.zeros(classes))


def test_pretrained_variables_of_another_model_are_refused():
    given = jax.tree.map(np.asarray, adapted(Bare()).init(jax.random.key(0), IMAGES))
    given["params"]["head"]["kernel"] = np.zeros((5, 7), np.float32)
    for fresh, words in (
        ((), r"Bare: params/head/kernel has shape \(5, 7\); expected \(5, 3\)"),
        (("tail",), "fresh names 'tail'; expected parts of params, some of first, head"),
    ):
        with pytest.raises(UserError, match=words):
            pretrained(Bare(), given, fresh=fresh).init(jax.random.key(1), IMAGES)


def test_fields_of_a_wrapped_module_are_replaced():
    class Typed(nn.Module):
        dtype: type = jnp.bfloat16

        @nn.compact
        def __call__(self, images):
            return nn.Dense(3, dtype=self.dtype)(images.reshape(len(images), -1))

    variables = adapted(Typed()).init(jax.random.key(0), IMAGES)
    model = models.in_float32(pretrained(Typed(), variables))
    assert model.apply(variables, IMAGES).dtype == jnp.float32


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (5, "model is a value of type int; expected a Flax module"),
        (Bare, r"model is the class Bare; expected a module of it: Bare\(\.\.\.\), with"),
        (dict, r"type type \(calling it with nnx.Rngs fails: .*\); expected"),
        (lambda rngs: 3, "model is a value of type function; expected a Flax module"),
        (lambda rngs: 1 / 0, "fails: ZeroDivisionError at test_adapters.py, line"),
    ],
)
def test_what_is_no_model_is_named(model, words):
    with pytest.raises(UserError, match=words):
        adapted(model)


def test_a_variable_that_changes_without_being_declared_is_named():
    model = adapted(Net(nnx.Rngs(0), counted=True))
    variables = model.init(jax.random.key(0), IMAGES)
    with pytest.raises(UserError, match="model Net: changes scale, a variable of type Variable"):
        jax.eval_shape(lambda: model.apply(variables, IMAGES))


class _OfUser(nn.Module):
    """A module whose `conv` is a class of modules, as in Flax's own ResNet."""

    conv: Any = nn.Conv

    @nn.compact
    def __call__(self, images, *, train=False, features=False):
        maps = self.conv(4, (3, 3))(images).mean(axis=(1, 2))
        logits = nn.Dense(3)(maps)
        return (logits, maps) if features else logits


def test_a_field_conv_that_makes_modules_is_the_users_own():
    model = models.adapted(_OfUser())
    assert models.module_of(models.with_conv(model, jax.lax.conv_general_dilated)).conv is nn.Conv
