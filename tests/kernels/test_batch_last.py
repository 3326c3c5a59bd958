"""Convolutions with the batch last equal XLA's."""

import jax
import numpy as np
import pytest

from bat_jax.kernels import batch_last
from tests.kernels.pullback import inputs, pullback


def of_xla(images, kernel, stride):
    return jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), "VALID", dimension_numbers=("CHWN", "HWIO", "CHWN")
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_shape", [(3, 3), (1, 1), (2, 5)])
def test_values_and_gradients_are_those_of_xla(kernel_shape, stride, channels):
    arrays = inputs((channels, 9, 12, 4), (*kernel_shape, channels, 6))
    expected = pullback(lambda *args: of_xla(*args, stride), *arrays)
    found = pullback(lambda *args: batch_last.convolution(*args, stride), *arrays)
    for one, other, tolerance in zip(found, expected, (1e-5, 1e-4, 1e-4), strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)
