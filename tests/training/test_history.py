"""The history of every example agrees with a count by hand, on any devices, after any stop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bat_jax.memorization import history
from bat_jax.training.state import fingerprint
from tests.training.conftest import built
from tests.training.test_step import history_of, order_of, run


def test_an_example_that_was_correct_and_is_wrong_is_forgotten():
    verdicts = {0: [False, False, False], 1: [True, False, True], 2: [False, True, False]}
    seen = history.create(4)
    for turn in range(3):
        seen = seen.after(
            jnp.asarray([2, 0, 1]),
            (jnp.asarray([0.5, 2.0, 1.0]), jnp.asarray([verdicts[r][turn] for r in (2, 0, 1)])),
        )
    np.testing.assert_array_equal(seen.presented, [3, 3, 3, 0])
    np.testing.assert_array_equal(seen.loss_sum, [6.0, 3.0, 1.5, 0.0])
    np.testing.assert_array_equal(seen.forgotten, [0, 1, 1, 0])
    np.testing.assert_array_equal(seen.is_correct, [False, True, False, False])
    np.testing.assert_array_equal(seen.ever_correct, [False, True, True, False])


def test_a_step_adds_the_losses_of_examples_before_its_update(tiny_config):
    experiment = built(tiny_config("standard"))
    before = jax.device_get(experiment.initial_state())
    after, metrics = run(tiny_config("standard"), steps=1)
    rows = np.asarray(order_of(experiment))[0]
    images = jnp.asarray(experiment.train.images[rows] / np.float32(255))
    labels = experiment.train.labels[rows]
    logits = experiment.model.apply(before.variables, images)
    losses = np.zeros(len(experiment.train), np.float32)
    losses[rows] = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(history_of(after).loss_sum, losses, rtol=1e-5, atol=1e-6)
    is_correct = np.zeros(len(experiment.train), bool)
    is_correct[rows] = np.argmax(logits, axis=1) == labels
    np.testing.assert_array_equal(history_of(after).is_correct, is_correct)
    np.testing.assert_array_equal(np.flatnonzero(history_of(after).presented), np.sort(rows))
    np.testing.assert_allclose(metrics["loss"], losses[rows].mean(), rtol=1e-5)


def test_the_losses_are_those_of_the_adversarial_images(tiny_config):
    attacked, metrics = run(tiny_config("pgd_at"), steps=1)
    # The loss of PGD-AT is the mean over these images.
    np.testing.assert_allclose(history_of(attacked).loss_sum.sum() / 64, metrics["loss"], rtol=1e-5)
    clean, _ = run(tiny_config("standard"), steps=1)
    assert history_of(attacked).loss_sum.sum() > 1.02 * history_of(clean).loss_sum.sum()


def test_the_fingerprint_depends_on_the_history(tiny_config):
    state = built(tiny_config()).initial_state()
    seen = {int(fingerprint(state))}
    for name in ("presented", "loss_sum", "forgotten", "is_correct"):
        history = history_of(state)
        leaf = getattr(history, name)
        changed = history.replace(**{name: leaf.at[3].set(jnp.ones((), leaf.dtype))})
        other = state.replace(memory={"history": changed})
        seen.add(int(fingerprint(other)))
    assert len(seen) == 5
