"""A model from outside is checked by its shapes before anything starts."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import pytest

from bat_jax import methods, models, parallel
from bat_jax.data import load
from bat_jax.errors import UserError
from bat_jax.parallel import AXIS
from bat_jax.training.accepted import check_before, check_model
from bat_jax.training.experiment import build


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
        (lambda z, h: (z, None), "features that are a value of type NoneType of 2 images"),
        (lambda z, h: [z, h], "returns a value of type list where features is true"),
        (lambda z, h: 1 / 0, r"fails for images of shape \(8, 8, 1\) \(ZeroDivisionError at test_"),
    ],
)
def test_a_model_from_outside_that_is_not_a_classifier_is_refused(tiny_config, change, words):
    with pytest.raises(UserError, match=f"model Scripted: .*{words}"):
        build(tiny_config(), model=Scripted(change))


def test_a_model_from_outside_without_arguments_or_parameters_is_refused(tiny_config):
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(10)(images.reshape(len(images), -1))

    class Constant(nn.Module):
        def __call__(self, images, train=False, features=False):
            return jnp.zeros((len(images), 10))

    with pytest.raises(
        UserError, match=r"argument 'train'.*; expected a module with __call__\(ima"
    ):
        build(tiny_config(), model=Plain())
    with pytest.raises(UserError, match="model Constant: has no parameters"):
        build(tiny_config(), model=Constant())


def test_a_model_whose_batch_norm_is_synchronised_may_come_from_outside(tiny_config):
    model = models.create("resnet18", 10, width=4, mean=(0.5,), std=(0.5,), axis_name=AXIS)
    dataset = load("digits")
    check_model(model, dataset, parallel.make_mesh(2))


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
