"""Optimizers against NumPy in float64, and options that they cannot take."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import config as configs
from bat_jax import overrides
from bat_jax.errors import UserError
from bat_jax.runtime import workdir
from bat_jax.training import optimizers
from bat_jax.training.building import build
from bat_jax.training.saved import read_run

GENERATOR = np.random.default_rng(0)
WEIGHTS = {"body": GENERATOR.normal(size=(3, 2)), "head": GENERATOR.normal(size=(2,))}
GRADIENTS = [{name: GENERATOR.normal(size=w.shape) for name, w in WEIGHTS.items()} for _ in "abc"]
RATE = 0.1


def section(**fields):
    """Returns the section `train.optimizer` with some fields changed."""
    config = configs.default().train.optimizer
    for name, value in fields.items():
        config[name] = value
    return config


def trained(**fields):
    """Returns the weights after the gradients."""
    optimizer = optimizers.create(section(**fields), lambda step: RATE)
    params = {name: {"w": jnp.float32(weight)} for name, weight in WEIGHTS.items()}
    opt_state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for gradient in GRADIENTS:
        tree = {name: {"w": np.float32(g)} for name, g in gradient.items()}
        updates, opt_state = update(tree, opt_state, params)
        params = jax.tree.map(np.add, params, updates)
    return {name: np.asarray(part["w"]) for name, part in params.items()}


def expected(update, *, factor=lambda name: 1.0, scale=lambda gradient: 1.0):
    """Returns the weights after steps of `update`, from a gradient and a memory to both."""
    weights, memory = dict(WEIGHTS), dict.fromkeys(WEIGHTS, 0.0)
    for gradient in GRADIENTS:
        size = scale(gradient)
        for name, weight in weights.items():
            step, memory[name] = update(name, size * gradient[name], weight, memory[name])
            weights[name] = weight - RATE * factor(name) * step
    return weights


def assert_same(found, weights):
    for name, weight in weights.items():
        np.testing.assert_allclose(found[name], weight, rtol=2e-5)


def sgd(decay=0.0, decayed=("body", "head")):
    def update(name, gradient, weight, velocity):
        velocity = 0.9 * velocity + gradient + decay * weight * (name in decayed)
        return velocity, velocity

    return update


def lion(name, gradient, weight, momentum):
    # Chen et al., arXiv:2302.06675, with decay of weights alone.
    step = np.sign(0.8 * momentum + 0.2 * gradient) + 0.3 * weight * (name == "body")
    return step, 0.99 * momentum + 0.01 * gradient


def test_any_optimizer_of_optax_takes_its_options_and_the_decay():
    found = trained(name="optax:lion", options={"b1": 0.8}, weight_decay=0.3, decay_all=False)
    assert_same(found, expected(lion))


def test_an_optimizer_without_a_decay_gets_that_of_sgd():
    found = trained(name="optax:sgd", options={"momentum": 0.9}, weight_decay=0.2)
    assert_same(found, expected(sgd(0.2)))


def test_biases_and_norms_are_not_decayed_on_request():
    found = trained(weight_decay=0.2, decay_all=False)
    assert_same(found, expected(sgd(0.2, ["body"])))


def test_gradients_are_clipped_by_the_norm_of_all_parameters():
    def scale(gradient):
        norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        return min(1.0, 2.0 / norm)

    scales = [scale(gradient) for gradient in GRADIENTS]
    assert min(scales) < 1
    found = trained(weight_decay=0.2, clip_norm=2.0)
    assert_same(found, expected(sgd(0.2), scale=scale))


def test_layers_near_the_input_learn_more_slowly():
    found = trained(weight_decay=0.0, layer_decay=0.5, layers=("body", "head"))
    assert_same(found, expected(sgd(), factor=lambda name: 0.5 if name == "body" else 1.0))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "adam"}, "name is 'adam'; expected sgd, adamw or optax:NAME"),
        ({"name": "optax:"}, "name is 'optax:'; expected sgd, adamw or"),
        ({"name": "optax:softmax_cross_entropy"}, "expected an optimizer of optax"),
        ({"name": "optax:lyon"}, r"name is 'optax:lyon'; expected an optimizer of optax \d"),
        ({"name": "optax:lion", "options": {"b3": 1.0}}, "options has b3; expected arguments of"),
        ({"name": "optax:lion", "options": {"b1": "a"}}, "with options {'b1': 'a'.*; it fails"),
        (
            {"name": "optax:adam", "options": {"mu_dtype": np.float32}},
            "options has mu_dtype <class",
        ),
        ({"name": "optax:adam", "options": {"eps": float("inf")}}, "has eps inf; expected finite"),
        ({"name": "optax:polyak_sgd"}, "expected an optimizer of optax"),
        ({"name": "optax:lbfgs"}, "it fails .*expected an optimizer that needs nothing but"),
        ({"name": "optax:novograd", "decay_all": False}, "whose weight decay takes no mask"),
        ({"name": "optax:lion", "momentum": 0.5}, r"momentum is 0\.5; expected its default, 0\.9"),
        ({"options": {"b1": 0.5}}, "expected none with sgd, which has fields of its own"),
        ({"layer_decay": 0.5}, r"layer_decay is 0\.5; expected 1 without config"),
        ({"layer_decay": 0.5, "layers": ("head", "tail")}, r"expected every part .*Conv_0, head"),
        ({"clip_norm": 0.0}, r"clip_norm is 0\.0; expected above 0"),
    ],
)
def test_what_an_optimizer_cannot_take_is_named(tiny_config, fields, words):
    config = tiny_config("standard")
    for name, value in fields.items():
        config.train.optimizer[name] = value
    with pytest.raises(UserError, match=words):
        build(config)


def test_options_come_from_the_command_line_and_return_from_a_run(tiny_config, tmp_path):
    config = tiny_config("standard", **{"train.optimizer.name": "optax:adam"})
    change = overrides.Override("train.optimizer.options", "{'b1': 0.5, 'nesterov': True}")
    overrides.apply(config, [change])
    experiment = build(config)
    (tmp_path / "run").mkdir()
    workdir.claim(
        tmp_path / "run", config, experiment.digests(), defaults=configs.defaults_of(config)
    )
    options = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["train"]
    assert options["optimizer"]["options"] == {"b1": 0.5, "nesterov": True}
    again = read_run(tmp_path / "run").config
    assert again.train.optimizer.options.to_dict() == {"b1": 0.5, "nesterov": True}
    config.train.optimizer.options.b1 = 0.6
    defaults, digests = configs.defaults_of(config), experiment.digests()
    with pytest.raises(UserError, match=r"train\.optimizer\.options"):
        workdir.claim(tmp_path / "run", config, digests, defaults=defaults)
