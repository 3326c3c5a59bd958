"""On trained networks, intervals cover the verdict that all attacks on all images give.

Prints the rows of docs/results/autoattack.md.
"""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from bat_jax.attacks import autoattack, pgd

pytestmark = pytest.mark.slow

TOLERANCES = (0.02, 0.01, 0.005)
WIDTHS = (64, 128, 128, 10)


def logits_from(params):
    def logits_fn(images):
        hidden = images.reshape(len(images), -1)
        for weights, bias in params[:-1]:
            hidden = jax.nn.relu(hidden @ weights + bias[None])
        weights, bias = params[-1]
        return hidden @ weights + bias[None]

    return logits_fn


def trained(images, labels, *, seed, epsilon):
    """Returns the parameters after 600 steps, on images attacked by PGD-7 if epsilon is not 0."""
    key = jax.random.key(seed)
    params = []
    for number, (fan_in, fan_out) in enumerate(itertools.pairwise(WIDTHS)):
        weights = jax.random.normal(jax.random.fold_in(key, number), (fan_in, fan_out))
        params.append((weights * np.float32((2 / fan_in) ** 0.5), jnp.zeros(fan_out)))
    optimizer = optax.sgd(0.05, momentum=0.9)

    def loss(params, images, labels):
        logits = logits_from(params)(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params, state, images, labels, key):
        if epsilon:
            images = pgd(
                logits_from(params),
                images,
                labels,
                key,
                epsilon=epsilon,
                step_size=epsilon / 3,
                num_steps=7,
            )
        updates, state = optimizer.update(jax.grad(loss)(params, images, labels), state)
        return optax.apply_updates(params, updates), state

    state, rng = optimizer.init(params), np.random.default_rng(seed)
    for number in range(600):
        rows = rng.integers(0, len(images), 128)
        step_key = jax.random.fold_in(key, 100 + number)
        params, state = step(params, state, images[rows], labels[rows], step_key)
    return params


@pytest.mark.parametrize(
    ("trained_at", "epsilon"), [(0.15, 0.15), (0.1, 0.15), (0.0, 0.05)], ids=str
)
def test_intervals_cover_the_exact_verdict(trained_at, epsilon, tmp_path):
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    labels = digits.target.astype(np.int32)
    params = trained(images, labels, seed=0, epsilon=trained_at)
    found, seconds = [], []
    for tolerance in (*TOLERANCES, None):
        began = time.monotonic()
        found.append(
            autoattack(
                logits_from(params),
                images,
                labels,
                jax.random.key(1),
                epsilon=epsilon,
                batch_size=64,
                tolerance=tolerance,
                path=tmp_path / "verdicts.npz",
                keep_adversarial=False,
                devices=jax.devices()[:1],
            )
        )
        seconds.append(time.monotonic() - began)
    exact = found.pop()
    times = np.cumsum(seconds) / np.sum(seconds)
    truth = exact.robust.mean()
    assert exact.interval == (truth, truth)
    broken = ", ".join(f"{name} {b.sum()}" for name, b in exact.by_attack.items())
    print(f"\ntrained at {trained_at}, attacked at {epsilon}: {100 * truth:.2f} % ({broken})")
    drawn = [result.sample.drawn for result in found]
    assert drawn == sorted(drawn)
    for tolerance, result, part in zip(TOLERANCES, found, times, strict=False):
        low, high = result.interval
        print(f"  {tolerance}: {result.sample}, {100 * low:.2f} to {100 * high:.2f} %, {part:.2f}")
        assert low <= truth <= high <= low + tolerance
        assert result.sample.drawn < len(result.sample.order)
