"""The CPU form of convolutions of gray images equals XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import models
from bat_jax.kernels import gray
from bat_jax.kernels.convolution import CONVOLUTIONS


def of_xla(images, kernel):
    return jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize("kernel_shape", [(3, 3), (1, 1), (2, 5)])
def test_values_and_gradients_are_those_of_xla(kernel_shape):
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (4, 9, 11, 1))
    kernel = jax.random.normal(keys[1], (*kernel_shape, 1, 6))
    expected, expected_vjp = jax.vjp(of_xla, images, kernel)
    found, found_vjp = jax.vjp(gray.convolution, images, kernel)
    cotangent = jax.random.normal(keys[2], expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for one, other in zip(found_vjp(cotangent), expected_vjp(cotangent), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_model_computes_the_same_with_either_convolution():
    images = jax.random.uniform(jax.random.key(0), (8, 12, 12, 1))
    found = {}
    for name in ("cpu", "xla"):
        model = models.create("small_cnn", 10, width=4, conv=CONVOLUTIONS[name])
        variables = model.init(jax.random.key(1), images)

        def loss(variables, images, model=model):
            return jnp.sum(jax.nn.logsumexp(model.apply(variables, images), axis=-1))

        text = str(jax.make_jaxpr(loss)(variables, images))
        assert text.count("conv_general_dilated[") == {"cpu": 2, "xla": 3}[name]
        found[name] = jax.grad(loss, argnums=(0, 1))(variables, images)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        found["cpu"],
        found["xla"],
    )
