"""What larger images need: resized crops, resizing models, activations computed again."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import models
from bat_jax.data.device import augment, crop_box
from bat_jax.errors import UserError
from bat_jax.kernels.convolution import xla
from bat_jax.models.blocks import PreActivationBlock, stages
from bat_jax.training.building import build
from bat_jax.training.flops import lowered_step

IMAGES = np.random.default_rng(0).uniform(size=(6, 7, 9, 2)).astype(np.float32)


def interpolation(size, start, length):
    """Returns the weights of `size` pixels for each of `size` points in [start, start + length]."""
    points = start + (np.arange(size) + 0.5) * length / size - 0.5
    weights = np.maximum(0, 1 - np.abs(points[:, None] - np.arange(size)))
    return weights / weights.sum(axis=1, keepdims=True)


def test_resized_crops_are_bilinear_in_boxes_of_the_stated_sizes():
    keys = jax.random.split(jax.random.key(1), len(IMAGES))

    @jax.jit
    def cropped(images, keys):
        found = augment(images, keys, crop_padding=0, flip=False, resized_crop=0.1)
        boxes = jax.vmap(lambda key: crop_box(jax.random.split(key)[0], (7, 9), smallest=0.1))
        return found, boxes(keys)

    found, boxes = jax.device_get(cropped(IMAGES, keys))
    for image, crop, top, left, height, width in zip(IMAGES, found, *boxes, strict=True):
        rows, columns = interpolation(7, top, height), interpolation(9, left, width)
        expected = np.einsum("iy,jx,yxc->ijc", rows, columns, np.float64(image))
        np.testing.assert_allclose(crop, expected, atol=1e-5)
        assert 0 <= top <= 7 - height + 1e-5
        assert 0 <= left <= 9 - width + 1e-5
    many = jax.vmap(lambda key: crop_box(key, (7, 9), smallest=0.1))
    many = jax.device_get(jax.jit(many)(jax.random.split(jax.random.key(2), 1000)))
    inside = (many.height < 7) & (many.width < 9)
    share, ratio = (many.height * many.width)[inside] / 63, (many.width / many.height)[inside]
    assert 0.1 <= share.min() < 0.15
    assert 0.74 < ratio.min() < 0.77
    assert 1.3 < ratio.max() < 1.34


def test_a_model_gets_resized_images_and_gradients_reach_the_others():
    class Sum(nn.Module):
        @nn.compact
        def __call__(self, images):
            assert images.shape[1:3] == (14, 14)
            return nn.Dense(2)(images.reshape(len(images), -1))

    images = IMAGES[:, :, :7, :1]
    model = models.Resized(models.adapted(Sum()), 14)
    variables = model.init(jax.random.key(0), images)
    gradient = jax.grad(lambda images: model.apply(variables, images).sum())(images)
    assert gradient.shape == images.shape
    # Twice the size: each new pixel lies a quarter of a pixel from an old one.
    weights = interpolation_up(7)
    expected = np.einsum("iy,jx,nyxc->nijc", weights, weights, np.float64(images))
    kernel, bias = (np.float64(variables["params"]["Dense_0"][n]) for n in ("kernel", "bias"))
    found = model.apply(variables, images)
    np.testing.assert_allclose(found, expected.reshape(6, -1) @ kernel + bias, atol=1e-5)


def interpolation_up(size):
    """Returns the weights of `size` pixels for twice as many."""
    points = (np.arange(2 * size) + 0.5) / 2 - 0.5
    weights = np.maximum(0, 1 - np.abs(points[:, None] - np.arange(size)))
    return weights / weights.sum(axis=1, keepdims=True)


class Blocks(nn.Module):
    """Two residual blocks."""

    remat: bool = False

    @nn.compact
    def __call__(self, images, *, train):
        block = partial(PreActivationBlock, axis_name=None, dtype=jnp.float32, conv=xla)
        found = stages(images, block, channels=2, blocks=(2,), train=train, remat=self.remat)
        return jnp.mean(found, axis=(1, 2))


def test_activations_computed_again_change_no_result():
    images = jnp.asarray(IMAGES)
    variables = jax.jit(Blocks().init, static_argnames="train")(
        jax.random.key(0), images, train=False
    )

    def gradients(model):
        def loss(params):
            logits, updated = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.square(logits)), updated

        return jax.jit(jax.grad(loss, has_aux=True))

    again = models.rematerialized(models.adapted(Blocks())).module
    assert "remat" in str(jax.make_jaxpr(gradients(again))(variables["params"]))
    found, expected = (gradients(one)(variables["params"]) for one in (again, Blocks()))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
    )
    made = models.rematerialized(models.create("wide_resnet", 10, depth=10, widening=1))
    assert made.remat


def test_a_step_takes_them_all(tiny_config):
    config = tiny_config(
        "pgd_at",
        **{
            "model.name": "wide_resnet",
            "model.depth": 10,
            "model.width": 1,
            "model.widening": 2,
            "model.resize": 16,
            "model.remat": True,
            "data.resized_crop": 0.5,
        },
    )
    experiment = build(config)
    assert "x16x16x" in lowered_step(experiment).as_text()
    plain = build(tiny_config("pgd_at"))
    assert dataclasses.asdict(plain.programs) == dataclasses.asdict(experiment.programs)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"model.remat": True},
            "model.remat is True; expected False for Plain, which has no field",
        ),
        (
            {"data.resized_crop": 0.1, "data.crop_padding": 2},
            r"resized_crop is 0\.1 and config\.data\.crop_padding is 2; expected a crop_padding",
        ),
        ({"data.resized_crop": 1.5}, r"resized_crop is 1\.5; expected above 0 and at most 1"),
        ({"model.resize": 4}, "resize is 4; expected 8 or more"),
        ({"model.name": "resnet18"}, "cannot take images of 8x8 pixels"),
        ({"model.name": "small_cnn", "model.resize": 64}, "cannot take images of 64x64 pixels"),
    ],
)
def test_what_cannot_be_is_named(tiny_config, fields, words):
    with pytest.raises(UserError, match=words):
        build(tiny_config("pgd_at", **fields))
