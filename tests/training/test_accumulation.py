"""A batch in parts gives the same step as the whole batch, without batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.errors import UserError
from bat_jax.training import accumulation
from bat_jax.training.building import check_batch
from tests.training.conftest import built
from tests.training.test_step import FROM_START, assert_close, history_of, run, smooth_attack


@pytest.mark.parametrize(
    "objective",
    ["bat", "mart", *(pytest.param(name, marks=pytest.mark.slow) for name in ("trades", "gairat"))],
)
def test_a_step_in_parts_is_the_step_of_the_large_batch(tiny_config, objective):
    fields = {
        **FROM_START,
        **smooth_attack(objective),
        "parallel.devices": 2,
    }
    whole, metrics = run(tiny_config(objective, **fields))
    parts, in_parts = run(tiny_config(objective, **fields, **{"train.accumulation": 4}))
    assert_close(parts.variables, whole.variables, rtol=1e-4, atol=1e-6)
    assert_close(in_parts, metrics, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        history_of(parts).loss_sum, history_of(whole).loss_sum, rtol=1e-3, atol=1e-5
    )


def test_batch_norm_moves_once_by_the_mean_over_the_parts():
    batch = jnp.arange(8.0)

    def forward(variables, part):
        moved = 0.9 * variables["batch_stats"] + 0.1 * part.mean()
        return part * variables["params"], {**variables, "batch_stats": moved}

    def loss(outputs):
        return jnp.sum(outputs**2), None

    variables = {"params": jnp.float32(2.0), "batch_stats": jnp.float32(1.0)}
    results = [
        accumulation.value_and_grad(forward, loss, variables, batch, parts=parts)
        for parts in (1, 4)
    ]
    for found in results:
        np.testing.assert_allclose(found.loss, 4 * 140.0)
        np.testing.assert_allclose(found.params, 4 * 140.0)
        np.testing.assert_allclose(found.variables["batch_stats"], 0.9 + 0.35, rtol=1e-6)


def test_a_batch_that_does_not_divide_into_the_parts_is_refused(tiny_config):
    config = tiny_config(**{"train.accumulation": 3, "parallel.devices": 2})
    with pytest.raises(UserError, match="64, which 2 devices in 3 parts each cannot share"):
        check_batch(built(config))


def test_parts_come_together_in_order():
    batch = {"a": jnp.arange(12).reshape(6, 2), "b": jnp.arange(6)}
    merged = accumulation.merge(accumulation.split(batch, 3))
    jax.tree.map(np.testing.assert_array_equal, merged, batch)
    doubled = accumulation.mapped(lambda part: part["b"] * 2, batch, parts=3)
    np.testing.assert_array_equal(doubled, np.arange(6) * 2)
