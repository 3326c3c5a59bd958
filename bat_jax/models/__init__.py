"""The image classifiers: Flax Linen modules from [0, 1] images to logits.

    model = bat_jax.models.create("preact_resnet18", num_classes=100)
    variables = model.init(key, images)
    logits, features = model.apply(variables, images, train=False, features=True)

Normalisation is part of a model; `features` are the penultimate ones. A forward pass with
`train=True` needs `mutable=["batch_stats"]` where the model has batch statistics.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bat_jax import backend
from bat_jax.backend import Lowering
from bat_jax.errors import UserError
from bat_jax.models.resnet import ResNet18, Stem
from bat_jax.models.small_cnn import SmallCNN
from bat_jax.models.wide_resnet import WideResNet

# Smallest and largest image side.
_SIDES = {"small_cnn": (8, 32)}
_RESIDUAL_SIDES = (16, 128)
# Of few channels.
_SMALL = ("small_cnn",)


def _small_cnn(*, stem: Stem, axis_name: str | None, **settings: Any) -> nn.Module:
    del stem, axis_name  # It has neither a stem of its own nor batch norm.
    return SmallCNN(**settings)


_MODELS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "small_cnn": _small_cnn,
        "resnet18": ResNet18,
        "preact_resnet18": lambda **settings: ResNet18(pre_activation=True, **settings),
        "wide_resnet28_10": lambda **settings: WideResNet(depth=28, **settings),
        "wide_resnet34_10": lambda **settings: WideResNet(depth=34, **settings),
    }
)


def create(
    name: str,
    num_classes: int,
    *,
    image_shape: tuple[int, int, int] | None = None,
    width: int | None = None,
    stem: Stem = "cifar",
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    lowering: Lowering | None = None,
) -> nn.Module:
    """Returns an untrained model.

    Args:
      name: `small_cnn`, `resnet18`, `preact_resnet18`, `wide_resnet28_10` or `wide_resnet34_10`.
      num_classes: number of logits.
      image_shape: height, width, channels of the images it is meant for; checked when given.
      width: channels of the first layer, the published number when absent.
      stem: `cifar`, or `tiny_imagenet` for 64x64 images (residual networks).
      mean: per-channel mean to normalise by, 0.5 when absent.
      std: per-channel standard deviation, likewise.
      dtype: of the computation, float32 or bfloat16; parameters and logits are float32.
      axis_name: the mapped axis that batch norm is synchronised over, if any.
      lowering: of convolutions, `automatic`, `xla`, `patches` or `batch_last`: see
        `bat_jax.kernels.convolution`. By default what suits the model and the back end. The last
        two are for models that run in a loop or under `jax.vmap` on CPU.

    Raises:
      UserError: an unknown name or stem, or images the model cannot take.
    """
    if name not in _MODELS:
        raise UserError(f"model: {name!r} is unknown; expected one of {', '.join(_MODELS)}")
    if stem not in ("cifar", "tiny_imagenet"):
        raise UserError(f"model: stem is {stem!r}; expected cifar or tiny_imagenet")
    if image_shape is not None:
        low, high = _SIDES.get(name, _RESIDUAL_SIDES)
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
        "lowering": lowering or backend.lowering(is_small=name in _SMALL),
    }
    for setting, value in (("width", width), ("mean", mean), ("std", std)):
        if value is not None:
            settings[setting] = value
    return _MODELS[name](**settings)


__all__ = ["create"]
