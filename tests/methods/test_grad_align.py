"""GradAlign in the trainer: the regulariser reaches the update, on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bat_jax import keys, losses, methods, parallel
from bat_jax.attacks import geometry, pgd
from tests.training.conftest import built, tiny
from tests.training.test_step import assert_close, order_of, run

FGSM = {"attack.num_steps": 1, "attack.step_size": 0.1, "attack.random_start": False}


def test_the_loss_adds_what_the_mean_cosine_lacks_of_one():
    """Images without a gradient are left out of the mean."""
    method = methods.METHODS["grad_align"]({"lam": 0.5}, methods.Setup(num_steps=1))
    batch = methods.Batch(
        labels=jnp.arange(4),
        logits=jnp.zeros((4, 10)),
        features=jnp.zeros((4, 2)),
        clean_logits=None,
        robust_steps=jnp.zeros(4, jnp.int32),
        memorization=jnp.zeros(4),
        epoch=jnp.float32(0),
        extras={
            "cosine": jnp.array([1.0, 0.5, 0.0, 0.9]),
            "is_defined": jnp.array([1.0, 1.0, 0.0, 1.0]),
        },
    )
    loss, metrics = parallel.over_devices(
        method.loss,
        parallel.make_mesh(1),
        in_specs=(parallel.REPLICATED,),
        out_specs=parallel.REPLICATED,
    )(batch)
    np.testing.assert_allclose(metrics["alignment"], 0.8, rtol=1e-6)
    np.testing.assert_allclose(loss, np.log(10) + 0.5 * 0.2, rtol=1e-6)


def test_awp_repeats_the_gradients_of_the_regulariser():
    config = tiny("grad_align", **FGSM)
    method = methods.create(config.objective, methods.Setup(num_steps=1))
    assert methods.step_passes(method, config) == 2 + 3 + 8
    config.objective.awp.gamma = 0.01
    assert methods.step_passes(method, config) == 2 + 2 * (3 + 8)


def test_awp_and_the_regulariser_step_to_finite_parameters():
    config = tiny("grad_align", **FGSM, **{"objective.awp.gamma": 0.01})
    state, metrics = run(config, steps=1)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))
    assert 0 < metrics["alignment"] < 1


def test_while_epsilon_warms_up_the_noise_is_that_of_the_step():
    """The first of two steps of a warm-up is a step with half of epsilon."""
    warming, metrics = run(
        tiny("grad_align", **{**FGSM, "attack.step_size": 0.05, "attack.warmup_epochs": 0.5}),
        steps=1,
    )
    half, expected = run(
        tiny("grad_align", **{**FGSM, "attack.step_size": 0.05, "attack.epsilon": 0.05}), steps=1
    )
    np.testing.assert_allclose(metrics["alignment"], expected["alignment"], rtol=1e-5)
    assert_close(warming.variables["params"], half.variables["params"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_step_is_the_gradient_of_the_loss_with_the_regulariser():
    config = tiny("grad_align", **FGSM, **{"objective.grad_align.lam": 0.5})
    config.model.name, config.model.width = "small_cnn", 4
    # The form of a CPU's convolutions is differentiated twice too.
    config.programs.training = "batch_last"
    config.train.accumulation, config.parallel.devices = 2, 2
    moved, metrics = run(config, steps=1)
    experiment = built(config)
    state = experiment.initial_state()
    rows = np.asarray(order_of(experiment))[0]
    clean = jnp.asarray(experiment.train.images[rows] / np.float32(255))
    labels = jnp.asarray(experiment.train.labels[rows])
    images = pgd(
        lambda x: experiment.model.apply(state.variables, x),
        clean,
        labels,
        jax.random.key(0),
        epsilon=0.1,
        step_size=0.1,
        num_steps=1,
        random_start=False,
    )
    key = keys.derive(config.seed, keys.Purpose.EXTRAS, 0)
    drawn = geometry.uniform(keys.per_image(key, jnp.arange(len(labels))), clean, 0.1)

    def loss(params):
        def logits_fn(x):
            return experiment.model.apply({"params": params}, x)

        cosine, is_defined = losses.gradient_alignment(logits_fn, clean, labels, drawn)
        alignment = losses.weighted_mean(cosine, is_defined.astype(jnp.float32))
        values = optax.softmax_cross_entropy_with_integer_labels(logits_fn(images), labels)
        return jnp.mean(values) + 0.5 * (1 - alignment), alignment

    params, step = state.variables["params"], config.train.optimizer
    (value, alignment), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    expected = jax.tree.map(
        lambda p, g: p - step.learning_rate * (g + step.weight_decay * p), params, gradients
    )
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-4)
    np.testing.assert_allclose(metrics["alignment"], alignment, rtol=1e-3)
    assert_close(moved.variables["params"], expected, rtol=1e-3, atol=1e-5)
