"""Every step augments and mixes its images by keys of its own."""

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax import keys, parallel
from bat_jax.data import mixing
from bat_jax.data.device import augment
from bat_jax.training.share import share_of
from tests.training.conftest import built, tiny
from tests.training.test_step import order_of


def shares(experiment, step, devices):
    """Returns the images and the targets of a step, which some devices share."""
    mesh = parallel.make_mesh(devices)

    def of_device(step, data, order, root):
        share = share_of(step, data, order, root, experiment.config, experiment.method)
        return share.images, share.targets

    data, order = jax.device_get((experiment.train_data(), order_of(experiment)))
    return parallel.over_devices(
        of_device, mesh, in_specs=(parallel.REPLICATED,) * 4, out_specs=parallel.SHARED
    )(np.int32(step), data, order, parallel.root(experiment.config.seed, mesh))


def by_hand(experiment, step):
    """Returns the images of a step, each augmented by the key of its place, and the labels."""
    rows = np.asarray(order_of(experiment))[step]
    key = keys.derive(experiment.config.seed, keys.Purpose.AUGMENTATION, step)
    images = augment(
        jnp.asarray(experiment.train.images[rows] / np.float32(255)),
        keys.per_image(key, np.arange(len(rows))),
        crop_padding=2,
        flip=True,
    )
    return np.asarray(images), experiment.train.labels[rows]


def test_a_later_step_mixes_what_its_own_keys_augment_on_two_devices():
    fields = {"data.crop_padding": 2, "data.flip": True, "data.cutmix": True}
    experiment, step = built(tiny("standard", **fields)), 1
    images, targets = shares(experiment, step, devices=2)
    expected, labels = by_hand(experiment, step)
    key = keys.derive(experiment.config.seed, keys.Purpose.MIXING, step)
    mix = jax.device_get(mixing.draw(key, len(labels), 8, 8))
    inside = np.asarray(mixing.box(mix.center, mix.size, 8, 8))
    assert 0 < inside.mean() < 1
    expected = np.where(inside[None, :, :, None], expected[mix.permutation], expected)
    classes = np.eye(10)[labels]
    of_targets = (1 - inside.mean()) * classes + inside.mean() * classes[mix.permutation]
    np.testing.assert_allclose(images, expected, rtol=1e-6)
    np.testing.assert_allclose(targets, of_targets, rtol=1e-5, atol=1e-7)
