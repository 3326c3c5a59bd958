"""The verdicts are those of Croce and Hein's PyTorch implementation, attack by attack.

tests/golden/make_autoattack.py made the reference verdicts: 1000 Fashion-MNIST test images, a
network trained on clean images and one trained on PGD's. The first 100 images are in tests/golden;
the tests of all are marked slow and need the data set.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from bat_jax import data, models
from bat_jax.attacks import pgd
from bat_jax.attacks.auto_attack import STANDARD, autoattack

GOLDEN = Path(__file__).parents[1] / "golden"
IMAGES = Path("/usr/share/datasets/fashion-mnist")
EPSILON = {"linf": 0.1, "l2": 1.0}
NETWORKS = ("adversarial", "standard")
# Largest difference in robust accuracy, smallest share of equal verdicts.
TOLERANCE = {
    "apgd-ce": (0.005, 0.985),
    "apgd-dlr": (0.005, 0.985),
    "apgd-t": (0.005, 0.985),
    "fab-t": (0.005, 0.97),
    "square": (0.010, 0.95),
    "whole": (0.003, 0.985),
}

needs_all_images = pytest.mark.skipif(
    not IMAGES.exists(), reason=f"needs {IMAGES} (Debian: dataset-fashion-mnist)"
)


@functools.cache
def first_images(count):
    """Returns the first test images, float32 in [0, 1], and their labels."""
    if count <= 100:
        with np.load(GOLDEN / "fashion_mnist_100.npz", allow_pickle=False) as archive:
            images, labels = archive["images"][:count], archive["labels"][:count].astype(np.int32)
    else:
        split = data.load("fashion_mnist", path=IMAGES).test.take(np.arange(count))
        images, labels = split.images, split.labels
    return images.astype(np.float32) / np.float32(255), labels


@functools.cache
def problem(network, count=1000):
    """Returns a network as a logits function, images and their labels."""
    with np.load(GOLDEN / f"small_cnn_{network}.npz", allow_pickle=False) as archive:
        parameters = {tuple(name.split("/")): jnp.asarray(archive[name]) for name in archive}
    variables = {"params": unflatten_dict(parameters)}
    model = models.create("small_cnn", 10, width=8)
    return lambda x: model.apply(variables, x), *first_images(count)


def reference(network, norm, attack):
    if (norm, attack) == ("l2", "whole"):
        # It was run attack by attack alone: what all four leave.
        return np.all([reference(network, norm, name) for name in STANDARD], axis=0)
    with np.load(GOLDEN / "autoattack_verdicts.npz", allow_pickle=False) as archive:
        return np.unpackbits(archive[f"{network}/{norm}/{attack}"])[:1000].astype(bool)


def verdicts(network, norm, attacks, count=1000, **options):
    logits_fn, images, labels = problem(network, count)
    return autoattack(
        logits_fn,
        images,
        labels,
        jax.random.key(0),
        epsilon=EPSILON[norm],
        norm=norm,
        attacks=attacks,
        **options,
    )


# Batch size and number of devices of `whole`.
USUAL = (250, 8)


@functools.cache
def whole(network, norm="linf"):
    """Returns the standard version's result, which several tests use."""
    batch_size, devices = USUAL
    return verdicts(network, norm, STANDARD, batch_size=batch_size, devices=jax.devices()[:devices])


@pytest.mark.parametrize("network", NETWORKS)
def test_the_network_is_the_same(network):
    logits_fn, images, _ = problem(network, 100)
    with np.load(GOLDEN / "autoattack_verdicts.npz", allow_pickle=False) as archive:
        expected = archive[f"{network}/logits"]
    np.testing.assert_allclose(logits_fn(jnp.asarray(images[:10])), expected, atol=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_verdicts_on_a_hundred_images(network):
    robust = verdicts(network, "linf", ("apgd-ce",), count=100, batch_size=104).robust
    expected = reference(network, "linf", "apgd-ce")[:100]
    assert (robust == expected).mean() >= 0.97


@pytest.mark.slow
@needs_all_images
@pytest.mark.parametrize(
    ("norm", "attack"), [(norm, attack) for norm in EPSILON for attack in TOLERANCE]
)
@pytest.mark.parametrize("network", NETWORKS)
def test_verdicts_on_a_thousand_images(network, norm, attack):
    expected = reference(network, norm, attack)
    result = whole(network, norm) if attack == "whole" else verdicts(network, norm, (attack,))
    robust = result.robust
    gap, agreement = TOLERANCE[attack]
    difference, equal = robust.mean() - expected.mean(), (robust == expected).mean()
    print(f"{network} {norm} {attack}: {robust.mean():.3f} {difference:+.4f} equal {equal:.4f}")
    assert abs(difference) <= gap
    assert equal >= agreement


@pytest.mark.slow
@needs_all_images
@pytest.mark.parametrize("network", NETWORKS)
def test_it_is_no_weaker_than_many_steps_of_pgd(network):
    logits_fn, images, labels = problem(network)
    attack = jax.jit(
        functools.partial(
            pgd,
            logits_fn,
            epsilon=EPSILON["linf"],
            step_size=EPSILON["linf"] / 10,
            num_steps=100,
            restarts=5,
            unroll=False,
        )
    )
    adversarial = attack(jnp.asarray(images), jnp.asarray(labels), jax.random.key(1))
    robust = np.asarray(jnp.argmax(logits_fn(adversarial), axis=-1)) == labels
    ours = whole(network).robust.mean()
    print(f"{network}: PGD-100 with 5 restarts {robust.mean():.3f}, AutoAttack {ours:.3f}")
    assert ours <= robust.mean() + 0.003


@pytest.mark.slow
@needs_all_images
def test_logits_times_a_thousand_do_not_fool_it():
    logits_fn, images, labels = problem("adversarial")
    plain = whole("adversarial").robust
    with pytest.warns(UserWarning, match="apgd-ce: the gradient is zero"):
        scaled = autoattack(
            lambda x: 1000 * logits_fn(x),
            images,
            labels,
            jax.random.key(0),
            epsilon=EPSILON["linf"],
        ).robust
    print(f"logits x 1000: {scaled.mean():.3f}, plain {plain.mean():.3f}")
    assert abs(scaled.mean() - plain.mean()) <= 0.01


@pytest.mark.slow
@needs_all_images
def test_batch_sizes_and_devices_agree():
    settings = ((64, 8), (1000, 8), (250, 1))
    # With fewer devices, a setting would be compared with itself.
    assert USUAL not in settings
    assert len(jax.devices()) >= USUAL[1]
    found = {
        (batch_size, devices): verdicts(
            "adversarial",
            "linf",
            STANDARD,
            batch_size=batch_size,
            devices=jax.devices()[:devices],
        ).by_attack
        for batch_size, devices in settings
    }
    first = whole("adversarial").by_attack
    for setting, by_attack in found.items():
        equal = np.all([by_attack[name] == first[name] for name in first], axis=0).mean()
        print(f"batch size, devices {setting}: equal {equal:.4f}")
        assert equal >= 0.998
