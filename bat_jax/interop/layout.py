"""The correspondence of PyTorch tensors and Flax leaves: names and axes.

The PyTorch names are those of the common robustness repositories; docs/interop.md describes the
architectures.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from bat_jax.models import preact_resnet, resnet

# Module names, PyTorch to Flax.
Names = Mapping[str, str]
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
# The number of updates of batch norm, which PyTorch saves and evaluation does not use.
COUNTER = "num_batches_tracked"
# The number of averages of torch.optim.swa_utils.AveragedModel, saved beside `module.`.
_AVERAGED = "n_averaged"


@dataclasses.dataclass(frozen=True)
class Family:
    """The modules of one architecture at every depth.

    Attributes:
      ends: the modules before and after the blocks, the first convolution first.
      flax: the class of the blocks in Flax, which numbers them consecutively.
      place: a block's name in PyTorch, by stage and by its place in the stage.
      first: the number of the first stage.
      block: the modules of a block.
      shortcut: further modules of the first block of a stage; some stages lack them.
      synonyms: names of modules in other repositories.
      unused: the prefix of tensors that published files contain and the network does not use.
    """

    ends: Names
    flax: str = ""
    place: str = ""
    first: int = 1
    block: Names = dataclasses.field(default_factory=dict)
    shortcut: Names = dataclasses.field(default_factory=dict)
    synonyms: Names = dataclasses.field(default_factory=dict)
    unused: str | None = None

    @property
    def stem(self) -> str:
        """The name of the first convolution's weight."""
        return f"{next(iter(self.ends))}.weight"

    def modules(self, blocks: Sequence[int]) -> dict[str, str]:
        """Returns all modules that have tensors, given the number of blocks of each stage."""
        names, number = dict(self.ends), 0
        for stage, size in enumerate(blocks, start=self.first):
            for place in range(size):
                of_block = {**self.block, **({} if place else self.shortcut)}
                for ours, theirs in of_block.items():
                    name = f"{self.place.format(stage, place)}.{ours}"
                    names[name] = f"{self.flax}_{number}/{theirs}"
                number += 1
        return names

    def blocks(self, names: Collection[str]) -> dict[int, int]:
        """Returns how many blocks each stage has, judged by the names of tensors."""
        if not self.place:
            return {}
        at = re.compile(re.escape(self.place).replace(r"\{\}", r"(\d{1,3})") + r"\.")
        found = {match.groups() for match in map(at.match, names) if match}
        return Counter(int(stage) - self.first for stage, _ in found)

    def known(self, prefix: str, names: Collection[str]) -> int:
        """Returns how many of the names consist of the prefix and a name of this architecture."""
        inside = "|".join(map(re.escape, {**self.block, **self.shortcut}))
        place = re.escape(self.place).replace(r"\{\}", r"\d+")
        ends = "|".join(map(re.escape, self.ends))
        pattern = re.compile(rf"{re.escape(prefix)}(?:{ends}|{place}\.(?:{inside}))\.\w+")
        return sum(pattern.fullmatch(name) is not None for name in names)


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


def tensors(
    model_name: str, leaves: Mapping[tuple[str, ...], Any], depth: int | None
) -> Iterator[Tensor]:
    """Yields the tensors of a network.

    Args:
      model_name: a model of `bat_jax.models.create`.
      leaves: the Flax leaves, or their shapes, by path.
      depth: the network's depth, if its name leaves it free.
    """
    modules = family(model_name).modules(_blocks(model_name, depth))
    flax_to_torch = {flax: torch for torch, flax in modules.items()}
    for path, leaf in leaves.items():
        collection, *inner, last = path
        module = "/".join(inner)
        # Only small_cnn flattens, after a convolution of half its dense layer's size.
        flattened = leaf.shape[-1] // 2 if module == "Dense_0" and last == "kernel" else 0
        name = f"{flax_to_torch[module]}.{_LEAVES[collection, last]}"
        yield Tensor(name, path, flattened)


def family(model_name: str) -> Family:
    """Returns the architecture of a model of `bat_jax.models.create`."""
    return _FAMILIES[model_name]


def canonical(model_name: str, name: str) -> str:
    """Returns a tensor's name with the synonyms of other repositories replaced by ours."""
    synonyms = family(model_name).synonyms
    return ".".join(synonyms.get(part, part) for part in name.split("."))


def prefix(model_name: str, names: Collection[str]) -> str:
    """Returns the prefix of the network's own names, such as `module.`; it may be empty.

    Args:
      model_name: a model of `bat_jax.models.create`.
      names: canonical names.
    """
    first = family(model_name).stem
    candidates = {name.removesuffix(first) for name in names if name.endswith(first)}
    # Blocks also have a convolution of this name, but few names of the network share their prefix.
    return max(
        sorted({"", *candidates}), key=lambda prefix: family(model_name).known(prefix, names)
    )


def is_unused(model_name: str, name: str) -> bool:
    """Returns whether published files have this tensor although the network does not use it."""
    *_, last = name.split(".")
    unused = family(model_name).unused
    return last in (COUNTER, _AVERAGED) or (unused is not None and name.startswith(unused))


