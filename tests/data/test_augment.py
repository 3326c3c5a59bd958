"""Random crops and flips are windows of the padded image, and every one of them occurs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax import keys
from bat_jax.data.device import augment
from tests.training.conftest import built, tiny
from tests.training.test_step import order_of, run

PADDING = 2


def test_every_crop_and_its_mirror_image_are_equally_likely():
    draws, count = np.random.default_rng(0), 10_000
    image = draws.random((3, 4, 2), np.float32)
    images = jnp.broadcast_to(image, (count, *image.shape))
    drawn = jax.jit(lambda x, key: augment(x, key, crop_padding=PADDING, flip=True))
    found = np.asarray(drawn(images, jax.random.split(jax.random.key(0), count)))
    padded = np.pad(image, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    windows = {}
    for top, left in itertools.product(range(2 * PADDING + 1), repeat=2):
        crop = padded[top : top + 3, left : left + 4]
        for is_flipped in (False, True):
            windows[(crop[:, ::-1] if is_flipped else crop).tobytes()] = (top, left, is_flipped)
    assert len(windows) == 2 * (2 * PADDING + 1) ** 2
    counts = dict.fromkeys(windows.values(), 0)
    for crop in found:
        counts[windows[crop.tobytes()]] += 1
    expected = count / len(counts)  # 200 of each, with a standard deviation of 14.
    assert max(abs(number - expected) for number in counts.values()) < 5 * expected**0.5


def test_an_image_is_augmented_by_the_key_of_its_place_in_the_step():
    fields = {"data.crop_padding": 2, "data.flip": True}
    _, metrics = run(tiny("standard", **fields), steps=1)
    experiment = built(tiny("standard", **fields))
    split = experiment.train.take(np.asarray(order_of(experiment))[0].astype(np.int64))
    key = keys.derive(experiment.config.seed, keys.Purpose.AUGMENTATION, 0)
    images = augment(
        jnp.asarray(split.images / np.float32(255)),
        keys.per_image(key, np.arange(len(split))),
        crop_padding=2,
        flip=True,
    )
    logits = np.float64(experiment.model.apply(experiment.initial_state().variables, images))
    of_label = logits[np.arange(len(split)), split.labels]
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - of_label)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
