"""AWP computes what its authors publish, for any method, on any devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import config as configs
from bat_jax import keys, methods, models
from bat_jax.attacks import pgd_trajectory
from bat_jax.errors import UserError
from bat_jax.methods import Gradient, awp
from bat_jax.training.building import build
from bat_jax.training.flops import flops, lowered_step
from bat_jax.training.step import training_attack
from tests.methods import float64
from tests.methods.float64 import Net
from tests.training.conftest import tiny
from tests.training.test_step import assert_close, history_of, order_of, run

GAMMA = 0.3  # Large, so that its effect is far above float32's rounding.


def perturbed(name="pgd_at", **fields):
    return tiny(name, **{"objective.awp.gamma": GAMMA, **fields})


def test_the_direction_has_the_norm_of_its_tensor():
    generator = np.random.default_rng(0)
    params = {
        "conv": generator.normal(size=(3, 3, 2, 4)),
        "dense": generator.normal(size=(5, 4)),
        "bias": generator.normal(size=4),
        "idle": generator.normal(size=(2, 2)),
    }
    gradients = {name: 1e-3 * generator.normal(size=leaf.shape) for name, leaf in params.items()}
    gradients["idle"] = np.zeros((2, 2))
    found = awp.perturbation(*jax.tree.map(jnp.float32, (params, gradients)))
    for name in ("conv", "dense"):
        weight, gradient = params[name], gradients[name]
        expected = gradient * np.linalg.norm(weight) / np.linalg.norm(gradient)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)
    for name in ("bias", "idle"):
        np.testing.assert_array_equal(found[name], np.zeros_like(params[name]))


def test_the_direction_of_a_tiny_gradient_has_the_norm_of_its_tensor():
    weights = np.random.default_rng(0).normal(size=(100, 100)).astype(np.float32)
    # The squares underflow in float32.
    found = awp.perturbation(jnp.asarray(weights), jnp.full((100, 100), 3e-20))
    np.testing.assert_allclose(found, np.linalg.norm(weights) / 100, rtol=1e-5)


def attacked(experiment, state):
    """Returns the first batch of a training: its images, the attacked ones, its labels."""
    config = experiment.config
    rows = np.asarray(order_of(experiment))[0].astype(np.int64)
    split = experiment.train.take(rows)
    images, labels = jnp.asarray(split.images / np.float32(255)), jnp.asarray(split.labels)
    key = keys.derive(config.seed, keys.Purpose.ATTACK, 0)
    adversarial = pgd_trajectory(
        models.logits_fn(experiment.model, state.variables),
        images,
        labels,
        keys.per_image(key, jnp.arange(len(rows))),
        training_attack(config, experiment.method.attack, experiment.programs),
    ).images
    return np.float64(images), np.float64(adversarial), np.asarray(labels)


def loss_of(name, images, adversarial, labels):
    """Returns PGD-AT's or TRADES's loss of a batch, as a function of the parameters."""

    def loss(params):
        ours = float64.logits(params, adversarial)[0]
        if name == "pgd_at":
            return float64.cross_entropy(ours, labels)
        clean = float64.logits(params, images)[0]
        return float64.cross_entropy(clean, labels) + 6 * float64.kl_divergence(clean, ours)

    return loss


def ascended(params, gradients):
    """Returns the perturbed weights: kernels by the norm of each, all else as it is."""
    moved = dict(params)
    for name in ("body.kernel", "head.kernel"):
        scale = np.linalg.norm(params[name]) / np.linalg.norm(gradients[name])
        moved[name] = params[name] + GAMMA * scale * gradients[name]
    return moved


@pytest.mark.parametrize(("name", "decay"), [("pgd_at", 0.0), ("pgd_at", 0.1), ("trades", 0.1)])
def test_a_step_is_that_of_float64(name, decay):
    """Weights, their average, batch statistics and loss, from attacked images on."""
    fields = {
        "attack.norm": "l2",
        "attack.epsilon": 1.0,
        "attack.step_size": 0.5,
        "train.optimizer.weight_decay": decay,
        "train.optimizer.learning_rate": 0.5,
        "train.ema": 0.5,
    }
    config = perturbed(name, **fields)
    experiment = dataclasses.replace(build(config), model=Net())
    before = experiment.initial_state()
    images, adversarial, labels = attacked(experiment, before)
    after, metrics = run(config, steps=1, model=Net())

    params = float64.flat(before.variables["params"])
    loss = loss_of(name, images, adversarial, labels)
    moved = ascended(params, float64.gradient(loss, params))
    gradients = float64.gradient(loss, moved)
    expected = {
        leaf: params[leaf] - 0.5 * (gradients[leaf] + decay * moved[leaf]) for leaf in params
    }
    # TRADES's attack starts where its gradient is 4e-5: float32 shows in the attacked images.
    close = {"rtol": 1e-4, "atol": 2e-6 if name == "pgd_at" else 5e-5}
    assert_close(float64.flat(after.variables["params"]), expected, **close)
    np.testing.assert_allclose(metrics["loss"], loss(moved), rtol=1e-4)
    averaged = {leaf: (params[leaf] + expected[leaf]) / 2 for leaf in params}
    assert_close(float64.flat(after.ema["params"]), averaged, **close)

    mean, variance = np.zeros(4), np.ones(4)
    for forwarded in (adversarial,) if name == "pgd_at" else (images, adversarial):
        _, (batch_mean, batch_variance) = float64.logits(moved, forwarded)
        mean = 0.9 * mean + 0.1 * batch_mean
        variance = 0.9 * variance + 0.1 * batch_variance
    statistics = float64.flat(after.variables["batch_stats"])
    np.testing.assert_allclose(statistics["BatchNorm_0.mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics["BatchNorm_0.var"], variance, rtol=1e-4)


def test_momentum_gathers_gradients_and_decay_of_the_perturbed_weights():
    """Two steps without an attack, so that the second starts from the first in float64 too."""
    decay, fields = 0.1, {"attack.epsilon": 0.0, "train.optimizer.learning_rate": 0.5}
    config = perturbed(**fields, **{"train.optimizer.weight_decay": decay})
    experiment = dataclasses.replace(build(config), model=Net())
    params = float64.flat(experiment.initial_state().variables["params"])
    after, _ = run(config, steps=2, model=Net())
    trace = {leaf: np.zeros_like(values) for leaf, values in params.items()}
    for rows in np.asarray(order_of(experiment))[:2].astype(np.int64):
        images = experiment.train.images[rows] / 255
        loss = loss_of("pgd_at", None, images, experiment.train.labels[rows])
        moved = ascended(params, float64.gradient(loss, params))
        gradients = float64.gradient(loss, moved)
        trace = {leaf: 0.9 * trace[leaf] + gradients[leaf] + decay * moved[leaf] for leaf in trace}
        params = {leaf: params[leaf] - 0.5 * trace[leaf] for leaf in params}
    assert_close(float64.flat(after.variables["params"]), params, rtol=2e-4, atol=5e-6)


class Counted:
    """A loss w^4 / 4 whose gradient passes are counted."""

    def __init__(self):
        self.passes = 0

    def __call__(self, variables):
        self.passes += 1
        weights = variables["params"]["kernel"]
        return Gradient(jnp.sum(weights**4) / 4, None, variables, {"kernel": weights**3})


METHOD = methods.METHODS["pgd_at"]({}, methods.Setup(num_steps=1))
VARIABLES = {"params": {"kernel": jnp.asarray([[2.0, 1.0]])}}


def test_without_a_perturbation_there_is_one_pass_at_the_weights():
    counted = Counted()
    found = awp.gradient(
        METHOD, counted, VARIABLES, epoch=jnp.float32(0), gamma=0.0, start_epoch=0.0
    )
    assert counted.passes == 1
    assert found.variables is VARIABLES
    assert found.decayed is None


@pytest.mark.parametrize(("epoch", "is_perturbed"), [(1.5, False), (2.0, True), (3.0, True)])
def test_weights_are_perturbed_from_the_start_epoch_on(epoch, is_perturbed):
    found = awp.gradient(
        METHOD, Counted(), VARIABLES, epoch=jnp.float32(epoch), gamma=0.5, start_epoch=2.0
    )
    weights = np.array([[2.0, 1.0]])
    direction = weights**3 * np.linalg.norm(weights) / np.linalg.norm(weights**3)
    expected = weights + 0.5 * is_perturbed * direction
    np.testing.assert_allclose(found.params["kernel"], expected**3, rtol=1e-6)
    np.testing.assert_allclose(found.decayed["kernel"], expected, rtol=1e-6)


def test_devices_with_synchronised_batch_norm_agree():
    """AWP begins with the second of three steps; test_temporal_ensembling has accumulation too."""
    found = []
    for devices in (1, 8):
        fields = {"objective.awp.start_epoch": 0.25, "parallel.devices": devices}
        state, metrics = run(perturbed(**fields, **{"objective.awp.gamma": 0.01}), model=Net())
        found.append((state.variables, history_of(state).loss_sum, metrics))
    assert_close(*found, rtol=1e-3, atol=1e-5)


def test_a_step_costs_at_most_1_15_of_pgd_at():
    """By XLA's count, with ten attack steps."""

    def count(**fields):
        options = {"model.width": 16, "attack.num_steps": 10, "programs.unroll": True}
        return flops(lowered_step(build(tiny("pgd_at", **options, **fields))))

    assert count(**{"objective.awp.gamma": 0.01}) <= 1.15 * count()


