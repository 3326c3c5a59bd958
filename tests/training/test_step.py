"""The train step equals its formula, on any number of devices."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bat_jax import keys, losses, methods, models, parallel
from bat_jax.attacks import PgdSettings, pgd, pgd_trajectory
from bat_jax.data.device import epoch_order
from bat_jax.training.building import build
from bat_jax.training.state import fingerprint
from bat_jax.training.step import TrainStep
from tests import compilations
from tests.networks import Normalized
from tests.training.conftest import built

# Weights apply from the first step.
FROM_START = {"objective.bat.start_epoch": 0.0, "objective.gairat.start_epoch": 0.0}
OBJECTIVES = ("standard", "pgd_at", "trades", "mart", "gairat", "bat")


_RUNS = {}


def run(config, steps=3, model=None):
    """Returns the state after some steps, of another model if given, and the last metrics.

    Several tests share the run, which is made once.
    """
    made = (config.to_json_best_effort(sort_keys=True), steps, model)
    if made not in _RUNS:
        _RUNS[made] = _run(config, steps, model)
    return _RUNS[made]


def _run(config, steps, model):
    experiment = built(config)
    if model is not None:
        experiment = dataclasses.replace(experiment, model=model)
    state, data, root = experiment.initial_state(), experiment.train_data(), experiment.root()
    order = parallel.replicate(order_of(experiment), experiment.mesh)
    train_step = experiment.train_step
    for _ in range(steps):
        state, metrics = train_step(state, data, order, root)
    return jax.device_get(state), jax.device_get(metrics)


def history_of(state):
    """Returns a state's history of the examples' losses and verdicts."""
    return state.memory["history"]


def smooth_attack(objective):
    """Returns the fields that make an attack continuous in its gradient.

    TRADES starts 0.001 N(0, 1) from the stationary point of its divergence: gradients are about
    4e-5 there, and those of some pixels smaller than float32's error of 7e-8. The sign of such a
    gradient depends on the order of a sum, and moves the pixel by a whole step either way; the
    direction in L2 changes as little as the gradient.
    """
    return {"attack.norm": "l2"} if objective == "trades" else {}


def order_of(experiment, epoch=0):
    return experiment.order(experiment.config.seed, epoch)


def first_labels(experiment):
    """Returns the labels of the first batch."""
    return jnp.asarray(experiment.train.labels[np.asarray(order_of(experiment))[0]])


def attacked(experiment, state, logits_fn=None, *, loss="cross_entropy", targets=None):
    """Returns the adversarial images of the first batch, from the keys of its positions."""
    rows, attack = np.asarray(order_of(experiment))[0], experiment.config.attack
    key = keys.derive(experiment.config.seed, keys.Purpose.ATTACK, 0)
    labels = first_labels(experiment)
    found = pgd_trajectory(
        logits_fn or (lambda images: experiment.model.apply(state.variables, images)),
        jnp.asarray(experiment.train.images[rows] / np.float32(255)),
        labels,
        keys.per_image(key, jnp.arange(len(rows))),
        PgdSettings(
            epsilon=attack.epsilon,
            step_size=attack.step_size,
            num_steps=attack.num_steps,
            loss=loss,
        ),
        targets=targets,
    )
    return found.images, labels


def assert_close(tree, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), tree, other)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_steps_to_finite_parameters(tiny_config, objective):
    state, metrics = run(tiny_config(objective))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))
    assert all(np.isfinite(value) for value in metrics.values())
    assert state.step == 3


def test_bat_without_weight_and_discrimination_is_pgd_at_to_the_last_bit(tiny_config):
    off = {"objective.bat.alpha": 0.0, "objective.bat.beta_dl": 0.0}
    plain, _ = run(tiny_config("pgd_at"))
    for start in (0.0, 100.0):
        bat, metrics = run(tiny_config("bat", **off, **{"objective.bat.start_epoch": start}))
        jax.tree.map(np.testing.assert_array_equal, bat.variables, plain.variables)
        assert metrics["weight"] == 1.0


def test_gairat_before_its_start_is_pgd_at_and_after_it_is_not(tiny_config):
    plain, _ = run(tiny_config("pgd_at"))
    before, _ = run(tiny_config("gairat", **{"objective.gairat.start_epoch": 100.0}))
    after, _ = run(tiny_config("gairat", **{"objective.gairat.start_epoch": 0.0}))
    assert_close(before.variables, plain.variables, rtol=1e-5, atol=1e-7)
    assert not np.allclose(
        after.variables["params"]["head"]["kernel"], plain.variables["params"]["head"]["kernel"]
    )


def test_pgd_at_with_epsilon_zero_is_standard_training(tiny_config):
    standard, _ = run(tiny_config("standard"))
    attacked_state, _ = run(tiny_config("pgd_at", **{"attack.epsilon": 0.0}))
    assert_close(attacked_state.variables, standard.variables, rtol=1e-5, atol=1e-7)


def test_bat_weights_apply_from_the_first_decay(tiny_config):
    # Four steps an epoch; the learning rate first decays after one epoch.
    _, before = run(tiny_config(**{"objective.bat.alpha": 5.0}), steps=4)
    _, after = run(tiny_config(**{"objective.bat.alpha": 5.0}), steps=5)
    assert before["weight"] == 1.0
    assert after["weight"] < 1.0
    assert after["weighted_down"] > 0.0


def test_a_step_equals_one_written_by_hand(tiny_config):
    """One PGD-AT step against plain JAX on the whole batch: data, loss, gradient and update."""
    config = tiny_config("pgd_at", **{"attack.epsilon": 0.0, "train.optimizer.momentum": 0.5})
    experiment = built(config)
    before = jax.device_get(experiment.initial_state())
    after, metrics = run(config, steps=1)
    rows = np.asarray(order_of(experiment))[0]
    images = jnp.asarray(experiment.train.images[rows] / np.float32(255))
    labels = jnp.asarray(experiment.train.labels[rows])

    def loss(params):
        logits = experiment.model.apply({"params": params}, images)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    params = before.variables["params"]
    value, gradients = jax.value_and_grad(loss)(params)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.05 * (g + 5e-4 * p), params, gradients)
    assert_close(after.variables["params"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("objective", "counts"),
    [
        ("bat", (2, 8)),
        pytest.param("gairat", (8,), marks=pytest.mark.slow),
        pytest.param("trades", (8,), marks=pytest.mark.slow),
    ],
)
def test_any_number_of_devices_gives_the_same_step(tiny_config, objective, counts):
    fields = {**FROM_START, **smooth_attack(objective)}
    alone, alone_metrics = run(tiny_config(objective, **fields))
    for devices in counts:
        state, metrics = run(tiny_config(objective, **fields, **{"parallel.devices": devices}))
        assert_close(state.variables, alone.variables, rtol=2e-4, atol=2e-6)
        assert_close(metrics, alone_metrics, rtol=1e-3)
        np.testing.assert_allclose(
            history_of(state).loss_sum, history_of(alone).loss_sum, rtol=1e-3
        )
        np.testing.assert_array_equal(history_of(state).presented, history_of(alone).presented)


def test_pmap_gives_the_same_step(tiny_config):
    alone, _ = run(tiny_config("bat", **FROM_START))
    experiment = built(tiny_config("bat", **FROM_START, **{"parallel.devices": 8}))
    devices = jax.devices()[:8]
    step = TrainStep(
        experiment.model,
        experiment.method,
        experiment.optimizer,
        experiment.config,
        experiment.programs,
    )
    mapped = jax.pmap(step, axis_name=parallel.AXIS, in_axes=(0, None, None, None), devices=devices)
    state = jax.tree.map(
        lambda leaf: jnp.stack([leaf] * 8), jax.device_get(experiment.initial_state())
    )
    data, order = jax.device_get((experiment.train_data(), order_of(experiment)))
    root = jax.random.key(experiment.config.seed)
    for _ in range(3):
        state, _ = mapped(state, data, order, root)
    first = jax.tree.map(lambda leaf: leaf[0], jax.device_get(state))
    assert_close(first.variables, alone.variables, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(history_of(first).loss_sum, history_of(alone).loss_sum, rtol=1e-3)


def test_an_attack_follows_the_mode_of_batch_norm():
    model = Normalized(sync=False)
    images = jax.random.uniform(jax.random.key(0), (8, 8, 8, 1))
    labels = jnp.arange(8)
    variables = jax.jit(model.init)(jax.random.key(1), images)
    running, batch = (
        pgd(
            models.logits_fn(model, variables, batch_norm=mode),
            images,
            labels,
            jax.random.key(2),
            epsilon=0.1,
            step_size=0.05,
            num_steps=3,
        )
        for mode in ("running", "batch")
    )
    assert not np.array_equal(running, images)
    assert not np.array_equal(running, batch)


@pytest.mark.parametrize(("batch_norm", "other"), [("running", "batch"), ("batch", "running")])
def test_the_config_chooses_the_batch_norm_of_a_steps_attack(tiny_config, batch_norm, other):
    config = tiny_config("pgd_at", **{"attack.batch_norm": batch_norm})
    _, metrics = run(config, steps=1, model=Normalized(sync=True))
    model = Normalized(sync=False)
    experiment = dataclasses.replace(built(config), model=model)
    state = experiment.initial_state()

    def logits_fn(mode):
        return jax.jit(models.logits_fn(model, state.variables, batch_norm=mode))

    def loss(mode):
        images, labels = attacked(experiment, state, logits_fn(mode))
        logits = logits_fn("batch")(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    np.testing.assert_allclose(metrics["loss"], loss(batch_norm), rtol=1e-5)
    assert abs(metrics["loss"] - loss(other)) > 1e-3


@pytest.mark.parametrize("batch_norm", ["running", "batch"])
def test_batch_statistics_after_a_step_do_not_depend_on_the_attack(tiny_config, batch_norm):
    """With epsilon 0 the images stay the same, for any number of attack steps."""
    statistics = []
    for num_steps in (1, 3):
        fields = {"attack.epsilon": 0.0, "attack.num_steps": num_steps}
        config = tiny_config("pgd_at", **fields, **{"attack.batch_norm": batch_norm})
        state, _ = run(config, steps=1, model=Normalized(sync=True))
        statistics.append(state.variables["batch_stats"])
        assert not np.array_equal(statistics[-1]["BatchNorm_0"]["mean"], np.zeros(4))
    jax.tree.map(np.testing.assert_array_equal, *statistics)


def test_the_trainers_bat_equals_the_librarys(tiny_config):
    config = tiny_config("bat", **{"objective.bat.start_epoch": 1.0, "objective.bat.alpha": 2.0})
    method = methods.create(config.objective, methods.Setup(num_steps=2, first_decay=9.0))
    of_logits, of_features, of_labels = jax.random.split(jax.random.key(0), 3)
    logits = jax.random.normal(of_logits, (16, 4))
    features = jax.random.normal(of_features, (16, 5))
    labels = jax.random.randint(of_labels, (16,), 0, 4)

    def trained(epoch):
        batch = methods.Batch(
            labels=labels,
            logits=logits,
            features=features,
            clean_logits=None,
            robust_steps=jnp.zeros(16, jnp.int32),
            memorization=jnp.zeros(16),
            epoch=jnp.float32(epoch),
        )
        one = parallel.make_mesh(1)
        loss = parallel.over_devices(
            lambda batch: method.loss(batch)[0],
            one,
            in_specs=(parallel.REPLICATED,),
            out_specs=parallel.REPLICATED,
        )
        return loss(batch)

    options = {"beta_dl": 0.2, "temperature": 0.1}
    for epoch, alpha in ((0.5, 0.0), (1.0, 2.0)):
        expected = losses.bat(logits, features, labels, alpha=alpha, **options)
        np.testing.assert_allclose(trained(epoch), expected, rtol=1e-6)


def test_synchronised_batch_norm_makes_devices_agree(tiny_config):
    """With batch norm over the global batch, eight devices compute the same as one."""
    states = {}
    for sync in (True, False):
        for devices in (1, 8):
            # Two images a device: the shares' statistics differ much from the batch's.
            fields = {"parallel.devices": devices, "train.batch_size": 16}
            state, _ = run(tiny_config("pgd_at", **fields), steps=2, model=Normalized(sync))
            states[sync, devices] = state.variables
    assert_close(states[True, 1], states[True, 8], rtol=2e-3, atol=2e-5)
    deviation = {
        sync: np.max(
            np.abs(
                states[sync, 1]["batch_stats"]["BatchNorm_0"]["var"]
                - states[sync, 8]["batch_stats"]["BatchNorm_0"]["var"]
            )
        )
        for sync in (True, False)
    }
    assert deviation[False] > 20 * deviation[True]


@pytest.mark.parametrize("sync", [True, False])
def test_the_config_says_whether_batch_norm_is_synchronised(tiny_config, sync):
    fields = {"model.name": "preact_resnet", "model.depth": 10, "model.width": 2}
    fields |= {"model.resize": 16, "model.sync_batch_norm": sync, "parallel.devices": 2}
    experiment = build(tiny_config("standard", **fields))

    def trained(images):
        variables = experiment.model.init(jax.random.key(0), images[:1])
        _, updated = experiment.model.apply(variables, images, train=True, mutable=["batch_stats"])
        return jax.tree.map(lambda leaf: leaf[None], updated)

    shared = parallel.over_devices(
        trained, experiment.mesh, in_specs=(parallel.SHARED,), out_specs=parallel.SHARED
    )
    program = shared.lower(jax.ShapeDtypeStruct((8, 8, 8, 1), jnp.float32)).as_text()
    # Statistics are all that a forward pass takes from other devices.
    assert ("all_reduce" in program) == sync


def test_dropout_follows_the_seed_and_the_step(tiny_config):
    """The same images at the same parameters: nothing else in the step is random."""
    model = Normalized(sync=True, dropout=0.5)
    experiment = dataclasses.replace(built(tiny_config("standard")), model=model)
    data = experiment.train_data()
    first = np.asarray(order_of(experiment))[0]
    order = parallel.replicate(np.stack([first, first]), experiment.mesh)

    def loss(seed, step):
        state = experiment.initial_state()
        state = state.replace(step=state.step + step)
        root = parallel.root(seed, experiment.mesh)
        return float(experiment.train_step(state, data, order, root)[1]["loss"])

    assert loss(0, 0) == loss(0, 0)
    assert len({loss(seed, step) for seed in (0, 1) for step in (0, 1)}) == 4


def test_the_step_transfers_nothing_and_compiles_once(tiny_config):
    experiment = built(tiny_config())
    state, data, root = experiment.initial_state(), experiment.train_data(), experiment.root()
    order = parallel.replicate(order_of(experiment), experiment.mesh)
    train_step = experiment.train_step
    state, _ = train_step(state, data, order, root)
    with compilations.heard() as programs, jax.transfer_guard("disallow"):
        for _ in range(3):
            state, _ = train_step(state, data, order, root)
        state = jax.block_until_ready(state)
    assert not programs


def test_the_average_follows_the_parameters(tiny_config):
    config = tiny_config("standard", **{"train.ema": 0.5})
    initial = jax.device_get(built(config).initial_state())
    one, _ = run(config, steps=1)
    expected = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, initial.ema, one.variables)
    assert_close(one.ema, expected, rtol=1e-6, atol=1e-7)
    assert one.evaluated is one.ema


def test_weight_decay_can_spare_biases(tiny_config):
    fields = {"train.optimizer.weight_decay": 0.5, "train.optimizer.momentum": 0.0}
    with_all, _ = run(tiny_config("standard", **fields), steps=1)
    spared, _ = run(
        tiny_config("standard", **fields, **{"train.optimizer.decay_all": False}), steps=1
    )
    # Biases start at 0, where decay changes nothing in the first step; kernels decay in both.
    assert_close(with_all.variables, spared.variables, rtol=1e-6)
    with_all, _ = run(tiny_config("standard", **fields), steps=2)
    spared, _ = run(
        tiny_config("standard", **fields, **{"train.optimizer.decay_all": False}), steps=2
    )
    biases = [s.variables["params"]["head"]["bias"] for s in (with_all, spared)]
    assert not np.array_equal(*biases)


def test_forward_passes_are_counted_for_every_method(tiny_config):
    expected = {"standard": 3, "pgd_at": 23, "trades": 27, "mart": 26, "gairat": 23, "bat": 23}
    for name, passes in expected.items():
        method = methods.create(tiny_config(name).objective, methods.Setup(num_steps=10))
        assert method.forward_passes(10) == passes


def test_the_fingerprint_depends_on_every_bit(tiny_config):
    state = built(tiny_config()).initial_state()
    kernel = np.array(state.variables["params"]["head"]["kernel"])
    seen = {int(fingerprint(state))}
    for change in ("bit", "exchange"):
        changed = kernel.copy()
        if change == "bit":
            changed.view(np.uint32)[3, 1] ^= 1
        else:
            changed[0, 0], changed[5, 2] = kernel[5, 2], kernel[0, 0]
        params = {**state.variables["params"], "head": {**state.variables["params"]["head"]}}
        params["head"]["kernel"] = jnp.asarray(changed)
        seen.add(int(fingerprint(state.replace(variables={"params": params}))))
    assert len(seen) == 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "uint8"])
def test_the_fingerprint_reads_every_type(dtype):
    values = np.arange(6).astype(jnp.dtype(dtype))
    changed = values.copy()
    changed.view(np.uint8)[3] ^= 1
    seen = {int(fingerprint({"values": jnp.asarray(each)})) for each in (values, changed)}
    assert len(seen) == 2


def test_the_order_of_an_epoch_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        return np.asarray(epoch_order(seed, epoch, examples=100, batch_size=32))

    np.testing.assert_array_equal(order(0, 1), order(0, 1))
    assert not np.array_equal(order(0, 1), order(0, 2))
    assert not np.array_equal(order(0, 1), order(1, 1))
    assert order(0, 1).shape == (3, 32)
    assert len(np.unique(order(0, 1))) == 96


class RootedNet(nn.Module):
    """A network whose gradient with respect to a black pixel is infinite."""

    @nn.compact
    def __call__(self, x, *, train=False, features=False):
        x = jnp.sqrt(x).reshape(len(x), -1)
        logits = nn.Dense(10)(x)
        return (logits, x) if features else logits


def test_images_whose_gradient_is_not_finite_are_counted_and_trained_on(tiny_config):
    state, metrics = run(tiny_config("pgd_at"), steps=1, model=RootedNet())
    assert metrics["lost_gradient"] == 1.0
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))
    _, metrics = run(tiny_config("pgd_at"), steps=1)
    assert metrics["lost_gradient"] == 0.0
    _, metrics = run(tiny_config("standard"), steps=1)
    assert "lost_gradient" not in metrics
