"""Temporal ensembling remembers every example's predictions and pulls new ones towards them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import config as configs
from bat_jax import losses, methods, parallel
from bat_jax.data import device
from bat_jax.errors import UserError
from bat_jax.methods import Batch, Setup, Visit
from bat_jax.training.building import build, check_memory_fits
from bat_jax.training.checkpoints import Checkpoints
from bat_jax.training.state import fingerprint
from tests.methods import float64
from tests.methods.float64 import Net
from tests.training.conftest import built, tiny
from tests.training.test_step import assert_close, order_of, run

CLASSES = 4
SETUP = Setup(num_steps=2, num_classes=CLASSES)


def settings(**changes):
    defaults = {name: field.default for name, field in methods.METHODS["te"].fields.items()}
    return {**defaults, "start_epoch": 0.0, "ramp_epochs": 0.0, **changes}


def method(**changes):
    return methods.METHODS["te"](settings(**changes), SETUP)


def probabilities(logits):
    return np.exp(float64.log_softmax(np.float64(logits)))


def draws(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def visited(te, logits, average, epoch=0.0):
    """Returns what `before` makes of images with these logits and averages."""
    memory = te.memory(len(average))["predictions"].replace(average=jnp.float32(average))
    labels = jnp.zeros(len(logits), jnp.int32)
    visit = Visit(labels, jnp.float32(logits), {"predictions": memory}, jnp.float32(epoch))
    return te.before(visit)


def test_the_regulariser_and_its_target_are_those_of_float64():
    average = probabilities(draws(6, CLASSES)) * 0.19
    average[2] = 0.0
    found = probabilities(draws(6, CLASSES, seed=1))
    target = average / np.maximum(average.sum(axis=1, keepdims=True), 1e-30)
    np.testing.assert_allclose(losses.temporal_target(jnp.float32(average)), target, rtol=1e-5)
    np.testing.assert_allclose(
        losses.temporal_ensembling(jnp.float32(found), jnp.float32(target)),
        ((found - target) ** 2).mean(axis=1),
        rtol=1e-5,
    )


def test_two_visits_average_the_predictions():
    te = method()
    first, second = draws(5, CLASSES), draws(5, CLASSES, seed=1)
    once = visited(te, first, np.zeros((5, CLASSES)))
    np.testing.assert_allclose(once.average, 0.1 * probabilities(first), rtol=1e-5)
    # Without the bias of the start at 0.
    np.testing.assert_allclose(once.target, probabilities(first), rtol=1e-5)
    twice = visited(te, second, once.average)
    expected = 0.09 * probabilities(first) + 0.1 * probabilities(second)
    np.testing.assert_allclose(twice.average, expected, rtol=1e-5)
    np.testing.assert_allclose(twice.target, expected / 0.19, rtol=1e-5)


def test_the_weight_ramps_as_published():
    te = method(start_epoch=89.0, ramp_epochs=60.0)
    # Epochs completed; the publication counts epochs from 1.
    for epoch, weight in (
        (88.9, 0.0),
        (89.0, 2.02),
        (89.9, 2.02),
        (99, 9.3),
        (119, 86),
        (149, 300),
    ):
        np.testing.assert_allclose(te.weight(jnp.float32(epoch)), weight, rtol=0.01)
    assert te.weight(jnp.float32(199.0)) == 300.0


def test_nothing_is_remembered_before_the_start():
    te = method(start_epoch=2.0)
    before = visited(te, draws(5, CLASSES), np.zeros((5, CLASSES)), epoch=1.75)
    assert not np.any(before.average)
    assert not np.any(before.weight)
    assert np.all(np.isfinite(before.target))
    assert np.any(visited(te, draws(5, CLASSES), np.zeros((5, CLASSES)), epoch=2.0).average)


@pytest.mark.parametrize("base", ["pgd_at", "trades"])
@pytest.mark.parametrize("over_classes", ["mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_attack_and_loss_add_the_regulariser(base, over_classes, smoothing):
    te = method(base=base, over_classes=over_classes, weight=3.0)
    clean, ours, looked = (draws(6, CLASSES, seed=seed) for seed in range(3))
    labels = np.arange(6) % CLASSES
    target = (1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES
    targets = jnp.float32(target) if smoothing else None
    before = visited(te, looked, probabilities(draws(6, CLASSES, seed=3)))
    scale = 3.0 if over_classes == "mean" else 3.0 * CLASSES

    def distance(logits):
        return ((probabilities(logits) - np.float64(before.target)) ** 2).mean(axis=1)

    def divergence(z, other):
        p = probabilities(z)
        return (p * (float64.log_softmax(z) - float64.log_softmax(other))).sum(axis=1)

    def entropy(logits):
        return -(target * float64.log_softmax(logits)).sum(axis=1)

    seen = jnp.asarray(labels) if targets is None else targets
    maximised = te.attack.loss(jnp.float32(ours), seen, before)
    plain = entropy(ours) if base == "pgd_at" else 6 * divergence(looked, ours)
    np.testing.assert_allclose(maximised, plain + scale * distance(ours), rtol=1e-5)

    batch = Batch(
        labels=jnp.asarray(labels),
        logits=jnp.float32(ours),
        features=jnp.zeros((6, 2)),
        clean_logits=jnp.float32(clean) if base == "trades" else None,
        robust_steps=jnp.zeros(6, jnp.int32),
        memorization=jnp.zeros(6),
        epoch=jnp.float32(0),
        before=before,
        targets=targets,
    )
    loss = parallel.over_devices(
        lambda batch: te.loss(batch)[0],
        parallel.make_mesh(1),
        in_specs=(parallel.REPLICATED,),
        out_specs=parallel.REPLICATED,
    )
    if base == "pgd_at":
        expected = entropy(ours) + scale * distance(ours)
    else:
        expected = entropy(clean) + 6 * divergence(clean, ours) + scale * distance(clean)
    np.testing.assert_allclose(loss(batch), expected.mean(), rtol=1e-5)


def test_smoothed_labels_are_accepted():
    built(tiny("te", **{"train.label_smoothing": 0.1}))


def test_the_attack_takes_soft_targets():
    te, logits = method(), jnp.float32(draws(6, CLASSES))
    before = visited(te, logits, np.zeros((6, CLASSES)))
    labels = jnp.arange(6) % CLASSES
    hard = te.attack.loss(logits, labels, before)
    soft = te.attack.loss(logits, jax.nn.one_hot(labels, CLASSES), before)
    np.testing.assert_allclose(hard, soft, rtol=1e-5)


@functools.cache
def trained(devices, parts):
    """Returns two visits of every example, two epochs of four steps, with AWP from the second."""
    fields = {
        "objective.awp.gamma": 0.01,
        "objective.awp.start_epoch": 0.25,
        "objective.te.start_epoch": 0.0,
        "objective.te.ramp_epochs": 1.0,
        "objective.te.weight": 30.0,
        "parallel.devices": devices,
        "train.accumulation": parts,
    }
    return run(tiny("te", **fields), steps=8, model=Net(normed=False))


def test_a_training_remembers_the_clean_predictions_of_each_visit():
    """The first epoch's averages, from the weights before each of its steps."""
    fields = {"objective.te.start_epoch": 0.0, "train.optimizer.learning_rate": 0.0}
    config = tiny("te", **fields)
    state, metrics = run(config, steps=5, model=Net(normed=False))
    experiment = build(config)
    rows = np.asarray(order_of(experiment))
    images = jnp.asarray(experiment.train.images / np.float32(255))
    # Without learning every visit predicts the same.
    predicted = probabilities(Net(normed=False).apply(state.variables, images))
    visits = np.bincount(rows[:4].ravel(), minlength=len(images))
    visits += np.bincount(rows[0], minlength=len(images))
    expected = predicted * (1 - 0.9**visits)[:, None]
    np.testing.assert_allclose(state.memory["predictions"].average, expected, rtol=1e-4, atol=1e-7)
    assert metrics["te_weight"] == pytest.approx(300 * np.exp(-5 * (1 - 1 / 60) ** 2), rel=1e-4)