def test_both_passes_are_counted_for_every_method():
    expected = {"standard": 6, "pgd_at": 26, "trades": 33, "mart": 32, "gairat": 26, "bat": 26}
    for name, passes in expected.items():
        config = perturbed(name, **{"attack.num_steps": 10})
        method = methods.create(config.objective, methods.Setup(num_steps=10))
        assert methods.step_passes(method, config) == passes
        config.objective.awp.gamma = 0.0
        assert methods.step_passes(method, config) == method.forward_passes(10)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("gamma", -0.01, r"awp\.gamma is -0\.01; expected 0 or more"),
        ("gamma", 5.0, r"awp\.gamma is 5\.0; expected 0 or more and at most 1"),
        ("start_epoch", -1.0, r"awp\.start_epoch is -1\.0; expected 0 or more"),
    ],
)
def test_what_is_no_perturbation_is_refused(field, value, words):
    config = tiny("pgd_at")
    config.objective.awp[field] = value
    with pytest.raises(UserError, match=words):
        configs.check(config)


def test_a_start_after_the_end_is_warned_of(caplog):
    build(perturbed(**{"objective.awp.start_epoch": 2.0}))
    assert "AWP, which starts at epoch 2, is never used" in caplog.text


def test_reports_name_the_option():
    assert methods.options_title(perturbed().objective.to_dict()) == " + AWP (gamma 0.3)"
    assert methods.options_title(tiny("pgd_at").objective.to_dict()) == ""
    assert methods.options_title({"name": "pgd_at"}) == ""
