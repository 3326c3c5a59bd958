"""Proxies of memorization as functions of any model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.errors import UserError
from bat_jax.memorization import proxies

DRAWS = np.random.default_rng(0)
IMAGES = DRAWS.random((3, 2, 2, 1)).astype(np.float32)
LABELS = np.array([0, 2, 1], np.int32)
WEIGHTS = DRAWS.normal(size=(4, 3)).astype(np.float32)


def model(scale):
    return lambda images: images.reshape(len(images), -1) @ jnp.asarray(scale * WEIGHTS)


def softmax(scale=1.0):
    logits = IMAGES.reshape(3, 4).astype(np.float64) @ (scale * WEIGHTS.astype(np.float64))
    exponents = np.exp(logits)
    return exponents / exponents.sum(1, keepdims=True)


def test_cumulative_loss_sums_the_losses_of_all_models():
    found = proxies.cumulative_loss([model(1.0), model(2.0)], IMAGES, LABELS)
    expected = sum(-np.log(softmax(scale)[np.arange(3), LABELS]) for scale in (1.0, 2.0))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_loss_sensitivity_is_the_l1_norm_of_the_gradient():
    found = proxies.loss_sensitivity(model(1.0), IMAGES, LABELS)
    gradient = (softmax() - np.eye(3)[LABELS]) @ WEIGHTS.T.astype(np.float64)
    np.testing.assert_allclose(found, np.abs(gradient).sum(1), rtol=1e-5)


def test_curvature_is_the_trace_of_the_squared_hessian():
    found = jax.jit(lambda key: proxies.curvature(model(1.0), IMAGES, LABELS, key, draws=4000))(
        jax.random.key(0)
    )
    expected = []
    for p in softmax():
        hessian = WEIGHTS @ (np.diag(p) - np.outer(p, p)) @ WEIGHTS.T
        expected.append(np.trace(hessian @ hessian))
    np.testing.assert_allclose(found, expected, rtol=0.05)


def test_wrong_arguments_are_refused():
    with pytest.raises(UserError, match="no models; expected those of a training"):
        proxies.cumulative_loss([], IMAGES, LABELS)
    with pytest.raises(UserError, match="draws is 0; expected 1 or more"):
        proxies.curvature(model(1.0), IMAGES, LABELS, jax.random.key(0), draws=0)


def test_any_proxy_is_compared_by_correlations_and_cosine():
    draws = np.random.default_rng(1)
    memorization = draws.random(50)
    proxy = memorization + 0.3 * draws.random(50)
    memorization[0], proxy[1], proxy[2] = np.nan, np.nan, np.inf
    found = proxies.compare_values(proxy, memorization, threshold=0.5)
    proxy[2] = np.max(proxy[3:]) + 1
    first, second = proxy[2:], memorization[2:]
    assert found.pearson.value == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert found.pearson.interval[0] < found.pearson.value < found.pearson.interval[1]
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert found.cosine.value == pytest.approx(cosine)
    assert found.rank_correlation.n == found.cosine.n == 48
    # The place of an infinite proxy follows from the finite ones, whatever their sign.
    lowered = np.append(proxy[3:] - 9, np.inf), np.append(memorization[3:], 0.9)
    raised = np.append(proxy[3:], proxy[3:].max() + 1), lowered[1]
    of_lowered, of_raised = (proxies.compare_values(*pair) for pair in (lowered, raised))
    assert of_lowered.pearson.value == pytest.approx(of_raised.pearson.value)
    assert found.atypical == (second > 0.5).sum()
