"""Switches of the recipe against NumPy in float64, and methods that cannot take them."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import config as configs
from bat_jax import keys, losses, parallel
from bat_jax.data import mixing
from bat_jax.errors import UserError
from bat_jax.training import averaging, optimizers
from bat_jax.training.building import build
from bat_jax.training.step import training_attack
from tests.methods.test_methods import from_outside
from tests.networks import Normalized
from tests.training.conftest import built
from tests.training.test_step import assert_close, order_of, run


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
    experiment = built(config)
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
        (
            {"attack.start_radius": 2.0},
            r"attack\.start_radius is 2\.0; expected at most 1 with projection",
        ),
        ({"attack.project": False}, r"attack\.project is False; expected True for 2 steps"),
        (
            {"train.swa_start_epoch": 1, "train.ema": 0.9},
            r"swa_start_epoch is 1 and config\.train\.ema is 0\.9; expected only one of them",
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
        average = averaging.updated(average, variables, jnp.int32(step), config, steps_per_epoch=4)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights[step + 1]
        np.testing.assert_allclose(average["params"], expected, rtol=1e-5)
        np.testing.assert_array_equal(average["batch_stats"], variables["batch_stats"])


def test_epochs_are_averaged_equally_from_their_start_on():
    config = train_config(swa_start_epoch=1)
    weights = np.random.default_rng(4).normal(size=(9, 3))
    average = {"params": jnp.float32(weights[0])}
    for step in range(8):
        average = averaging.updated(
            average,
            {"params": jnp.float32(weights[step + 1])},
            jnp.int32(step),
            config,
            steps_per_epoch=2,
        )
        # Epochs of two steps: those of index 1, 2 and 3 end with the weights 4, 6 and 8.
        ended = [end for end in (4, 6, 8) if end <= step + 1]
        expected = weights[ended].mean(axis=0) if ended else weights[step + 1]
        np.testing.assert_allclose(average["params"], expected, rtol=1e-5)


def test_statistics_of_a_batch_are_recovered_from_any_moving_average():
    generator = np.random.default_rng(5)
    images = jnp.float32(generator.uniform(size=(8, 4, 4, 3)) * [1.0, 1e3, 1e-3])

    def trained(variables, images):
        before = variables["batch_stats"]
        moved = 0.7 * before + 0.3 * jnp.mean(images, axis=(0, 1, 2))
        return None, {"batch_stats": moved}

    found = averaging.batch_statistics(trained, {"batch_stats": jnp.zeros(3)}, images)
    np.testing.assert_allclose(found, np.float64(images).mean((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("parts", [1, 16])
def test_the_average_of_epochs_gets_statistics_of_its_own(tiny_config, parts):
    """Those of an accumulated batch are the means over its parts, as in training."""
    config = tiny_config(
        "standard",
        **{"train.swa_start_epoch": 0, "train.accumulation": parts, "parallel.devices": 2},
    )
    experiment = dataclasses.replace(built(config), model=Normalized(sync=True))
    state, data, root = experiment.initial_state(), experiment.train_data(), experiment.root()
    order = parallel.replicate(order_of(experiment), experiment.mesh)
    average = jax.device_get(state.ema)
    ended = experiment.refreshed(state.replace(step=state.step + len(order)), data, order, root)
    assert not np.allclose(ended.ema["batch_stats"]["BatchNorm_0"]["mean"], 0.0)
    convolved = []
    for rows in np.asarray(order):
        images = jnp.asarray(experiment.train.images[rows] / np.float32(255))
        found = nn.Conv(4, (3, 3)).apply({"params": average["params"]["Conv_0"]}, images)
        # A part is one of each device's share.
        shares = np.float64(found).reshape(2, parts, -1, *found.shape[1:])
        convolved += [np.concatenate(shares[:, part]) for part in range(parts)]
    for name, statistic in (("mean", np.mean), ("var", np.var)):
        expected = np.mean([statistic(found, axis=(0, 1, 2)) for found in convolved], axis=0)
        measured = ended.ema["batch_stats"]["BatchNorm_0"][name]
        np.testing.assert_allclose(measured, expected, rtol=1e-3, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, ended.ema["params"], average["params"])


def updates(config, gradients, weights):
    """Returns the weights after each gradient, by the optimiser of a config at a rate of 0.1."""
    optimizer = optimizers.create(config.optimizer, lambda step: 0.1)
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


@pytest.mark.parametrize("objective", ["pgd_at", "te"])
def test_epsilon_warms_up_by_steps(tiny_config, objective):
    """With four steps per epoch, the first of eight has an eighth of epsilon."""
    # An attack that knows earlier predictions warms up too.
    fields = {"objective.te.start_epoch": 0.0, "objective.te.ramp_epochs": 0.0}
    warmed, _ = run(tiny_config(objective, **fields, **{"attack.warmup_epochs": 2.0}), steps=1)
    small, _ = run(tiny_config(objective, **fields, **{"attack.epsilon": 0.1 / 8}), steps=1)
    assert_close(warmed.variables, small.variables, rtol=1e-5, atol=1e-7)


def test_mixed_images_and_targets_reach_a_step_on_any_number_of_devices(tiny_config):
    """The loss of a step is that of the mixed batch, made by hand from the step's own draws."""
    fields = {"data.cutmix": True, "train.label_smoothing": 0.1, "parallel.devices": 2}
    config = tiny_config("standard", **fields)
    _, metrics = run(config, steps=1)
    experiment = built(config)
    rows = np.asarray(order_of(experiment))[0]
    images = np.float64(experiment.train.images[rows]) / 255
    target = smoothed(experiment.train.labels[rows], 10, 0.1)
    key = keys.derive(config.seed, keys.Purpose.MIXING, 0)
    mix = jax.device_get(mixing.draw(key, 64, 8, 8))
    inside = np.asarray(mixing.box(mix.center, mix.size, 8, 8))
    assert 0 < inside.mean() < 1
    mixed = np.where(inside[None, :, :, None], images[mix.permutation], images)
    target = (1 - inside.mean()) * target + inside.mean() * target[mix.permutation]
    logits = experiment.model.apply(
        experiment.initial_state().variables, jnp.asarray(np.float32(mixed))
    )
    expected = -(target * log_softmax(np.float64(logits))).sum(1).mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize(("is_mixed", "loss"), [(False, "kl"), (True, "cross_entropy")])
