"""A model from outside is checked by its shapes before anything starts."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from bat_jax import methods, models, parallel
from bat_jax.data import load
from bat_jax.errors import UserError
from bat_jax.parallel import AXIS
from bat_jax.training.accepted import check_before, check_loss, check_model
from bat_jax.training.building import build
from bat_jax.training.flops import lowered_step


class Scripted(nn.Module):
    """A classifier with modified outputs."""

    change: Callable[..., Any]

    @nn.compact
    def __call__(self, images, train=False, features=False):
        del train
        flat = images.reshape(len(images), -1)
        logits = nn.Dense(10)(flat)
        return self.change(logits, flat) if features else self.change(logits, flat)[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda z, h: (z.astype(jnp.bfloat16), h), r"logits that are bfloat16 of shape \(2, 10\)"),
        (lambda z, h: (z[:, :9], h), r"\(2, 9\) for 2 images of 10 classes; expected float32 of"),
        (lambda z, h: (z[:, 0], h), r"logits that are float32 of shape \(2,\)"),
        (lambda z, h: (z, h[:, :, None]), r"features that are float32 of shape \(2, 64, 1\)"),
        (lambda z, h: (z, None), "has no features, which the objective bat compares"),
        (lambda z, h: [z, h], "returns a value of type list where features is true"),
        (lambda z, h: 1 / 0, r"fails for images of shape \(8, 8, 1\) \(ZeroDivisionError at test_"),
    ],
)
def test_a_model_from_outside_that_is_not_a_classifier_is_refused(tiny_config, change, words):
    with pytest.raises(UserError, match=f"model Scripted: .*{words}"):
        build(tiny_config(), model=Scripted(change))


class Plain(nn.Module):
    """A classifier without features."""

    outputs: int = 10
    counted: bool = False
    batches: bool = False

    @nn.compact
    def __call__(self, images):
        if self.counted:
            count = self.variable("counts", "calls", jnp.zeros, ())
            count.value += 1.0
        if self.batches:
            count = self.variable("batch_stats", "batches", jnp.zeros, (), jnp.int32)
            if self.is_mutable_collection("batch_stats"):
                count.value += 1
        return nn.Dense(self.outputs)(images.reshape(len(images), -1))


def test_features_are_needed_by_methods_that_compare_them_alone(tiny_config):
    words = "model Plain: has no features, which the objective bat compares; expected a call"
    with pytest.raises(UserError, match=words):
        build(tiny_config("bat"), model=Plain())
    for objective, fields in (("bat", {"objective.bat.beta_dl": 0.0}), ("pgd_at", {})):
        config = tiny_config(objective, **{"parallel.devices": 2, **fields})
        experiment = build(config, model=Plain())
        assert jax.eval_shape(experiment.initial_state).step.shape == ()
        assert lowered_step(experiment).as_text()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Plain(outputs=9), r"logits that are float32 of shape \(2, 9\)"),
        (Plain(counted=True), "changes a variable in a forward pass .*counts.*batch_stats"),
        (Plain(batches=True), "has int32 of shape .* as batch_stats/batches; expected floating"),
        (nnx.Linear(64, 10, rngs=nnx.Rngs(0)), r"model Linear: .*shape \(2, 8, 8, 10\)|fails for"),
    ],
)
def test_what_any_module_must_be_is_named(tiny_config, model, words):
    with pytest.raises(UserError, match=words):
        build(tiny_config("pgd_at"), model=model)


def test_a_model_from_outside_without_parameters_is_refused(tiny_config):
    class Constant(nn.Module):
        def __call__(self, images, train=False, features=False):
            return jnp.zeros((len(images), 10))

    with pytest.raises(UserError, match="model Constant: has no parameters"):
        build(tiny_config(), model=Constant())


def test_a_model_whose_batch_norm_is_synchronised_may_come_from_outside(tiny_config):
    model = models.create("resnet18", 10, width=4, mean=(0.5,), std=(0.5,), axis_name=AXIS)
    dataset = load("digits")
    method = methods.METHODS["pgd_at"]({}, methods.Setup(num_steps=1))
    check_model(model, dataset, parallel.make_mesh(2), method)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (jnp.zeros((3, 10)), r"float32 of shape \(3, 10\); expected arrays with a row"),
        ({"weight": 2.0}, "a value of type float; expected arrays with a row for each of the 4"),
    ],
)
def test_what_is_computed_before_the_attack_has_a_row_for_each_image(found, words):
    method = methods.METHODS["pgd_at"]({}, methods.Setup(num_steps=1))
    assert check_before(method, (jnp.zeros(4), None), 4) is not None
    with pytest.raises(UserError, match=words):
        check_before(method, found, 4)


@pytest.mark.parametrize("name", ["loss", "accuracy", "step", "learning_rate"])
def test_a_metric_of_a_method_replaces_none_of_the_trainer(tiny_config, name):
    method = build(tiny_config("pgd_at")).method
    with pytest.raises(UserError, match=f"has a metric {name}, which the trainer records itself"):
        check_loss(method, (jnp.float32(0.5), {"mine": 1.0, name: 1.0}))
    assert check_loss(method, (jnp.float32(0.5), {"mine": 1.0}))[1] == {"mine": 1.0}


@pytest.mark.parametrize("found", [jnp.ones((4, 1)), jnp.ones(3), 1.0, None])
def test_a_method_gives_each_image_one_weight(tiny_config, monkeypatch, found):
    method = build(tiny_config("pgd_at")).method
    of_images = jnp.zeros(4)
    rows = of_images.astype(jnp.int32)
    batch = methods.Batch(
        rows, jnp.zeros((4, 10)), None, None, rows, of_images, epoch=jnp.float32(0)
    )
    assert method.applied(batch).shape == (4,)
    monkeypatch.setattr(type(method), "weights", lambda self, batch: found)
    with pytest.raises(UserError, match=r"weights\(\) returns .* of shape \(4,\), a wei"):
        method.applied(batch)
