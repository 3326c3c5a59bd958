"""The fast network is one function in every layout, and takes sides that are not even."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bat_jax.kernels.convolution import CONVOLUTIONS
from bat_jax.models.fast_cnn import FastCNN, create


def test_layouts_agree_in_logits_gradients_and_batch_statistics():
    draws = np.random.default_rng(0)
    images = jnp.asarray(draws.random((3, 18, 17, 3), np.float32))
    variables = jax.tree.map(
        lambda leaf: draws.random(leaf.shape, np.float32) - 0.3,
        jax.eval_shape(FastCNN(4, width=2).init, jax.random.key(1), images),
    )

    def value_and_gradients(conv):
        def value(params):
            logits, after = FastCNN(4, width=2, conv=CONVOLUTIONS[conv]).apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.sin(logits)), after

        return jax.jit(jax.value_and_grad(value, has_aux=True))(variables["params"])

    found, expected = (jax.tree.leaves(value_and_gradients(c)) for c in ("batch_last", "xla"))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_network_of_a_config_has_features_that_its_logits_are_linear_in():
    model = create(num_classes=5, image_shape=(32, 32, 3))
    assert isinstance(model, nn.Module)
    images = jnp.zeros((2, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    logits, features = jax.eval_shape(
        lambda v, x: model.apply(v, x, features=True), variables, images
    )
    assert (logits.shape, features.shape) == ((2, 5), (2, 4 * model.width))


def test_the_mean_over_the_map_is_not_rounded_to_bfloat16():
    images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
    model = FastCNN(3, width=2, dtype=jnp.bfloat16)
    variables = jax.jit(model.init)(jax.random.key(1), images)
    _, features = jax.jit(lambda v, x: model.apply(v, x, features=True))(variables, images)
    assert features.dtype == jnp.float32
    assert np.any(features != features.astype(jnp.bfloat16).astype(jnp.float32))