def test_trades_attacks_the_cross_entropy_of_mixed_images(tiny_config, is_mixed, loss):
    experiment = built(tiny_config("trades", **{"data.cutmix": is_mixed}))
    attack = training_attack(experiment.config, experiment.method.attack, experiment.programs)
    assert attack.loss == loss


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("bat", "objective bat, which weights images by their labels"),
        ("gairat", "objective gairat, which weights images"),
        ("te", "objective te, which remembers every example: mixed images are of two"),
        ("mart", r"data\.cutmix is True; expected False for the objective mart, whose loss takes"),
    ],
)
def test_a_method_that_cannot_mix_images_is_named(tiny_config, objective, words):
    with pytest.raises(UserError, match=words):
        build(tiny_config(objective, **{"data.cutmix": True}))


@pytest.mark.parametrize(
    ("objective", "fields"), [("trades", {}), ("te", {"objective.te.base": "trades"})]
)
def test_a_divergence_needs_a_random_start(tiny_config, objective, fields):
    fields = {**fields, "attack.random_start": False}
    with pytest.raises(UserError, match=rf"random_start is False; expected True .* {objective}"):
        build(tiny_config(objective, **fields))
    build(tiny_config("pgd_at", **{"attack.random_start": False}))


@pytest.mark.parametrize(
    ("objective", "fields"), [("trades", {}), ("pgd_at", {"attack.random_start": False})]
)
def test_a_start_without_a_radius_is_named(tiny_config, objective, fields):
    fields = {**fields, "attack.start_radius": 0.5}
    with pytest.raises(UserError, match=r"start_radius is 0\.5; expected 1 for the objective"):
        build(tiny_config(objective, **fields))
