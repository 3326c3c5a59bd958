"""The correspondence of PyTorch tensors and Flax leaves: names and axes.

The PyTorch names are those of the common robustness repositories; docs/interop.md describes the
architectures.
"""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

# Module names, PyTorch to Flax.
Names = dict[str, str]
Array = Float32[np.ndarray, "..."]

# Flax collection and leaf to PyTorch name.
_LEAVES: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("params", "kernel"): "weight",
        ("params", "scale"): "weight",
        ("params", "bias"): "bias",
        ("batch_stats", "mean"): "running_mean",
        ("batch_stats", "var"): "running_var",
    }
)
# Names of the same modules in other repositories.
_SYNONYMS: Mapping[str, Names] = MappingProxyType(
    {name: {"downsample": "shortcut", "fc": "linear"} for name in ("resnet18", "preact_resnet18")}
)
# The first convolution of every network.
FIRST = "conv1.weight"
# The number of updates of batch norm: PyTorch saves it, evaluation does not use it.
COUNTER = "num_batches_tracked"
# The number of averages of torch.optim.swa_utils.AveragedModel, saved beside `module.`.
_AVERAGED = "n_averaged"


class Tensor(NamedTuple):
    """A tensor that both networks have.

    Attributes:
      name: its name in PyTorch.
      path: its path in the Flax variables, the collection first.
      flattened_channels: for a dense layer that follows a flattened feature map, the channels of
        that map, which PyTorch flattens first and Flax last; otherwise 0.
    """

    name: str
    path: tuple[str, ...]
    flattened_channels: int

    def to_torch(self, value: Array) -> Array:
        """Returns a Flax leaf with PyTorch's axes."""
        if self.path[-1] != "kernel":
            return value
        if value.ndim == 4:
            return value.transpose(3, 2, 0, 1)
        if self.flattened_channels:
            apart = value.reshape(-1, self.flattened_channels, value.shape[-1])
            return apart.transpose(2, 1, 0).reshape(value.shape[-1], -1)
        return value.T

    def to_flax(self, value: Array) -> Array:
        """Returns a PyTorch tensor with Flax's axes."""
        if self.path[-1] != "kernel":
            return value
        if value.ndim == 4:
            return value.transpose(2, 3, 1, 0)
        if self.flattened_channels:
            apart = value.reshape(len(value), self.flattened_channels, -1)
            return apart.transpose(2, 1, 0).reshape(-1, len(value))
        return value.T


def tensors(model_name: str, leaves: Mapping[tuple[str, ...], Any]) -> list[Tensor]:
    """Returns the tensors of a network.

    Args:
      model_name: a model of `bat_jax.models.create`.
      leaves: the Flax leaves, or their shapes, by path.
    """
    flax_to_torch = {flax: torch for torch, flax in _NETWORKS[model_name]().items()}
    found = []
    for path, leaf in leaves.items():
        collection, *modules, last = path
        module = "/".join(modules)
        # Only small_cnn flattens, after a convolution of half its dense layer's size.
        flattened = leaf.shape[-1] // 2 if module == "Dense_0" and last == "kernel" else 0
        name = f"{flax_to_torch[module]}.{_LEAVES[collection, last]}"
        found.append(Tensor(name, path, flattened))
    return found


def canonical(model_name: str, name: str) -> str:
    """Returns a tensor's name with the synonyms of other repositories replaced by ours."""
    synonyms = _SYNONYMS.get(model_name, {})
    return ".".join(synonyms.get(part, part) for part in name.split("."))


def prefix(model_name: str, names: Collection[str]) -> str:
    """Returns the prefix of the network's own names, such as `module.`; it may be empty.

    Args:
      model_name: a model of `bat_jax.models.create`.
      names: canonical names.
    """
    modules = _NETWORKS[model_name]()
    candidates = {name.removesuffix(FIRST) for name in names if name.endswith(FIRST)}
    # Blocks have a convolution of this name too, but few modules of the network have their prefix.
    return max(
        sorted({"", *candidates}),
        key=lambda prefix: sum(f"{prefix}{module}.weight" in names for module in modules),
    )


def is_unused(model_name: str, name: str) -> bool:
    """Returns whether published files have this tensor although the network does not use it."""
    *_, last = name.split(".")
    # TRADES builds a second first block, never calls it, and saves its weights.
    return last in (COUNTER, _AVERAGED) or (
        model_name.startswith("wide_resnet") and name.startswith("sub_block1.")
    )


_PRE_ACTIVATION: Names = {
    "bn1": "BatchNorm_0",
    "conv1": "Conv_0",
    "bn2": "BatchNorm_1",
    "conv2": "Conv_1",
}


def _small_cnn() -> Names:
    convolutions = {f"conv{number + 1}": f"Conv_{number}" for number in range(3)}
    return convolutions | {"fc1": "Dense_0", "fc2": "head"}


def _resnet18() -> Names:
    block = {
        "conv1": "Conv_0",
        "bn1": "BatchNorm_0",
        "conv2": "Conv_1",
        "bn2": "BatchNorm_1",
    }
    shortcut = {"shortcut.0": "Conv_2", "shortcut.1": "BatchNorm_2"}
    stem = {"conv1": "Conv_0", "bn1": "BatchNorm_0", "linear": "head"}
    return stem | _blocks("layer{}.{}", "BasicBlock", (2, 2, 2, 2), block, shortcut)


def _preact_resnet18() -> Names:
    shortcut = {"shortcut.0": "Conv_2"}
    ends = {"conv1": "Conv_0", "bn": "BatchNorm_0", "linear": "head"}
    return ends | _blocks(
        "layer{}.{}", "PreActivationBlock", (2, 2, 2, 2), _PRE_ACTIVATION, shortcut
    )


def _wide_resnet(depth: int) -> Names:
    shortcut = {"convShortcut": "Conv_2"}
    ends = {"conv1": "Conv_0", "bn1": "BatchNorm_0", "fc": "head"}
    return ends | _blocks(
        "block{}.layer.{}",
        "PreActivationBlock",
        ((depth - 4) // 6,) * 3,
        _PRE_ACTIVATION,
        shortcut,
    )


def _blocks(torch: str, flax: str, stages: tuple[int, ...], block: Names, shortcut: Names) -> Names:
    """Returns the modules of all blocks, numbered by stage in PyTorch and consecutively in Flax.

    The shortcut is listed for the first block of every stage, even if the network lacks it there.
    """
    names, number = {}, 0
    for stage, size in enumerate(stages, start=1):
        for place in range(size):
            for ours, theirs in (block if place else block | shortcut).items():
                names[f"{torch.format(stage, place)}.{ours}"] = f"{flax}_{number}/{theirs}"
            number += 1
    return names


# For every network, the modules that have tensors.
_NETWORKS: Mapping[str, Callable[[], Names]] = MappingProxyType(
    {
        "small_cnn": _small_cnn,
        "resnet18": _resnet18,
        "preact_resnet18": _preact_resnet18,
        "wide_resnet28_10": lambda: _wide_resnet(28),
        "wide_resnet34_10": lambda: _wide_resnet(34),
    }
)
