"""Descriptions of different given models differ, and are the same in every process."""

import functools
import json
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bat_jax.models import adapted, pretrained
from bat_jax.models.described import described


class Block(nn.Module):
    """A dense layer."""

    width: int = 2

    @nn.compact
    def __call__(self, images, train=False, features=False):
        return nn.Dense(self.width)(images.reshape(len(images), -1))


class Net(nn.Module):
    """Fields of every kind."""

    block: Block = Block()
    activation: Callable[..., Any] = nn.relu
    dtype: Any = jnp.float32
    sizes: tuple[int, ...] = (1, 2)
    table: Any = None
    other: Any = None

    @nn.compact
    def __call__(self, images):
        return self.activation(self.block(images))


IMAGES = np.zeros((1, 2, 2, 1), np.float32)


def description(module):
    model = adapted(module)
    return described(model, jax.eval_shape(model.init, jax.random.key(0), IMAGES))


def test_a_description_is_plain_and_the_same_again():
    found = description(Net(table=np.arange(3), other=functools.partial(nn.relu, 1)))
    assert json.loads(json.dumps(found)) == found
    assert "0x" not in json.dumps(found)
    assert found == description(Net(table=np.arange(3), other=functools.partial(nn.relu, 1)))
    assert found["class"] == f"{__name__}:Net"
    assert found["variables"].startswith("10 numbers in 2 arrays (")
    assert found["fields"]["sizes"] == [1, 2]
    assert found["start"] is None


@pytest.mark.parametrize(
    "changed",
    [
        {"block": Block(3)},
        {"activation": nn.silu},
        {"dtype": jnp.bfloat16},
        {"sizes": (1, 3)},
        {"table": np.arange(3)},
        {"other": float("inf")},
    ],
)
def test_every_field_tells(changed):
    assert description(Net(**changed)) != description(Net())


def test_given_values_tell():
    variables = adapted(Block()).init(jax.random.key(0), IMAGES)
    others = jax.tree.map(lambda leaf: leaf + 1, variables)
    assert description(pretrained(Block(), variables)) == description(
        pretrained(Block(), variables)
    )
    assert description(pretrained(Block(), variables)) != description(pretrained(Block(), others))
    first, second = (nnx.Linear(4, 2, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    assert description(first) == description(first)
    assert description(first) != description(second)
    # Values that are drawn by the seed of the run are not compared.
    assert description(lambda rngs: nnx.Linear(4, 2, rngs=rngs))["start"] is None
