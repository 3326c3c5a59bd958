"""Image classifiers: Flax Linen modules from [0, 1] images to logits.

    model = bat_jax.models.create("preact_resnet18", num_classes=100)
    variables = model.init(key, images)
    logits, features = model.apply(variables, images, train=False, features=True)

Models normalise their inputs; `features` are those of the penultimate layer. With batch statistics,
a forward pass with `train=True` needs `mutable=["batch_stats"]`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bat_jax import outside
from bat_jax.errors import UserError
from bat_jax.kernels import convolution
from bat_jax.kernels.convolution import Convolution
from bat_jax.models.adapters import (
    Resized,
    adapted,
    module_of,
    name_of,
    path_of,
    pretrained,
    rematerialized,
    with_fields,
)
from bat_jax.models.blocks import Shortcut, Stem
from bat_jax.models.dm_preact_resnet import DMPreActResNet
from bat_jax.models.dm_wide_resnet import DMWideResNet
from bat_jax.models.layers import Activation, Logits
from bat_jax.models.preact_resnet import BLOCKS, PreActResNet
from bat_jax.models.protocol import Classifier
from bat_jax.models.resnet import ResNet
from bat_jax.models.small_cnn import SmallCNN
from bat_jax.models.wide_resnet import WideResNet

Images = Float[Array, "batch height width channels"]

# The smallest and the largest image side.
_SIDES = {"small_cnn": (8, 32)}
_RESIDUAL_SIDES = (16, 128)
_IMAGENET_SIDES = (32, 512)
_STEMS = {
    "small_cnn": ("cifar",),
    "resnet18": get_args(Stem),
    "resnet50": get_args(Stem),
}
SMALL = ("small_cnn",)
"""Models with few channels."""


def _small_cnn(*, stem: Stem, axis_name: str | None, **settings: Any) -> nn.Module:
    del stem, axis_name  # The model has only one stem, and no batch norm.
    return SmallCNN(**settings)


def _dm(model: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def create(*, activation: Activation, **settings: Any) -> nn.Module:
        del activation  # These networks always use SiLU.
        return model(**settings)

    return create


_MODELS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "small_cnn": _small_cnn,
        "resnet18": partial(ResNet, depth=18),
        "preact_resnet18": partial(PreActResNet, depth=18),
        "wide_resnet28_10": partial(WideResNet, depth=28),
        "wide_resnet34_10": partial(WideResNet, depth=34),
        "preact_resnet": PreActResNet,
        "wide_resnet": partial(WideResNet, depth=28),
        "resnet50": partial(ResNet, depth=50),
        "dm_wide_resnet": partial(_dm(DMWideResNet), depth=28),
        "dm_preact_resnet": _dm(DMPreActResNet),
        "dm_preact_resnet18": partial(_dm(DMPreActResNet), depth=18),
    }
)
# Models whose name leaves a setting free: the fields that set it.
_FREE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "preact_resnet18": ("shortcut", "final_norm"),
        "preact_resnet": ("depth", "shortcut", "final_norm"),
        "wide_resnet": ("depth", "widening"),
        "dm_wide_resnet": ("depth", "widening"),
        "dm_preact_resnet": ("depth",),
    }
)
_ACTIVATIONS: Mapping[str, Activation] = MappingProxyType({"relu": nn.relu, "silu": nn.silu})


def create(
    name: str,
    num_classes: int,
    *,
    image_shape: tuple[int, int, int] | None = None,
    width: int | None = None,
    depth: int | None = None,
    widening: int | None = None,
    activation: str = "relu",
    stem: Stem = "cifar",
    shortcut: Shortcut | None = None,
    final_norm: bool = True,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    conv: Convolution = convolution.xla,
) -> Classifier:
    """Returns an untrained model.

    Args:
      name: `small_cnn`, `resnet18`, `resnet50`, `preact_resnet18`, `dm_preact_resnet18`,
        `wide_resnet28_10`, `wide_resnet34_10`; `preact_resnet`, `dm_preact_resnet`, `wide_resnet`
        and `dm_wide_resnet` of any depth; or `package.module:Name`, a function of `num_classes` and
        `image_shape` that chooses all other settings itself.
      num_classes: the number of logits.
      image_shape: height, width and channels of the images; checked if given.
      width: channels of the first layer; by default the published number.
      depth: for `preact_resnet` and `dm_preact_resnet`, 10, 18 or 34, by default 18; for
        `wide_resnet` and `dm_wide_resnet`, 6 n + 4, by default 28.
      widening: for `wide_resnet` and `dm_wide_resnet`, by default 10.
      activation: `relu` or `silu`; the networks with `dm_` have SiLU.
      stem: `cifar`, `tiny_imagenet` for 64x64 images (residual networks), or `imagenet` for images
        of about 224x224 (`resnet18` and `resnet50`).
      shortcut: for `preact_resnet` and `preact_resnet18`, `activated` (the default) or `raw`.
      final_norm: for the same, whether batch norm and activation precede the pooling.
      mean: the per-channel mean to subtract; by default 0.5.
      std: the per-channel standard deviation to divide by; by default 0.5.
      dtype: the type of the computation, float32 or bfloat16; parameters and logits are float32.
      axis_name: the mapped axis over which batch norm is synchronised, if any.
      conv: computes convolutions, any function with the arguments of
        `jax.lax.conv_general_dilated`; `bat_jax.kernels.convolution` has faster ones for CPU.

    Raises:
      UserError: an unknown name, stem or activation, a size the model does not have, or images
        that it cannot take.
    """
    check_name(name)
    if outside.is_outside(name):
        return _from_outside(name, num_classes, image_shape)
    free = {
        "depth": depth,
        "widening": widening,
        "shortcut": shortcut,
        "final_norm": None if final_norm else final_norm,
    }
    _check_free(name, free)
    if activation not in _ACTIVATIONS:
        raise UserError(
            f"model: activation is {activation!r}; expected {' or '.join(_ACTIVATIONS)}"
        )
    stems = _STEMS.get(name, ("cifar", "tiny_imagenet"))
    if stem not in stems:
        raise UserError(
            f"model: stem is {stem!r}; expected {' or '.join(stems)}, which {name} can have"
        )
    if image_shape is not None:
        low, high = _IMAGENET_SIDES if stem == "imagenet" else _SIDES.get(name, _RESIDUAL_SIDES)
        if not all(low <= side <= high for side in image_shape[:2]):
            raise UserError(
                f"model: {name} cannot take images of {image_shape[0]}x{image_shape[1]} pixels;"
                f" expected sides of {low} to {high}: choose another config.model.name"
            )
    settings: dict[str, Any] = {
        "num_classes": num_classes,
        "stem": stem,
        "dtype": dtype,
        "axis_name": axis_name,
        "conv": conv,
        "activation": _ACTIVATIONS[activation],
    }
    optional = {"width": width, "mean": mean, "std": std, **free}
    settings |= {setting: value for setting, value in optional.items() if value is not None}
    return _MODELS[name](**settings)


def check_name(name: str) -> None:
    """Raises a UserError unless the name is a model's or has the form `package.module:Name`."""
    if name not in _MODELS and not outside.is_outside(name):
        raise UserError(
            f"model: {name!r} is unknown; expected one of {', '.join(_MODELS)}, or"
            " package.module:Name, a function that makes a Flax module"
        )


