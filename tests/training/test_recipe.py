"""Switches of the recipe against NumPy in float64, and methods that cannot take them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import config as configs
from bat_jax import losses
from bat_jax.errors import UserError
from bat_jax.training import averaging, state
from bat_jax.training.experiment import build
from tests.methods.test_methods import from_outside
from tests.training.test_step import order_of, run


def train_config(**fields):
    """Returns the section `train` with some fields changed."""
    config = configs.default().train
    config.update_from_flattened_dict(fields)
    return config


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def smoothed(labels, classes, amount):
    return (1 - amount) * np.eye(classes)[labels] + amount / classes


def test_label_smoothing_enters_the_cross_entropy_of_trades_and_not_its_divergence():
    generator = np.random.default_rng(0)
    clean, adversarial = generator.normal(size=(2, 6, 5)) * 3
    labels = np.arange(6) % 5
    target = smoothed(labels, 5, 0.1)
    p, q = log_softmax(clean), log_softmax(adversarial)
    expected = -(target * p).sum(1) + 6 * (np.exp(p) * (p - q)).sum(1)
    found = losses.trades(
        jnp.float32(clean),
        jnp.float32(adversarial),
        jnp.asarray(labels),
        beta=6.0,
        targets=losses.label_smoothing(jnp.asarray(labels), 5, amount=0.1),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_smoothed_labels_reach_the_loss_of_a_step(tiny_config):
    config = tiny_config("standard", **{"train.label_smoothing": 0.3})
    _, metrics = run(config, steps=1)
    experiment = build(config)
    rows = np.asarray(order_of(experiment))[0]
    logits = experiment.model.apply(
        experiment.initial_state().variables,
        jnp.asarray(experiment.train.images[rows] / np.float32(255)),
    )
    target = smoothed(experiment.train.labels[rows], 10, 0.3)
    expected = -(target * log_softmax(np.float64(logits))).sum(1).mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (("mart", {}), "objective mart, whose loss takes labels"),
        ("Remembering", "whose loss takes labels, not class probabilities"),
        ("Smoothed", "objective smoothed, which makes targets of its own"),
    ],
)
def test_a_method_that_cannot_smooth_labels_is_named(tiny_config, config, words):
    amount = {"train.label_smoothing": 0.1}
    if isinstance(config, str):
        made = from_outside(config, **amount)
    else:
        made = tiny_config(config[0], **amount)
    with pytest.raises(UserError, match=r"config\.train\.label_smoothing is 0\.1; expected 0 for"):
        build(made)
    with pytest.raises(UserError, match=words):
        build(made)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train.label_smoothing": 1.0}, r"label_smoothing is 1\.0; expected 0 or more and below"),
        (
            {"train.schedule.name": "one_cycle", "train.schedule.warmup_epochs": 1.0},
            r"warmup_epochs is 1\.0; expected 0 with one_cycle",
        ),
        (
            {"train.optimizer.nesterov": True, "train.optimizer.momentum": 0.0},
            "nesterov is True; expected False without momentum",
        ),
        (
            {"train.optimizer.nesterov": True, "train.optimizer.name": "adamw"},
            "nesterov is True; expected False with adamw",
        ),
        ({"train.ema_warmup": True}, "ema_warmup is True; expected its default"),
        ({"train.ema_statistics": "live"}, "ema_statistics is live; expected its default"),
    ],
)
def test_switches_that_exclude_each_other_are_named(tiny_config, fields, words):
    with pytest.raises(UserError, match=words):
        configs.check(tiny_config("pgd_at", **fields))


def test_the_average_rises_to_its_decay_as_the_literature_has_it():
    config = train_config(ema=0.3, ema_warmup=True, ema_statistics="live")
    generator = np.random.default_rng(1)
    weights, statistics = generator.normal(size=(2, 8, 3))
    average = {"params": jnp.float32(weights[0]), "batch_stats": jnp.float32(statistics[0])}
    expected = weights[0]
    for step in range(7):
        variables = {
            "params": jnp.float32(weights[step + 1]),
            "batch_stats": jnp.float32(statistics[step + 1]),
        }
        average = averaging.updated(average, variables, jnp.int32(step), config)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights[step + 1]
        np.testing.assert_allclose(average["params"], expected, rtol=1e-5)
        np.testing.assert_array_equal(average["batch_stats"], variables["batch_stats"])


def updates(config, gradients, weights):
    """Returns the weights after each gradient, by the optimiser of a config at a rate of 0.1."""
    optimizer = state.optimizer(config.optimizer, lambda step: 0.1)
    params = {"kernel": jnp.float32(weights)}
    opt_state, found = optimizer.init(params), []
    for gradient in gradients:
        changes, opt_state = optimizer.update({"kernel": jnp.float32(gradient)}, opt_state, params)
        params = jax.tree.map(jnp.add, params, changes)
        found.append(params["kernel"])
    return np.asarray(found)


def test_nesterov_and_adamw_are_their_published_updates():
    generator = np.random.default_rng(2)
    weights, gradients = generator.normal(size=(3, 2)), generator.normal(size=(4, 3, 2))
    nesterov = train_config(**{"optimizer.nesterov": True, "optimizer.weight_decay": 0.01})
    adamw = train_config(
        **{
            "optimizer.name": "adamw",
            "optimizer.second_momentum": 0.99,
            "optimizer.weight_decay": 0.2,
        }
    )
    w, velocity, expected = weights, 0.0, []
    for gradient in gradients:
        decayed = gradient + 0.01 * w
        velocity = 0.9 * velocity + decayed
        w = w - 0.1 * (decayed + 0.9 * velocity)
        expected.append(w)
    np.testing.assert_allclose(updates(nesterov, gradients, weights), expected, rtol=1e-5)

    w, first, second, expected = weights, 0.0, 0.0, []
    for t, gradient in enumerate(gradients, 1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        ratio = (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.99**t)) + 1e-8)
        w = w - 0.1 * (ratio + 0.2 * w)
        expected.append(w)
    np.testing.assert_allclose(updates(adamw, gradients, weights), expected, rtol=1e-4)
