"""The sizes of a network that the name of its architecture leaves free."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from bat_jax import models
from bat_jax.interop import layout

_FIRST_LEAF = ("params", "Conv_0", "kernel")
_FIRST_BLOCK_LEAF = ("params", "PreActivationBlock_0", "Conv_0", "kernel")
_FINAL_NORM_LEAF = ("params", "BatchNorm_0", "scale")


class Sizes(NamedTuple):
    """The sizes that a model's tensors determine; None where the model's name does.

    Attributes:
      width: channels of the first convolution.
      depth: the number of layers.
      widening: the widening factor of a WRN.
      final_norm: whether batch norm precedes the head of a PreActResNet.
    """

    width: int
    depth: int | None
    widening: int | None
    final_norm: bool | None

    def __str__(self) -> str:
        """The sizes for messages: `width 16, depth 28`."""
        named = zip(self._fields[:3], self[:3], strict=True)
        return ", ".join(f"{name} {value}" for name, value in named if value is not None)


def create(architecture: str, num_classes: int, sizes: Sizes, chosen: Mapping[str, Any]) -> Any:
    """Returns the model of these sizes, without passing those that its name fixes."""
    found = {name: value for name, value in sizes._asdict().items() if value is not None}
    return models.create(architecture, num_classes, **found, **chosen)


def of_tensors(architecture: str, network: Mapping[str, Shaped[np.ndarray, "..."]]) -> Sizes:
    """Returns the sizes of a PyTorch network; the caller rejects missing tensors afterwards."""
    family = layout.family(architecture)
    width = network[family.stem].shape[0]
    depth = layout.depth_of(architecture, family.blocks(network))
    first = family.place.format(family.first, 0)
    convolution = next((name for name in family.block if "conv" in name), "")
    widened = network.get(f"{first}.{convolution}.weight")
    channels = None if widened is None or 0 in (widened.size, widened.ndim) else widened.shape[0]
    has_norm = any(name.startswith("bn.") for name in network)
    return _sizes(architecture, width, depth, channels, has_norm)


def of_leaves(architecture: str, leaves: Mapping[tuple[str, ...], Any]) -> Sizes:
    """Returns the sizes of Flax variables; the caller rejects missing leaves afterwards."""
    modules = {path[1] for path in leaves if len(path) > 1}
    blocks = [name for name in modules if name.startswith(("Pre", "Basic", "Bottle"))]
    widened = leaves.get(_FIRST_BLOCK_LEAF)
    return _sizes(
        architecture,
        leaves[_FIRST_LEAF].shape[-1],
        layout.depth_of_total(architecture, len(blocks)),
        None if widened is None else widened.shape[-1],
        _FINAL_NORM_LEAF in leaves,
    )


def _sizes(
    architecture: str, width: int, depth: int | None, channels: int | None, has_norm: bool
) -> Sizes:
    """Returns the sizes that the name leaves free.

    Args:
      architecture: the model's name.
      width: channels of the first convolution.
      depth: None if the name fixes it.
      channels: channels of the first stage, if known.
      has_norm: whether there is batch norm before the head.
    """
    is_wide = architecture in ("wide_resnet", "dm_wide_resnet")
    is_preact = architecture.startswith("preact_")
    widening = max(1, channels // width) if is_wide and channels else None
    return Sizes(width, depth, widening, has_norm if is_preact else None)
