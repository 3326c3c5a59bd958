"""Learning rates by step follow their schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.config import default
from bat_jax.training import schedules
from bat_jax.training.share import epochs_before


def rates(name, steps, **fields):
    config = default().train
    with config.unlocked():
        config.update_from_flattened_dict({"schedule.name": name, **fields})
    schedule = schedules.learning_rate(config, steps_per_epoch=10, total_steps=100)
    return np.asarray([schedule(step) for step in steps])


@pytest.mark.parametrize("steps_per_epoch", [1, 41, 47, 61, 460])
def test_an_epoch_is_whole_when_it_ends(steps_per_epoch):
    ends = np.arange(300)
    steps = jnp.int32(ends * steps_per_epoch)
    found = jax.jit(epochs_before, static_argnums=1)(steps, steps_per_epoch)
    np.testing.assert_array_equal(found, ends)
    half = jax.jit(epochs_before, static_argnums=1)(steps + steps_per_epoch // 2, steps_per_epoch)
    np.testing.assert_allclose(half, ends + steps_per_epoch // 2 / steps_per_epoch, rtol=1e-6)


def test_piecewise_decays_at_its_epochs():
    found = rates("piecewise", [0, 39, 40, 69, 70], **{"schedule.boundaries": (4.0, 7.0)})
    np.testing.assert_allclose(found, [0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-6)


def test_boundaries_of_one_step_all_count_and_those_beyond_any_training_do_not():
    boundaries = {"schedule.boundaries": (4.0, 4.01, 1e9, 3e38)}
    found = rates("piecewise", [39, 40, 99], **boundaries)
    np.testing.assert_allclose(found, [0.1, 0.001, 0.001], rtol=1e-6)


def test_cosine_falls_to_zero():
    expected = [0.1 * (1 + np.cos(np.pi * step / 100)) / 2 for step in (0, 25, 50, 100)]
    np.testing.assert_allclose(rates("cosine", [0, 25, 50, 100]), expected, atol=1e-8)


def test_one_cycle_rises_and_falls_in_straight_lines():
    found = rates("one_cycle", [0, 15, 30, 65, 100], **{"schedule.rise": 0.3})
    np.testing.assert_allclose(found, [0.0, 0.05, 0.1, 0.05, 0.0], atol=1e-8)


@pytest.mark.parametrize("name", ["piecewise", "cosine"])
def test_a_warm_up_rises_from_the_first_step_to_the_schedule_and_no_further(name):
    steps = np.arange(100)
    warmed = rates(name, steps, **{"schedule.warmup_epochs": 2.0})
    expected = rates(name, steps) * np.minimum(1, (steps + 1) / 20)
    np.testing.assert_allclose(warmed, expected, rtol=1e-6)
    assert warmed[0] > 0
    np.testing.assert_array_equal(warmed[19:], rates(name, steps[19:]))


@pytest.mark.parametrize(
    ("name", "boundaries", "epoch"),
    [("piecewise", (7.0, 4.0), 4.0), ("cosine", (4.0,), 5.0), ("piecewise", (), 5.0)],
)
def test_the_first_decay_is_that_of_the_schedule_or_half_the_training(name, boundaries, epoch):
    config = default().train
    config.schedule.name = name
    config.schedule.boundaries = boundaries
    assert schedules.first_decay(config, 10.0) == epoch