def _check_free(name: str, settings: Mapping[str, Any]) -> None:
    """Checks the settings that only some names leave free; None means not set."""
    for field, value in settings.items():
        if value is not None and field not in _FREE.get(name, ()):
            free = " or ".join(other for other in _FREE if field in _FREE[other])
            raise UserError(
                f"config.model.{field} is {value}; expected none for {name}, whose {field} is"
                f" fixed: use {free} instead"
            )
    depth, shortcut = settings["depth"], settings["shortcut"]
    if shortcut not in (None, *get_args(Shortcut)):
        raise UserError(
            f"model: shortcut is {shortcut!r}; expected {' or '.join(get_args(Shortcut))}"
        )
    if depth is None:
        return
    if name in ("preact_resnet", "dm_preact_resnet") and depth not in BLOCKS:
        raise UserError(
            f"config.model.depth is {depth}; expected one of {', '.join(map(str, BLOCKS))} for"
            f" {name}"
        )
    if name in ("wide_resnet", "dm_wide_resnet") and (depth < 10 or (depth - 4) % 6):
        raise UserError(
            f"config.model.depth is {depth}; expected 10, 16, 22, 28 and so on, 6 n + 4, for {name}"
        )


def _from_outside(
    name: str, num_classes: int, image_shape: tuple[int, int, int] | None
) -> Classifier:
    """Returns the model that a user's function makes for these classes and images."""
    create = outside.load(name, "model.name")
    found = outside.call(
        create,
        name,
        "model.name",
        "a function of num_classes and image_shape",
        num_classes=num_classes,
        image_shape=image_shape,
    )
    try:
        return adapted(found)
    except UserError:
        raise UserError(
            f"config.model.name is {name!r}, which returns a {type(found).__name__}; expected a"
            " function that returns a Flax module, of Linen or NNX"
        ) from None


def with_conv(model: Classifier, conv: Convolution) -> Classifier:
    """Returns the model with another `conv`.

    A model without that field is unchanged, and so is one whose `conv` is a module or makes one.
    """
    held = getattr(module_of(model), "conv", None)
    is_function = callable(held) and not isinstance(held, type | partial | nn.Module)
    return with_fields(model, conv=conv) if is_function else model


def in_float32(model: Classifier) -> Classifier:
    """Returns the model computing in float32; a model without a field `dtype` is unchanged."""
    return with_fields(model, dtype=jnp.float32)


def logits_fn(
    model: Classifier,
    variables: Mapping[str, Any],
    *,
    batch_norm: str = "running",
    key: Key[Array, ""] | None = None,
) -> Callable[[Images], Logits]:
    """Returns the function from images to logits that attacks differentiate.

    Args:
      model: any model of `adapted`.
      variables: the model's variables.
      batch_norm: normalise by the `running` statistics or by those of the `batch`; either way an
        attack leaves the running statistics unchanged.
      key: the key of dropout, which is active with the statistics of the `batch`.
    """
    is_training = batch_norm == "batch"
    rngs = {"params": key} if is_training and key is not None else None

    def logits(images: Images) -> Logits:
        # `mutable` makes `apply` return the updated statistics too, which are dropped.
        found: Any = model.apply(
            variables, images, train=is_training, mutable=["batch_stats"], rngs=rngs
        )
        return found[0]

    return logits


__all__ = [
    "SMALL",
    "Classifier",
    "Resized",
    "adapted",
    "check_name",
    "create",
    "in_float32",
    "logits_fn",
    "module_of",
    "name_of",
    "path_of",
    "pretrained",
    "rematerialized",
    "with_conv",
]