def depth_of(model_name: str, blocks: Mapping[int, int]) -> int | None:
    """Returns the depth of a network with these blocks, or None if its name fixes the depth.

    If no depth has exactly these blocks, the network lacks tensors of the returned depth.

    Args:
      model_name: a model of `bat_jax.models.create`.
      blocks: how many each stage has, by its number from 0.
    """
    if model_name in _DEPTHS or not family(model_name).place:
        return None
    if model_name in _WIDE:
        return 6 * max(1, *(blocks.get(stage, 0) for stage in range(3))) + 4
    for depth, stages in preact_resnet.BLOCKS.items():
        if all(blocks.get(stage, 0) <= size for stage, size in enumerate(stages)):
            return depth
    return max(preact_resnet.BLOCKS)


def depth_of_total(model_name: str, blocks: int) -> int | None:
    """Returns the depth of a network from its number of blocks, None if its name fixes it."""
    if model_name in _DEPTHS or not family(model_name).place:
        return None
    if model_name in _WIDE:
        return 6 * max(1, blocks // 3) + 4
    depths = preact_resnet.BLOCKS
    return next((depth for depth in depths if sum(depths[depth]) == blocks), max(depths))


def _blocks(model_name: str, depth: int | None) -> tuple[int, ...]:
    """Returns the number of blocks of each stage."""
    depth = _DEPTHS.get(model_name, depth)
    if depth is None:
        return ()
    if model_name in _WIDE:
        return ((depth - 4) // 6,) * 3
    if model_name in ("resnet18", "resnet50"):
        return resnet.STAGES[depth][1]
    return preact_resnet.BLOCKS[depth]


# The depths of models whose name fixes it.
_DEPTHS: Mapping[str, int] = MappingProxyType(
    {
        "resnet18": 18,
        "resnet50": 50,
        "preact_resnet18": 18,
        "dm_preact_resnet18": 18,
        "wide_resnet28_10": 28,
        "wide_resnet34_10": 34,
    }
)
_WIDE = ("wide_resnet", "wide_resnet28_10", "wide_resnet34_10", "dm_wide_resnet")
_SYNONYMS: Names = MappingProxyType({"downsample": "shortcut", "fc": "linear"})

_SMALL_CNN = Family(
    ends={
        "conv1": "Conv_0",
        "conv2": "Conv_1",
        "conv3": "Conv_2",
        "fc1": "Dense_0",
        "fc2": "head",
    }
)
_RESNET18 = Family(
    ends={"conv1": "Conv_0", "bn1": "BatchNorm_0", "linear": "head"},
    flax="BasicBlock",
    place="layer{}.{}",
    block={"conv1": "Conv_0", "bn1": "BatchNorm_0", "conv2": "Conv_1", "bn2": "BatchNorm_1"},
    shortcut={"shortcut.0": "Conv_2", "shortcut.1": "BatchNorm_2"},
    synonyms=_SYNONYMS,
)
_RESNET50 = dataclasses.replace(
    _RESNET18,
    flax="Bottleneck",
    block={**_RESNET18.block, "conv3": "Conv_2", "bn3": "BatchNorm_2"},
    shortcut={"shortcut.0": "Conv_3", "shortcut.1": "BatchNorm_3"},
)
_PREACT_RESNET = Family(
    ends={"conv1": "Conv_0", "bn": "BatchNorm_0", "linear": "head"},
    flax="PreActivationBlock",
    place="layer{}.{}",
    block={"bn1": "BatchNorm_0", "conv1": "Conv_0", "bn2": "BatchNorm_1", "conv2": "Conv_1"},
    shortcut={"shortcut.0": "Conv_2"},
    synonyms=_SYNONYMS,
)
_WIDE_RESNET = Family(
    ends={"conv1": "Conv_0", "bn1": "BatchNorm_0", "fc": "head"},
    flax="PreActivationBlock",
    place="block{}.layer.{}",
    block=_PREACT_RESNET.block,
    shortcut={"convShortcut": "Conv_2"},
    # TRADES builds a second first block, never calls it, and saves its weights.
    unused="sub_block1.",
)
_DM_WIDE_RESNET = Family(
    ends={"init_conv": "Conv_0", "batchnorm": "BatchNorm_0", "logits": "head"},
    flax="PreActivationBlock",
    place="layer.{}.block.{}",
    first=0,
    block={
        "batchnorm_0": "BatchNorm_0",
        "conv_0": "Conv_0",
        "batchnorm_1": "BatchNorm_1",
        "conv_1": "Conv_1",
    },
    shortcut={"shortcut": "Conv_2"},
)
_DM_PREACT_RESNET = Family(
    ends={"conv_2d": "Conv_0", "batchnorm": "BatchNorm_0", "logits": "head"},
    flax="PreActivationBlock",
    place="layer_{}.{}",
    first=0,
    block={
        "batchnorm_0": "BatchNorm_0",
        "conv_2d_1": "Conv_0",
        "batchnorm_1": "BatchNorm_1",
        "conv_2d_2": "Conv_1",
    },
    shortcut={"shortcut": "Conv_2"},
)
_FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "small_cnn": _SMALL_CNN,
        "resnet18": _RESNET18,
        "resnet50": _RESNET50,
        "preact_resnet18": _PREACT_RESNET,
        "preact_resnet": _PREACT_RESNET,
        "dm_preact_resnet18": _DM_PREACT_RESNET,
        "dm_preact_resnet": _DM_PREACT_RESNET,
        "wide_resnet28_10": _WIDE_RESNET,
        "wide_resnet34_10": _WIDE_RESNET,
        "wide_resnet": _WIDE_RESNET,
        "dm_wide_resnet": _DM_WIDE_RESNET,
    }
)
ARCHITECTURES: tuple[str, ...] = tuple(_FAMILIES)
