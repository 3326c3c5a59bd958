"""Methods define their fields and their loss; those from outside use the same trainer."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bat_jax import methods
from bat_jax.errors import UserError
from bat_jax.fields import Real
from bat_jax.methods import mean
from bat_jax.training.building import build
from tests.methods import outside
from tests.training.conftest import built, tiny
from tests.training.test_step import (
    FROM_START,
    assert_close,
    attacked,
    first_labels,
    order_of,
    run,
)


def from_outside(name, **fields):
    config = tiny(f"tests.methods.outside:{name}")
    methods.complete(config)
    config.update_from_flattened_dict(fields)
    return config


def test_every_method_has_a_title_and_a_reference():
    for name, method in methods.METHODS.items():
        assert (method.name, methods.title(name)) == (name, method.title)
        assert method.reference
        assert method.select_by == ("clean" if method.attack is None else "pgd")


def test_a_new_method_is_one_file(tmp_path):
    """In a copy of the package: the file is found, and brings its section and its checks."""
    root = Path(methods.__file__).parents[2]
    shutil.copytree(root / "bat_jax", tmp_path / "bat_jax")
    example = root / "examples" / "outside" / "label_weighted.py"
    shutil.copy(example, tmp_path / "bat_jax" / "methods")
    program = """
        from bat_jax import arguments, methods

        name, field = "label_weighted", "--config.objective.label_weighted.factor"
        config = arguments.parse(["--config=page.py", f"--config.objective.name={name}"]).config
        assert config.objective.label_weighted.factor == 2.0
        assert methods.create(config.objective, methods.Setup(num_steps=1)).name == name
        arguments.parse(["--config=page.py", f"{field}=-1"])
    """
    (tmp_path / "page.py").write_text("from bat_jax.config import default as get_config\n")
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    words = "config.objective.label_weighted.factor is -1.0; expected above 0"
    assert words in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pgd", "expected one of bat, gairat, grad_align, mart, pgd_at, standard, te, trades"),
        ("nowhere.to:Be", "importing nowhere.to fails"),
        ("tests.methods.outside:Nobody", "has no Nobody"),
        ("tests.methods.outside:confidence", "expected a class derived from"),
        ("bat_jax.methods:Method", "has no name, title, reference"),
    ],
)
def test_an_object_that_is_not_a_method_is_refused(name, words):
    with pytest.raises(UserError, match=words):
        methods.find(name)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"name": "trades"}, "has the name 'trades'; expected letters, digits and _, and"),
        ({"name": "name"}, "has the name 'name'"),
        ({"name": "awp"}, "has the name .awp."),
        ({"name": "a.b"}, r"has the name 'a\.b'"),
        ({"name": 5}, "has the name 5; expected text"),
        ({"title": None}, "has the title None; expected text"),
        ({"select_by": "loss"}, "has select_by 'loss'; expected pgd or clean"),
        ({"fields": [1]}, "has fields of type list; expected a dict"),
        ({"fields": {"gamma": 1.0}}, r"has 1\.0 as fields\.gamma; expected a field"),
        ({"fields": {"gamma": Real}}, r"as fields\.gamma; expected a field"),
        (
            {"fields": {"part": {"gamma": Real(-1.0, low=0)}}},
            r"fields\.part\.gamma with the default",
        ),
        ({"fields": {"a.b": Real(1.0)}}, r"has 'a\.b' in fields; expected names"),
        ({"attack": "kl"}, "has the attack 'kl'; expected a bat_jax.methods.Attack"),
        ({"attack": methods.Attack("fast")}, "an attack on the loss 'fast'; expected one of"),
        ({"clean": "maybe"}, "has clean 'maybe'; expected trained, read or None"),
        ({"__init__": lambda self: None}, "calling it fails"),
    ],
)
def test_an_incomplete_method_from_outside_is_refused(monkeypatch, attributes, words):
    monkeypatch.setattr(outside, "Odd", type("Odd", (outside.Smoothed,), attributes), raising=False)
    with pytest.raises(UserError, match=words):
        build(from_outside("Odd"))


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        ([1], "returns a value of type list"),
        # It would take the place of the trainer's own.
        ({"history": None}, "has the name 'history'"),
        ({"variables": None}, "has the name 'variables'; expected a dict of memories by name"),
        ({"seen": np.zeros(3, np.float32)}, r"float32 of shape \(3,\) as seen; expected an object"),
    ],
)
def test_an_object_that_is_not_a_memory_is_refused(monkeypatch, memory, words):
    monkeypatch.setattr(outside.Remembering, "memory", lambda self, examples: memory)
    with pytest.raises(UserError, match=words):
        build(from_outside("Remembering")).initial_state()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            lambda batch: mean(batch.logits[:, 0]),
            r"returns float32 of shape \(\); expected a number",
        ),
        (
            lambda batch: (batch.logits, {}),
            r"\(float32 of shape \(64, 10\), a value of type dict\)",
        ),
        (lambda batch: (mean(batch.logits[:, 0]), {"x": batch.labels}), "int32 of .* the metric x"),
    ],
)
def test_a_loss_that_is_not_a_number_is_refused(monkeypatch, found, words):
    monkeypatch.setattr(outside.Trusting, "loss", lambda self, batch: found(batch))
    with pytest.raises(UserError, match=words):
        run(from_outside("Trusting"), steps=1)


@pytest.mark.parametrize(
    ("name", "hook", "words"),
    [
        ("Trusting", "loss", "a training step fails"),
        ("Trusting", "weights", "a training step fails"),
        ("Trusting", "targets", "a training step fails"),
        ("Trusting", "before", "a training step fails"),
        ("Trusting", "extras", "a training step fails"),
        ("Perturbed", "gradient", "a training step fails"),
        ("Remembering", "memory", "a training step fails"),
        ("Trusting", "forward_passes", "calling it fails"),
    ],
)
def test_a_part_that_raises_is_named_by_its_line_before_training(monkeypatch, name, hook, words):
    def failing(self, *args, **named):
        raise KeyError("gamma")

    monkeypatch.setattr(getattr(outside, name), hook, failing)
    with pytest.raises(UserError, match=rf"{words} \(KeyError at test_methods\.py, line \d+: 'ga"):
        build(from_outside(name))


def test_a_part_that_branches_on_traced_values_is_refused_in_short(monkeypatch):
    monkeypatch.setattr(
        outside.Trusting, "weights", lambda self, batch: 1.0 if batch.logits.max() > 1 else 2.0
    )
    with pytest.raises(UserError, match="a training step fails") as found:
        build(from_outside("Trusting"))
    assert len(str(found.value)) < 600


def test_a_method_from_outside_brings_its_section_and_its_ranges():
    config = from_outside("Perturbed")
    assert config.objective.perturbed.gamma == 0.01
    config.objective.perturbed.gamma = -1.0
    with pytest.raises(UserError, match=r"perturbed\.gamma is -1\.0; expected 0 or more"):
        build(config)


def test_a_method_may_take_two_passes():
    plain, _ = run(tiny("pgd_at"), steps=1)
    still, _ = run(from_outside("Perturbed", **{"objective.perturbed.gamma": 0.0}), steps=1)
    jax.tree.map(np.testing.assert_array_equal, still.variables, plain.variables)

    config = from_outside("Perturbed", **{"objective.perturbed.gamma": 0.5})
    moved, _ = run(config, steps=1)
    # By hand: the gradient at params + gamma * gradient, applied to params.
    experiment = built(tiny("pgd_at"))
    state, step = experiment.initial_state(), config.train.optimizer
    images, labels = attacked(experiment, state)

    def loss(params):
        logits = experiment.model.apply({"params": params}, images)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    params, gradient = state.variables["params"], jax.jit(jax.grad(loss))
    ascended = jax.tree.map(lambda p, g: p + 0.5 * g, params, gradient(params))
    expected = jax.tree.map(
        lambda p, g: p - step.learning_rate * (g + step.weight_decay * p),
        params,
        gradient(ascended),
    )
    assert_close(moved.variables["params"], expected, rtol=1e-4, atol=1e-6)


def test_logits_that_are_read_pass_no_gradient():
    _, metrics = run(from_outside("Reading"), steps=1)
    assert metrics["gradient_norm"] == 0


@pytest.mark.parametrize("devices", [1, 2])
def test_a_method_may_remember_every_example(devices):
    config = from_outside("Remembering", **{"parallel.devices": devices})
    steps = built(config).steps_per_epoch
    after, metrics = run(config, steps=steps)
    memory = after.memory["average"]
    # Every row of the epoch's batches was seen once, and its probabilities add up to 1.
    rows = np.unique(np.asarray(order_of(built(config))))
    np.testing.assert_array_equal(np.flatnonzero(memory.visits), rows)
    np.testing.assert_allclose(memory.sums[rows].sum(axis=1), 1.0, rtol=1e-5)
    assert metrics["pull"] == 0
    np.testing.assert_array_equal(after.memory["history"].presented, memory.visits.astype(int))


def test_what_is_remembered_changes_the_loss_at_the_next_visit():
    experiment = built(from_outside("Remembering"))
    state, data, root = experiment.initial_state(), experiment.train_data(), experiment.root()
    order, step = order_of(experiment)[:1], experiment.train_step
    state, first = step(state, data, order, root)
    _, second = step(state, data, order, root)
    assert float(first["pull"]) == 0.0
    assert float(second["pull"]) > 0.0


def test_a_memory_needs_its_own_name(monkeypatch):
    monkeypatch.setattr(outside.Remembering, "memory", lambda self, examples: {"ema": None})
    with pytest.raises(UserError, match=r"memory\(\) has the name .ema."):
        build(from_outside("Remembering")).initial_state()


def test_soft_targets_reach_the_attack_and_the_loss():
    _, metrics = run(from_outside("Smoothed"), steps=1)
    experiment = built(from_outside("Smoothed"))
    state, labels = experiment.initial_state(), first_labels(experiment)
    target = 0.8 * jax.nn.one_hot(labels, 10) + 0.02
    images, _ = attacked(experiment, state, targets=target)
    logits = experiment.model.apply(state.variables, images)
    expected = jnp.mean(-jnp.sum(target * jax.nn.log_softmax(logits), axis=-1))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_targets_without_smoothing_are_the_labels():
    hard, _ = run(from_outside("Smoothed", **{"objective.smoothed.amount": 0.0}), steps=1)
    plain, _ = run(tiny("pgd_at"), steps=1)
    assert_close(hard.variables, plain.variables, rtol=1e-4, atol=1e-6)


def test_any_function_is_an_inner_loss():
    _, metrics = run(from_outside("Trusting"), steps=1)
    experiment = built(from_outside("Trusting"))
    state = experiment.initial_state()
    images, labels = attacked(experiment, state, loss=outside.confidence)
    logits = experiment.model.apply(state.variables, images)
    expected = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


# Loss, gradient norm and distance from the start after each of three steps of `tiny`, weights from
# the first step on, as the trainer had them when the row was added. A sign error in momentum,
# decay, schedule, attack, loss or perturbation that leaves a run finite changes them.
GOLDEN = {
    "standard": [
        (2.354038, 0.857076, 0.042870),
        (2.352549, 0.963692, 0.111671),
        (2.299009, 0.787010, 0.201736),
    ],
    "pgd_at": [
        (2.718927, 1.165807, 0.058344),
        (2.678282, 1.097396, 0.153229),
        (2.562773, 0.816676, 0.270041),
    ],
    "trades": [
        (2.540929, 1.181548, 0.059130),
        (2.498133, 1.180338, 0.159024),
        (2.421090, 0.871605, 0.283219),
    ],
    "mart": [
        (3.004476, 1.690804, 0.084598),
        (2.892727, 1.442091, 0.221447),
        (2.721567, 0.920415, 0.380916),
    ],
    "gairat": [
        (2.733318, 1.218495, 0.060978),
        (2.691808, 1.108271, 0.159014),
        (2.592929, 0.891259, 0.281947),
    ],
    "bat": [
        (3.024841, 1.239865, 0.062043),
        (3.011362, 1.159013, 0.163354),
        (2.894844, 0.854018, 0.284795),
    ],
    "te": [
        (2.691634, 1.154796, 0.057791),
        (2.671807, 1.053059, 0.067940),
        (2.721639, 1.179079, 0.082036),
    ],
    "grad_align": [
        (2.789881, 1.201719, 0.060141),
        (2.721065, 1.148803, 0.160970),
        (2.619057, 0.812460, 0.284376),
    ],
    "pgd_at with AWP": [
        (3.626833, 3.662729, 0.183200),
        (3.317498, 3.283184, 0.449852),
        (2.714717, 0.874721, 0.726442),
    ],
    "bat with AWP": [
        (3.874000, 3.548995, 0.177510),
        (3.594267, 3.020314, 0.436902),
        (3.027251, 0.760562, 0.695866),
    ],
}
CHANGES = {
    # Epochs of one step, so that every step sees the images again, at a larger weight.
    "te": {
        "data.subset": 64,
        "objective.te.start_epoch": 0.0,
        "objective.te.ramp_epochs": 2.0,
    },
    "grad_align": {
        "attack.num_steps": 1,
        "attack.step_size": 0.1,
        "attack.random_start": False,
    },
    "pgd_at with AWP": {"objective.awp.gamma": 0.05},
    "bat with AWP": {"objective.awp.gamma": 0.05},
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_first_steps_are_unchanged(name):
    fields = {"model.name": "small_cnn", "model.width": 4, **FROM_START, **CHANGES.get(name, {})}
    experiment = build(tiny(name.split()[0], **fields))
    state, data, root = experiment.initial_state(), experiment.train_data(), experiment.root()
    before = jax.device_get(state.variables)
    order, step = order_of(experiment), experiment.train_step
    found = []
    for _ in range(3):
        state, metrics = step(state, data, order, root)
        moved = jax.tree.map(lambda a, b: a - b, jax.device_get(state.variables), before)
        found.append((metrics["loss"], metrics["gradient_norm"], optax.tree.norm(moved)))
    np.testing.assert_allclose(np.asarray(found), GOLDEN[name], rtol=2e-3)
