"""Convolutions with the batch last equal XLA's."""

import jax
import numpy as np
import pytest

from bat_jax.kernels import batch_last


def of_xla(images, kernel, stride):
    return jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), "VALID", dimension_numbers=("CHWN", "HWIO", "CHWN")
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_shape", [(3, 3), (1, 1), (2, 5)])
def test_values_and_gradients_are_those_of_xla(kernel_shape, stride, channels):
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (channels, 9, 12, 4))
    kernel = jax.random.normal(keys[1], (*kernel_shape, channels, 6))
    expected, expected_vjp = jax.vjp(lambda *args: of_xla(*args, stride), images, kernel)
    found, found_vjp = jax.vjp(lambda *args: batch_last.convolution(*args, stride), images, kernel)
    cotangent = jax.random.normal(keys[2], expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for one, other in zip(found_vjp(cotangent), expected_vjp(cotangent), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
