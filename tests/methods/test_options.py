"""Every option of a method reaches its loss, which is that of the global batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import losses, methods, parallel
from bat_jax.methods.temporal_ensembling import Remembered
from tests.training.conftest import tiny

CLASSES, IMAGES, NUM_STEPS = 4, 16, 2
THRESHOLD = 0.4


def made(name, **options):
    """Returns a method whose weights apply from the start, with some options changed."""
    fields = {f"objective.{name}.{option}": value for option, value in options.items()}
    setup = methods.Setup(NUM_STEPS, num_classes=CLASSES, threshold=THRESHOLD)
    return methods.create(tiny(name, **fields).objective, setup)


def drawn(method):
    """Returns the batch that a step would give the method."""
    draws = np.random.default_rng(0)
    logits, clean, remembered = jnp.float32(draws.normal(size=(3, IMAGES, CLASSES)) * 2)
    # Devices with half of the images each differ in what they would average.
    is_first = np.arange(IMAGES) < IMAGES // 2
    average = jax.nn.softmax(remembered)
    return methods.Batch(
        labels=jnp.asarray(draws.integers(0, CLASSES, IMAGES)),
        logits=logits,
        features=jnp.float32(draws.normal(size=(IMAGES, 5))),
        clean_logits=None if method.clean is None else clean,
        robust_steps=jnp.asarray(draws.integers(0, np.where(is_first, 2, NUM_STEPS + 1))),
        memorization=jnp.float32(draws.permutation([*np.linspace(0, 1, IMAGES - 1), np.nan])),
        epoch=jnp.float32(0),
        before=Remembered(average, average, jnp.ones(IMAGES), clean),
        extras={
            "cosine": jnp.float32(draws.random(IMAGES)),
            "is_defined": jnp.float32(is_first | (draws.random(IMAGES) < 0.3)),
        },
    )


def loss_of(method, batch, devices=1):
    """Returns the loss and the metrics of a batch that some devices share."""
    specs = jax.tree.map(lambda leaf: parallel.SHARED if leaf.ndim else parallel.REPLICATED, batch)
    return parallel.over_devices(
        method.loss,
        parallel.make_mesh(devices),
        in_specs=(specs,),
        out_specs=parallel.REPLICATED,
    )(batch)


def librarys_bat(batch, *, confidence="adversarial", alpha=3.0, beta_dl=0.5, **options):
    """Returns `losses.bat` on the batch."""
    return losses.bat(
        batch.logits,
        batch.features,
        batch.labels,
        alpha=alpha,
        beta_dl=beta_dl,
        memorization=batch.memorization,
        threshold=THRESHOLD,
        confidence_logits=batch.clean_logits if confidence == "clean" else None,
        **{"temperature": 0.5, **options},
    )


@pytest.mark.parametrize(
    "option",
    [
        {"alpha": 0.7},
        {"beta_dl": 0.2},
        {"temperature": 0.3},
        {"gate": "all"},
        {"gate": "memorized"},
        {"confidence": "clean"},
        {"normalize": "none"},
        {"similarity": "dot"},
        {"denominator": "negatives"},
        {"pooling": "mean"},
    ],
    ids=str,
)
def test_every_option_of_bat_reaches_the_trainers_loss(option):
    chosen = {"alpha": 3.0, "beta_dl": 0.5, "temperature": 0.5, "start_epoch": 0.0, **option}
    method = made("bat", **chosen)
    batch = drawn(method)
    expected = librarys_bat(batch, **option)
    np.testing.assert_allclose(loss_of(method, batch)[0], expected, rtol=1e-5)
    assert abs(expected - librarys_bat(batch)) > 1e-3


def test_the_options_of_trades_mart_and_gairat_reach_their_losses():
    trades, mart = made("trades", beta=2.5), made("mart", beta=2.5)
    gairat = made("gairat", lam=0.5, start_epoch=0.0)
    batch = drawn(trades)
    outputs = (batch.clean_logits, batch.logits, batch.labels)
    weights = losses.gairat_weights(batch.robust_steps, num_steps=NUM_STEPS, lam=0.5)
    for method, expected in (
        (trades, losses.trades(*outputs, beta=2.5)),
        (mart, losses.mart(*outputs, beta=2.5)),
        (gairat, weights * losses.cross_entropy(batch.logits, batch.labels)),
    ):
        np.testing.assert_allclose(loss_of(method, batch)[0], jnp.mean(expected), rtol=1e-5)


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_loss_and_its_metrics_are_means_over_all_devices(name):
    starts = "start_epoch" in methods.METHODS[name].fields
    method = made(name, **({"start_epoch": 0.0} if starts else {}))
    batch = drawn(method)
    alone, together = loss_of(method, batch), loss_of(method, batch, devices=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), together, alone)