@pytest.mark.parametrize(("devices", "parts"), [(2, 2), pytest.param(8, 4, marks=pytest.mark.slow)])
def test_devices_and_parts_of_a_batch_agree_with_awp_too(devices, parts):
    alone, alone_metrics = trained(1, 1)
    state, metrics = trained(devices, parts)
    assert alone_metrics["te_distance"] > 0
    assert_close(state.variables, alone.variables, rtol=2e-3, atol=2e-5)
    assert_close(metrics, alone_metrics, rtol=2e-3)
    average = state.memory["predictions"].average
    np.testing.assert_allclose(average, alone.memory["predictions"].average, rtol=1e-3, atol=1e-6)


def test_what_is_remembered_is_saved_and_restored(tmp_path):
    state = jax.device_put(trained(1, 1)[0])
    mesh = parallel.make_mesh(1)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1, score="pgd2", mesh=mesh)
    try:
        checkpoints.save(state, seconds=1.0, metrics={"pgd2": 0.5})
        restored = checkpoints.latest(jax.eval_shape(lambda: state)).state
    finally:
        checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert fingerprint(restored) == fingerprint(state)
    memory = restored.memory["predictions"]
    changed = memory.replace(average=memory.average + 1e-3)
    other = restored.replace(memory={**restored.memory, "predictions": changed})
    assert fingerprint(other) != fingerprint(state)


def test_the_forward_pass_before_the_attack_is_counted():
    passes = {"pgd_at": 24, "trades": 27}
    for base, expected in passes.items():
        config = tiny("te", **{"objective.te.base": base, "attack.num_steps": 10})
        te = methods.create(config.objective, SETUP)
        # TRADES takes the logits of the clean images from it.
        assert te.forward_passes(10) == expected
        config.objective.awp.gamma = 0.01
        assert methods.step_passes(te, config) == expected + (3 if base == "pgd_at" else 6)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("weight", -1.0, r"te\.weight is -1\.0; expected 0 or more"),
        ("momentum", 1.0, r"te\.momentum is 1\.0; expected 0 or more and below 1"),
        ("base", "bat", r"te\.base is 'bat'; expected one of pgd_at, trades"),
        ("over_classes", "max", r"te\.over_classes is 'max'; expected one of mean, sum"),
    ],
)
def test_what_is_no_ensembling_is_refused(field, value, words):
    config = tiny("te")
    config.objective.te[field] = value
    with pytest.raises(UserError, match=words):
        configs.check(config)


def test_more_than_a_device_can_hold_is_refused(monkeypatch):
    experiment = build(tiny("te"))
    check_memory_fits(experiment)
    monkeypatch.setattr(device, "free_bytes", lambda device: 256 * 10 * 4)
    with pytest.raises(
        UserError, match=r"objective\.name is te, which remembers 0\.000 GiB of 256"
    ):
        check_memory_fits(experiment)
    check_memory_fits(build(tiny("pgd_at")))


def test_a_start_after_the_end_is_warned_of(caplog):
    build(tiny("te"))
    assert "weights of te, which start at epoch 89, are never used" in caplog.text
