"""Winograd's convolution equals the plain one up to float rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.kernels import convolution, winograd
from bat_jax.models.blocks import PreActivationBlock
from tests.kernels.pullback import inputs, pullback


def plain(images, kernel):
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )


@pytest.mark.parametrize("sides", [(4, 4), (8, 5), (16, 16)])
def test_values_and_gradients_are_those_of_the_plain_convolution(sides):
    arrays = inputs((3, *sides, 24), (3, 3, 24, 16))
    expected, found = pullback(plain, *arrays), pullback(winograd.convolution, *arrays)
    for one, other in zip(found, expected, strict=True):
        # The outputs are sums of hundreds of terms: rounding is relative to their spread.
        np.testing.assert_allclose(one, other, atol=2e-5 * np.std(other))


def test_its_error_is_a_few_roundings_of_the_plain_sums():
    draws = np.random.default_rng(0)
    images, kernel = draws.normal(size=(2, 8, 8, 128)), draws.normal(size=(3, 3, 128, 32))
    with jax.enable_x64(True):
        exact = np.asarray(plain(jnp.asarray(images), jnp.asarray(kernel)))
    images, kernel = jnp.asarray(images, jnp.float32), jnp.asarray(kernel, jnp.float32)
    errors = {
        form: np.sqrt(np.mean((form(images, kernel) - exact) ** 2)) / np.std(exact)
        for form in (plain, winograd.convolution)
    }
    assert errors[winograd.convolution] < 6 * errors[plain]


def block(conv):
    return PreActivationBlock(32, 1, axis_name=None, dtype=jnp.float32, conv=conv)


def test_a_residual_block_computes_the_same_with_either_convolution():
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 32))
    init = jax.jit(block(convolution.xla).init, static_argnames="train")
    variables = init(jax.random.key(1), images, train=False)

    def loss(params, images, conv):
        outputs, _ = block(conv).apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.mean(outputs**2)

    found = {}
    for name in ("cpu", "xla"):
        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
        inputs = (variables["params"], images, convolution.CONVOLUTIONS[name])
        assert ("optimization_barrier" in str(gradient.trace(*inputs).jaxpr)) == (name == "cpu")
        found[name] = gradient(*inputs)

    def check(one, other):
        np.testing.assert_allclose(one, other, atol=1e-4 * float(jnp.max(jnp.abs(other))))

    jax.tree.map(check, found["cpu"], found["xla"])
