"""The CPU form of convolutions of gray images equals XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import models
from bat_jax.kernels import gray
from bat_jax.kernels.convolution import CONVOLUTIONS
from tests.kernels.pullback import inputs, pullback


def of_xla(images, kernel):
    return jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize("kernel_shape", [(3, 3), (1, 1), (2, 5)])
def test_values_and_gradients_are_those_of_xla(kernel_shape):
    arrays = inputs((4, 9, 11, 1), (*kernel_shape, 1, 6))
    expected, found = pullback(of_xla, *arrays), pullback(gray.convolution, *arrays)
    for one, other, tolerance in zip(found, expected, (1e-5, 1e-4, 1e-4), strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)


def test_a_model_computes_the_same_with_either_convolution():
    images = jax.random.uniform(jax.random.key(0), (8, 12, 12, 1))
    found = {}
    for name in ("cpu", "xla"):
        model = models.create("small_cnn", 10, width=4, conv=CONVOLUTIONS[name])
        variables = jax.jit(model.init)(jax.random.key(1), images)

        def loss(variables, images, model=model):
            return jnp.sum(jax.nn.logsumexp(model.apply(variables, images), axis=-1))

        text = str(jax.make_jaxpr(loss)(variables, images))
        assert text.count("conv_general_dilated[") == {"cpu": 2, "xla": 3}[name]
        found[name] = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, images)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        found["cpu"],
        found["xla"],
    )


def test_forward_mode_takes_xlas_convolution():
    arrays = inputs((2, 4, 4, 1), (3, 3, 1, 2))
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def slope(name):
        def conv(images, kernel):
            return CONVOLUTIONS[name](images, kernel, (1, 1), ((1, 1), (1, 1)), **options)

        return jax.jit(lambda *primals: jax.jvp(conv, primals, primals)[1]).lower(*arrays)

    assert slope("xla").out_info.shape == (2, 4, 4, 2)
    with pytest.raises(TypeError, match="forward-mode"):
        slope("patches")
