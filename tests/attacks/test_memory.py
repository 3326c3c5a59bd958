"""The size of batches is chosen from memory, within a bound that every attack keeps."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax.attacks import autoattack, memory, versions
from bat_jax.attacks.protocol import Problem
from bat_jax.attacks.verdict_file import batch_size_of
from bat_jax.errors import UserError

SHAPE = (16, 16, 3)


def network(width):
    """Returns a network with 1,000 classes."""
    rng = np.random.default_rng(0)
    inner, outer = (
        jnp.asarray(rng.normal(size=size), jnp.float32)
        for size in ((math.prod(SHAPE), width), (width, 1000))
    )
    return lambda x: jnp.tanh(x.reshape(len(x), -1) @ inner) @ outer


def test_half_of_the_free_memory_is_used(monkeypatch):
    monkeypatch.setattr(memory, "bytes_per_image", lambda *_: 1000.0)
    for free, count, expected in (
        (10**9, 1, 256),
        (100_000, 1, 32),
        (100_000, 4, 128),
        (2_000, 1, 1),
        (2_000, 2, 2),
    ):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        assert memory.fitting_batch(network(8), SHAPE, count * jax.devices()[:1]) == expected
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1999)
    with pytest.raises(UserError, match=r"one of shape \(16, 16, 3\) needs 0.000 GiB in an attack"):
        memory.fitting_batch(network(8), SHAPE, jax.devices()[:1])


def test_a_larger_model_needs_more():
    small, large = (memory.bytes_per_image(network(width), SHAPE) for width in (8, 4096))
    assert large > small >= 40 * 4 * math.prod(SHAPE)
    # The activations of one layer, forwards and backwards.
    assert large - small > 4 * 4096


def needed(attack, logits_fn, batch):
    """Returns the bytes of one step of an attack, as the compiler reports them."""
    images = jnp.zeros((batch, *SHAPE))
    labels = jnp.zeros(batch, jnp.int32)
    problem = Problem(images, labels, labels + 1, jax.random.split(jax.random.key(0), batch))
    state = jax.eval_shape(attack.begin, problem)
    step = jax.jit(lambda p, s: attack.step(logits_fn, p, jnp.int32(1), s), donate_argnums=1)
    found = step.lower(problem, state).compile().memory_analysis()
    return (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
    )


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t", "fab-t", "square", "fab"])
def test_every_attack_stays_within_the_bound(name, norm):
    logits_fn = network(64)
    bound = 32 * memory.bytes_per_image(logits_fn, SHAPE)
    found = needed(versions.create(name, 0.1, norm), logits_fn, 32)
    arrays = found / 32 / (4 * math.prod(SHAPE))
    print(f"{name} {norm}: {arrays:.1f} arrays per image, {found / bound:.2f} of the bound")
    assert found <= bound


@pytest.mark.slow
def test_many_classes_and_large_images_are_attacked_in_little_memory(monkeypatch):
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(7 * 7 * 3, 1000)), jnp.float32)

    def logits_fn(x):
        pooled = x.reshape(len(x), 7, 32, 7, 32, 3).mean(axis=(2, 4))
        return pooled.reshape(len(x), -1) @ weights

    tiles = rng.uniform(0.3, 0.7, size=(6, 7, 7, 3)).astype(np.float32)
    images = tiles.repeat(32, axis=1).repeat(32, axis=2)
    logits = tiles.reshape(6, -1) @ np.asarray(weights)
    first, second = np.argsort(-logits, axis=1)[:, :2].T
    rows, labels = np.arange(6), first.astype(np.int32)
    sizes = np.abs(np.asarray(weights)[:, first] - np.asarray(weights)[:, second]).sum(axis=0)
    distances = (logits[rows, first] - logits[rows, second]) / sizes
    options = {
        "epsilon": float(np.sort(distances)[2:4].mean()),
        "attacks": ("apgd-ce",),
        "keep_adversarial": False,
    }
    needed = memory.bytes_per_image(logits_fn, images.shape[1:])
    assert needed < 50 * 4 * math.prod(images.shape[1:])
    found = {}
    for count in (2, 4):
        monkeypatch.setattr(memory, "free_bytes", lambda _, count=count: 2.1 * count * needed)
        assert memory.fitting_batch(logits_fn, images.shape[1:], jax.devices()[:1]) == count
        result = autoattack(
            logits_fn,
            images,
            labels,
            jax.random.key(0),
            batch_size=None,
            devices=jax.devices()[:1],
            **options,
        )
        found[count] = result.robust
    np.testing.assert_array_equal(found[2], found[4])
    assert 0 < found[2].sum() < 6


def test_a_resumed_evaluation_keeps_its_batch_size(tmp_path):
    path = tmp_path / "verdicts.npz"
    assert batch_size_of(path) is None
    np.savez(path, settings=np.array(json.dumps({"batch_size": 64})))
    assert batch_size_of(path) == 64
    np.savez(path, settings=np.array("[]"))
    with pytest.raises(UserError, match="not a file of AutoAttack verdicts"):
        batch_size_of(path)
