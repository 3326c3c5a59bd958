"""The models have the published sizes, take [0, 1] images and keep float32 parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bat_jax import models
from bat_jax.errors import UserError
from bat_jax.kernels.convolution import CONVOLUTIONS
from bat_jax.models.layers import same_padding
from bat_jax.training.building import build
from tests.training.conftest import tiny

RGB, GRAY = (32, 32, 3), (28, 28, 1)


def shapes(model, image_shape):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # As counted in the papers and in the usual repositories, 100 classes.
        ("resnet18", 11_220_132),
        ("preact_resnet18", 11_218_340),
        ("wide_resnet28_10", 36_536_884),
        ("wide_resnet34_10", 46_218_164),
        ("resnet50", 23_705_252),
        # RobustBench's have 36,479,194 and 12,548,426 for 10 classes.
        ("dm_wide_resnet", 36_479_194 + 90 * 641),
        ("dm_preact_resnet18", 12_548_426 + 90 * 513),
    ],
)
def test_published_sizes(name, parameters):
    params = shapes(models.create(name, 100, image_shape=RGB), RGB)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


@pytest.mark.parametrize(
    ("name", "sizes", "parameters"),
    [
        ("preact_resnet", {}, 11_218_340),
        ("wide_resnet", {"depth": 34}, 46_218_164),
        # WRN-16-4 has 2,748,890 for 10 classes; 90 more classes add 256 + 1 each.
        ("wide_resnet", {"depth": 16, "widening": 4}, 2_748_890 + 90 * 257),
    ],
)
def test_sizes_that_a_name_leaves_free(name, sizes, parameters):
    params = shapes(models.create(name, 100, image_shape=RGB, **sizes), RGB)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


def test_deeper_networks_have_more_blocks_and_silu_takes_the_place_of_relu():
    blocks = {
        depth: sum("Block" in name for name in shapes(made, RGB)["params"])
        for depth in (10, 34)
        for made in [models.create("preact_resnet", 10, depth=depth, width=2)]
    }
    assert blocks == {10: 4, 34: 16}
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 1))
    for activation in ("relu", "silu"):
        model = models.create("small_cnn", 3, width=4, activation=activation)
        variables = model.init(jax.random.key(1), images)
        _, features = model.apply(variables, images, features=True)
        # SiLU's least value is -0.28.
        assert (features.min() < 0) == (activation == "silu")
        assert features.min() > -0.3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("name", "image_shape", "stem", "features"),
    [
        ("small_cnn", (8, 8, 1), "cifar", 32),
        ("small_cnn", GRAY, "cifar", 32),
        ("resnet18", RGB, "cifar", 32),
        ("preact_resnet18", (64, 64, 3), "tiny_imagenet", 32),
        ("wide_resnet28_10", RGB, "cifar", 160),
    ],
)
def test_logits_and_features_are_float32(name, image_shape, stem, features, dtype):
    model = models.create(name, 10, image_shape=image_shape, width=4, stem=stem, dtype=dtype)
    variables = shapes(model, image_shape)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    images = jnp.zeros((2, *image_shape))
    logits, found = jax.eval_shape(lambda v, x: model.apply(v, x, features=True), variables, images)
    assert logits.shape == (2, 10)
    assert found.shape == (2, features)
    assert logits.dtype == found.dtype == jnp.float32
    alone = jax.eval_shape(model.apply, variables, images)
    assert alone.shape == (2, 10)


def test_the_stem_of_imagenet_is_the_published_one():
    model = models.create("resnet50", 1000, image_shape=(224, 224, 3), stem="imagenet")
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    parameters = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    # That of PyTorch's torchvision, which has the same layers.
    assert sum(leaf.size for leaf in jax.tree.leaves(parameters)) == 25_557_032
    with pytest.raises(UserError, match="stem is 'imagenet'; expected cifar or tiny_imagenet"):
        models.create("preact_resnet18", 10, stem="imagenet")


def test_a_stem_that_a_model_does_not_have_is_refused():
    with pytest.raises(UserError, match="stem is 'tiny_imagenet'; expected cifar, which small_cnn"):
        models.create("small_cnn", 10, stem="tiny_imagenet")
    for name in ("small_cnn", "dm_preact_resnet18", "wide_resnet28_10"):
        with pytest.raises(UserError, match=f"stem is 'imagenet'; expected .* which {name} can"):
            models.create(name, 10, stem="imagenet")


def test_the_stem_of_tiny_imagenet_halves_the_image():
    for stem, image_shape in (("cifar", RGB), ("tiny_imagenet", (64, 64, 3))):
        model = models.create("preact_resnet18", 10, width=4, stem=stem, image_shape=image_shape)
        variables = shapes(model, image_shape)
        _, captured = jax.eval_shape(
            lambda v, x, model=model: model.apply(v, x, capture_intermediates=True),
            variables,
            jnp.zeros((1, *image_shape)),
        )
        stem_output = captured["intermediates"]["Conv_0"]["__call__"][0]
        assert stem_output.shape[1:3] == (32, 32)


def test_normalisation_is_inside_the_model():
    raw = models.create("small_cnn", 3, width=2, mean=(0.0,), std=(1.0,))
    normalised = models.create("small_cnn", 3, width=2, mean=(0.25,), std=(0.5,))
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1))
    variables = raw.init(jax.random.key(1), images)
    np.testing.assert_allclose(
        normalised.apply(variables, images), raw.apply(variables, (images - 0.25) / 0.5), rtol=1e-5
    )


def test_networks_of_deepmind_pad_strided_convolutions_at_the_end_of_even_sides():
    assert same_padding((32, 7), kernel=3, stride=2) == ((0, 1), (1, 1))
    assert same_padding((32, 7), kernel=3, stride=1) == ((1, 1), (1, 1))
    assert same_padding((32, 7), kernel=1, stride=2) == ((0, 0), (0, 0))
    # Odd sides work, and `activation` is ignored in favour of SiLU, as in training.
    model = models.create("dm_wide_resnet", 3, depth=10, widening=1, width=2, activation="relu")
    assert model.activation is jax.nn.silu
    assert shapes(model, (9, 10, 3))["params"]["head"]["kernel"].shape == (8, 3)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("dm_wide_resnet", {"model.depth": 10, "model.widening": 1}),
        ("dm_preact_resnet", {"model.depth": 10}),
    ],
)
def test_a_training_step_moves_every_parameter_of_the_networks_of_deepmind(name, sizes):
    fields = {"model.name": name, "model.width": 1, "model.resize": 16, **sizes}
    experiment = build(tiny("pgd_at", **fields, **{"train.batch_size": 8, "attack.num_steps": 1}))
    before = experiment.initial_state()
    parameters = jax.device_get(before.variables["params"])
    order = experiment.order(0, 0)
    after, metrics = experiment.train_step(
        before, experiment.train_data(), order, experiment.root()
    )
    assert np.isfinite(metrics["loss"])
    for old, new in zip(
        jax.tree.leaves(parameters), jax.tree.leaves(after.variables["params"]), strict=True
    ):
        assert np.all(np.isfinite(new))
        assert np.any(old != new)


def test_training_mode_updates_statistics_and_evaluation_mode_does_not():
    model = models.create("resnet18", 3, width=2)
    images = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    for train in (True, False):
        _, updated = jax.jit(
            lambda v, x, train=train: model.apply(v, x, train=train, mutable=["batch_stats"])
        )(variables, images)
        same = jax.tree.map(
            lambda a, b: bool(jnp.all(a == b)), variables["batch_stats"], updated["batch_stats"]
        )
        assert all(jax.tree.leaves(same)) != train


def test_wrong_arguments_are_refused_by_name():
    with pytest.raises(UserError, match="'vgg16' is unknown; expected one of small_cnn"):
        models.create("vgg16", 10)
    with pytest.raises(UserError, match="shortcut is raw; expected none for resnet18"):
        models.create("resnet18", 10, shortcut="raw")
    with pytest.raises(UserError, match="final_norm is False; expected none for dm_preact_resnet"):
        models.create("dm_preact_resnet", 10, final_norm=False)
    with pytest.raises(UserError, match="cannot take images of 64x64"):
        models.create("small_cnn", 10, image_shape=(64, 64, 3))
    with pytest.raises(UserError, match="cannot take images of 8x8"):
        models.create("preact_resnet18", 10, image_shape=(8, 8, 1))
    with pytest.raises(UserError, match=r"depth is 34; expected none for wide_resnet28_10, .* use"):
        models.create("wide_resnet28_10", 10, depth=34)
    with pytest.raises(UserError, match=r"widening is 2; .* use wide_resnet or dm_w"):
        models.create("preact_resnet", 10, widening=2)
    with pytest.raises(UserError, match=r"depth is 20; expected one of 10, 18, 34"):
        models.create("preact_resnet", 10, depth=20)
    with pytest.raises(UserError, match=r"depth is 20; expected 10, 16, 22"):
        models.create("wide_resnet", 10, depth=20)
    with pytest.raises(UserError, match="activation is 'gelu'; expected relu or silu"):
        models.create("resnet18", 10, activation="gelu")


@pytest.mark.parametrize(
    ("name", "image_shape", "stem", "conv"),
    [
        ("small_cnn", (9, 8, 1), "cifar", "patches"),
        ("small_cnn", (9, 8, 1), "cifar", "batch_last"),
        ("small_cnn", (8, 9, 3), "cifar", "batch_last"),
        pytest.param(
            "preact_resnet18", (16, 18, 3), "tiny_imagenet", "patches", marks=pytest.mark.slow
        ),
        pytest.param("dm_preact_resnet18", (16, 18, 3), "cifar", "patches", marks=pytest.mark.slow),
    ],
)
def test_all_forms_of_convolutions_are_the_same_function(name, image_shape, stem, conv):
    images = jax.random.uniform(jax.random.key(0), (2, *image_shape))

    def model(conv):
        return models.create(
            name, 10, image_shape=image_shape, width=2, stem=stem, conv=CONVOLUTIONS[conv]
        )

    variables = jax.jit(model("xla").init)(jax.random.key(1), images)

    def value_and_gradients(conv):
        def value(variables, images):
            return jnp.sum(jnp.sin(model(conv).apply(variables, images)))

        return jax.jit(jax.value_and_grad(value, argnums=(0, 1)))(variables, images)

    def agree(ours, theirs):
        # Only rounding differs, relative to the whole array, because single entries may cancel.
        assert jnp.linalg.norm(ours - theirs) <= 1e-5 * jnp.linalg.norm(theirs)

    jax.tree.map(agree, value_and_gradients(conv), value_and_gradients("xla"))
