"""Each loss against float64 NumPy, written from docs/method.md with plain loops."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from bat_jax import losses, parallel

BATCH, CLASSES, WIDTH = 12, 5, 7


def example(seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    return {
        "clean": rng.normal(size=(BATCH, CLASSES)) * scale,
        "adversarial": rng.normal(size=(BATCH, CLASSES)) * scale,
        "labels": rng.integers(0, CLASSES, BATCH),
        "features": rng.normal(size=(BATCH, WIDTH)),
        "memorization": rng.uniform(-0.2, 1.0, BATCH),
    }


def device(array):
    dtype = np.int32 if np.issubdtype(array.dtype, np.integer) else np.float32
    return jnp.asarray(array.astype(dtype))


def softmax(logits):
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def numpy_cross_entropy(logits, labels):
    return np.array([-np.log(softmax(z)[y]) for z, y in zip(logits, labels, strict=True)])


def numpy_kl(p_logits, q_logits):
    values = []
    for z, other in zip(p_logits, q_logits, strict=True):
        p, q = softmax(z), softmax(other)
        values.append(np.sum(p * (np.log(p) - np.log(q))))
    return np.array(values)


def numpy_confidence(logits, labels):
    return np.array([np.delete(softmax(z), y).max() for z, y in zip(logits, labels, strict=True)])


def numpy_discrimination(features, labels, tau, similarity, denominator, pooling):
    if similarity == "cosine":
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    values = []
    for i in range(len(labels)):
        others = [k for k in range(len(labels)) if k != i]
        positives = [j for j in others if labels[j] == labels[i]]
        compared = others if denominator == "all" else [k for k in others if k not in positives]
        if not positives or not compared:
            continue
        e = {k: np.exp(features[i] @ features[k] / tau) for k in others}
        bottom = sum(e[k] for k in compared)
        if pooling == "sum":
            values.append(-np.log(sum(e[j] for j in positives) / bottom))
        else:
            values.append(np.mean([-np.log(e[j] / bottom) for j in positives]))
    return np.mean(values) if values else 0.0


def test_cross_entropy_takes_classes_or_probabilities():
    batch = example()
    logits, labels = batch["adversarial"], batch["labels"]
    found = losses.cross_entropy(device(logits), device(labels))
    np.testing.assert_allclose(found, numpy_cross_entropy(logits, labels), rtol=2e-5)
    soft = np.array([softmax(z) for z in batch["clean"]])
    expected = [-np.sum(t * np.log(softmax(z))) for t, z in zip(soft, logits, strict=True)]
    found = losses.cross_entropy(device(logits), device(soft))
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_trades_is_cross_entropy_and_divergence():
    batch = example()
    expected = numpy_cross_entropy(batch["clean"], batch["labels"]) + 6.0 * numpy_kl(
        batch["clean"], batch["adversarial"]
    )
    found = losses.trades(
        device(batch["clean"]), device(batch["adversarial"]), device(batch["labels"]), beta=6.0
    )
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_mart_is_boosted_cross_entropy_and_weighted_divergence():
    batch = example()
    p_clean = np.array(
        [softmax(z)[y] for z, y in zip(batch["clean"], batch["labels"], strict=True)]
    )
    expected = (
        numpy_cross_entropy(batch["adversarial"], batch["labels"])
        - np.log(1 - numpy_confidence(batch["adversarial"], batch["labels"]))
        + 5.0 * numpy_kl(batch["clean"], batch["adversarial"]) * (1 - p_clean)
    )
    found = losses.mart(
        device(batch["clean"]), device(batch["adversarial"]), device(batch["labels"]), beta=5.0
    )
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_gairat_weights_follow_the_tanh_and_have_mean_one():
    kappa = np.array([0, 1, 3, 5, 8, 10])
    raw = (1 + np.tanh(-1.0 + 5 * (1 - 2 * kappa / 10))) / 2
    found = losses.gairat_weights(jnp.asarray(kappa), num_steps=10, lam=-1.0)
    np.testing.assert_allclose(found, raw / raw.mean(), rtol=1e-5)
    assert np.all(np.diff(found) < 0)


@pytest.mark.parametrize("gate", ["misclassified", "all", "memorized"])
@pytest.mark.parametrize("confidence", ["adversarial", "clean"])
def test_bat_weights_fall_with_wrong_confidence_where_the_gate_is_open(gate, confidence):
    batch = example()
    is_open = {
        "misclassified": batch["adversarial"].argmax(1) != batch["labels"],
        "all": np.ones(BATCH, bool),
        "memorized": batch["memorization"] > 0.15,
    }[gate]
    confidences = numpy_confidence(batch[confidence], batch["labels"])
    expected = np.where(is_open, np.exp(-2.0 * confidences), 1.0)
    found = losses.bat_weights(
        device(batch["adversarial"]),
        device(batch["labels"]),
        alpha=2.0,
        gate=gate,
        memorization=device(batch["memorization"]),
        confidence_logits=device(batch["clean"]) if confidence == "clean" else None,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert 0 < is_open.sum() <= BATCH


def test_unknown_memorization_leaves_the_gate_shut():
    batch = example()
    weights = losses.bat_weights(
        device(batch["adversarial"]),
        device(batch["labels"]),
        alpha=2.0,
        gate="memorized",
        memorization=jnp.full(BATCH, jnp.nan),
    )
    np.testing.assert_array_equal(weights, 1.0)


def test_weights_carry_no_gradient():
    batch = example()
    labels = device(batch["labels"])

    def total(logits):
        return jnp.sum(losses.bat_weights(logits, labels, alpha=2.0, gate="all"))

    np.testing.assert_array_equal(jax.grad(total)(device(batch["adversarial"])), 0.0)

    def through(logits):
        weights = losses.bat_weights(logits, labels, alpha=2.0, gate="all")
        values = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.weighted_mean(values, weights)

    def constant(logits, weights):
        values = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.weighted_mean(values, weights)

    logits = device(batch["adversarial"])
    weights = losses.bat_weights(logits, labels, alpha=2.0, gate="all")
    np.testing.assert_allclose(
        jax.grad(through)(logits), jax.grad(constant)(logits, weights), rtol=1e-6
    )


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("denominator", ["all", "negatives"])
@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_discrimination_compares_positives_with_the_others(similarity, denominator, pooling):
    batch = example()
    expected = numpy_discrimination(
        batch["features"], batch["labels"], 0.5, similarity, denominator, pooling
    )
    found = losses.discrimination(
        device(batch["features"]),
        device(batch["labels"]),
        temperature=0.5,
        similarity=similarity,
        denominator=denominator,
        pooling=pooling,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("denominator", ["all", "negatives"])
@pytest.mark.parametrize("labels", [np.arange(BATCH), np.zeros(BATCH, int)])
def test_a_batch_without_anchors_contributes_zero_and_no_nan(denominator, labels):
    features = device(example()["features"])

    def loss(features):
        return losses.discrimination(
            features, device(labels), temperature=0.1, denominator=denominator
        )

    value, gradient = jax.value_and_grad(loss)(features)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    if len(set(labels)) == BATCH or denominator == "negatives":
        assert value == 0.0
        np.testing.assert_array_equal(gradient, 0.0)


def test_features_of_zero_have_a_finite_gradient():
    labels = jnp.asarray([0, 0, 1, 1])
    gradient = jax.grad(lambda h: losses.discrimination(h, labels, temperature=0.1))(
        jnp.zeros((4, 3))
    )
    assert np.all(np.isfinite(gradient))


def test_bat_is_the_reweighted_loss_and_the_discrimination_loss():
    batch = example()
    confidences = numpy_confidence(batch["adversarial"], batch["labels"])
    is_wrong = batch["adversarial"].argmax(1) != batch["labels"]
    weights = np.where(is_wrong, np.exp(-confidences), 1.0)
    values = numpy_cross_entropy(batch["adversarial"], batch["labels"])
    expected = (weights * values).sum() / weights.sum() + 0.2 * numpy_discrimination(
        batch["features"], batch["labels"], 0.1, "cosine", "all", "sum"
    )
    found = losses.bat(
        device(batch["adversarial"]),
        device(batch["features"]),
        device(batch["labels"]),
        alpha=1.0,
        beta_dl=0.2,
        temperature=0.1,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_reweighted_without_normalisation_is_a_plain_mean():
    values, weights = jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([1.0, 0.5, 0.0])
    assert losses.reweighted(values, weights, normalize="none") == pytest.approx(2 / 3)
    assert losses.reweighted(values, weights, normalize="sum") == pytest.approx(4 / 3)


def test_weights_that_are_all_zero_give_zero_and_no_nan():
    value, gradient = jax.value_and_grad(lambda values: losses.weighted_mean(values, jnp.zeros(3)))(
        jnp.ones(3)
    )
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("extreme", [1e4, 1e8])
def test_losses_and_gradients_are_finite_at_extreme_logits(extreme):
    logits = jnp.asarray([[extreme, -extreme, 0.0], [-extreme, extreme, 0.0], [0.0, 0.0, extreme]])
    labels = jnp.asarray([0, 0, 2])
    features = jnp.asarray([[extreme, 0.0], [0.0, extreme], [extreme, extreme]])
    one_batch = {
        "trades": lambda z: jnp.sum(losses.trades(z, -z, labels, beta=6.0)),
        "mart": lambda z: jnp.sum(losses.mart(z, -z, labels, beta=5.0)),
        "bat": lambda z: losses.bat(z, features, labels, alpha=1.0, beta_dl=0.2, temperature=0.1),
    }
    for name, loss in one_batch.items():
        value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
        assert np.isfinite(value), name
        assert np.all(np.isfinite(gradient)), name


@pytest.mark.parametrize("name", ["trades", "mart", "kl_divergence", "cross_entropy"])
def test_a_class_whose_logits_are_minus_infinity_has_no_effect(name):
    batch = example()
    labels, targets = device(batch["labels"]), jax.nn.softmax(device(example(1)["clean"]))

    def loss(clean, adversarial, *, targets):
        values = {
            "trades": lambda: losses.trades(clean, adversarial, labels, beta=6.0, targets=targets),
            "mart": lambda: losses.mart(clean, adversarial, labels, beta=5.0),
            "kl_divergence": lambda: losses.kl_divergence(clean, adversarial),
            "cross_entropy": lambda: losses.cross_entropy(adversarial, targets),
        }
        return jnp.sum(values[name]())

    def pulled_back(*logits, targets):
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*logits, targets=targets)

    logits = [device(batch["clean"]), device(batch["adversarial"])]
    expected, expected_gradients = pulled_back(*logits, targets=targets)
    with_class = [jnp.pad(z, ((0, 0), (0, 1)), constant_values=-jnp.inf) for z in logits]
    found, gradients = pulled_back(*with_class, targets=jnp.pad(targets, ((0, 0), (0, 1))))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for with_it, without in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(with_it, np.pad(without, ((0, 0), (0, 1))), atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.1, 30.0))
def test_weights_lie_between_zero_and_one_and_alpha_zero_makes_them_one(seed, scale):
    batch = example(seed, scale)
    logits, labels = device(batch["adversarial"]), device(batch["labels"])
    weights = losses.bat_weights(logits, labels, alpha=3.0, gate="all")
    assert np.all((weights > 0) & (weights <= 1))
    np.testing.assert_array_equal(losses.bat_weights(logits, labels, alpha=0.0, gate="all"), 1.0)


@pytest.mark.parametrize("num_devices", [2, 4])
def test_devices_that_share_a_batch_get_the_value_and_gradient_of_the_whole(num_devices):
    batch = example()
    arrays = [device(batch[name]) for name in ("adversarial", "features", "labels")]
    options = {"alpha": 1.0, "beta_dl": 0.5, "temperature": 0.5}

    def loss(logits, features, labels, axis_name=None):
        return losses.bat(logits, features, labels, **options, axis_name=axis_name)

    def share(logits, features, labels):
        value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(
            logits, features, labels, parallel.AXIS
        )
        # Each device returns the gradient of the sum of the devices' equal values.
        return value, jax.tree.map(lambda g: g / num_devices, gradients)

    mesh = parallel.make_mesh(num_devices)
    value, gradients = parallel.over_devices(
        share, mesh, in_specs=(P(parallel.AXIS),) * 3, out_specs=(P(), P(parallel.AXIS))
    )(*arrays)
    whole = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    expected, expected_gradients = whole(*arrays)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


# Without the tests' type checker, which refuses unknown options with its own message.
bat_weights, discrimination, reweighted = map(
    inspect.unwrap, (losses.bat_weights, losses.discrimination, losses.reweighted)
)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda logits, labels: bat_weights(logits, labels, alpha=1.0, gate="typical"),
            "^bat_weights: gate is 'typical'; expected misclassified, all or memorized$",
        ),
        (
            lambda logits, labels: bat_weights(logits, labels, alpha=1.0, gate="memorized"),
            "^bat_weights: the gate 'memorized' needs `memorization`; got None$",
        ),
        (
            lambda features, labels: discrimination(
                features, labels, temperature=0.1, similarity="euclid"
            ),
            "^discrimination: similarity is 'euclid'; expected cosine or dot$",
        ),
        (
            lambda features, labels: discrimination(
                features, labels, temperature=0.1, denominator="positives"
            ),
            "^discrimination: denominator is 'positives'; expected all or negatives$",
        ),
        (
            lambda features, labels: discrimination(
                features, labels, temperature=0.1, pooling="max"
            ),
            "^discrimination: pooling is 'max'; expected sum or mean$",
        ),
        (
            lambda logits, labels: reweighted(logits[:, 0], logits[:, 1], normalize="mean"),
            "^reweighted: normalize is 'mean'; expected sum or none$",
        ),
    ],
)
def test_unknown_options_are_refused_by_name(function, message):
    batch = example()
    with pytest.raises(ValueError, match=message):
        function(device(batch["adversarial"]), device(batch["labels"]))
