"""Every form computes what XLA does, whatever the options of `jax.lax.conv_general_dilated` are."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from bat_jax import models
from bat_jax.kernels.convolution import CONVOLUTIONS
from tests.kernels.pullback import inputs

FORMS = ("cpu", "patches", "batch_last")
PADDED = ((1, 1), (1, 1))


class Outside(nn.Module):
    """A user's network, whose convolutions can be computed by other functions."""

    options: Any
    conv: Any = jax.lax.conv_general_dilated

    @nn.compact
    def __call__(self, images):
        options = {**self.options, "conv_general_dilated": self.conv}
        return nn.Conv(**{"features": 32, "kernel_size": (3, 3), **options})(images)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (32, {"padding": ((2, 2), (2, 2)), "kernel_dilation": 2}),
        (32, {"padding": PADDED, "kernel_dilation": 2}),
        (32, {"padding": PADDED, "input_dilation": (1, 2)}),
        (64, {"padding": PADDED, "feature_group_count": 2}),
        (32, {"padding": "SAME", "strides": 2}),
        (32, {"padding": "CIRCULAR"}),
        (1, {"padding": "SAME"}),
        (1, {"padding": PADDED, "kernel_dilation": 2}),
        (32, {"padding": PADDED}),
        (1, {"padding": PADDED}),
    ],
)
def test_a_users_convolution_is_that_of_xla(channels, options, form):
    model = Outside(options)
    shapes = ((2, 8, 8, channels), (3, 3, channels // options.get("feature_group_count", 1), 32))
    images, kernel = inputs(*shapes)
    variables = {"params": {"Conv_0": {"kernel": kernel, "bias": np.zeros(32, np.float32)}}}
    expected = jax.jit(model.apply)(variables, images)
    found = jax.jit(models.with_conv(model, CONVOLUTIONS[form]).apply)(variables, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "options",
    [{"batch_group_count": 2}, {"dimension_numbers": ("NHWC", "HWOI", "NHWC")}],
)
def test_options_that_flax_does_not_pass_are_those_of_xla(options, form):
    images, kernel = inputs((2, 8, 8, 32), (3, 3, 32, 32))
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options}
    expected, found = (
        jax.jit(lambda x, k, of=of: of(x, k, (1, 1), PADDED, **options))(images, kernel)
        for of in (jax.lax.conv_general_dilated, CONVOLUTIONS[form])
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
