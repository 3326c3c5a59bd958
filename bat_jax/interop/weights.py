"""Reading and writing weights as safetensors files for exchange with PyTorch."""

import hashlib
import json
import logging
import os
import reprlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float32, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bat_jax.errors import UserError, in_short
from bat_jax.fields import Integer
from bat_jax.interop import layout, normalization
from bat_jax.interop import sizes as sizes_of
from bat_jax.interop.variables import new_file
from bat_jax.models.blocks import Shortcut, Stem
from bat_jax.runtime.files import written_whole

log = logging.getLogger(__name__)

Tensors = dict[str, Shaped[np.ndarray, "..."]]
Leaves = dict[tuple[str, ...], Any]

# Buffers that a normalising wrapper saves beside its network.
_BUFFERS = {"mean": "mean", "mu": "mean", "std": "std", "sigma": "std"}
_FIRST_LEAF = ("params", "Conv_0", "kernel")
_HEAD_LEAF = ("params", "head", "kernel")
_FLATTENED_LEAF = ("params", "Dense_0", "kernel")
_ACTIVATIONS = ("relu", "silu")


class Imported(NamedTuple):
    """A model with imported weights.

    Attributes:
      model: the float32 model, with the file's width, channels and normalisation.
      variables: the variables for `model.apply(variables, images)`.
    """

    model: nn.Module
    variables: dict[str, Any]


def export_weights(
    path: str | os.PathLike[str],
    architecture: str,
    variables: Mapping[str, Any],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    stem: Stem = "cifar",
    shortcut: Shortcut | None = None,
    activation: str = "relu",
) -> None:
    """Writes the weights of a model under the names of its PyTorch architecture.

    That architecture has no tensors for the normalisation. The file's metadata holds it, together
    with the model's name and other settings; `import_weights` reads it from there.

    Args:
      path: the safetensors file.
      architecture: a model of `bat_jax.models.create`.
      variables: `params` and, if the model has batch norm, `batch_stats`.
      mean: the model's per-channel mean.
      std: the model's per-channel standard deviation.
      stem: the model's stem.
      shortcut: the model's shortcut, if its architecture has a choice.
      activation: the model's activation; networks with `dm_` have SiLU.

    Raises:
      UserError: the variables or the normalisation do not fit the model, or the path cannot be
        that of a file.
      OSError: the file cannot be written.
    """
    path = new_file(path)
    check_architecture(architecture)
    leaves = {at: np.asarray(leaf) for at, leaf in flatten_dict(dict(variables)).items()}
    if not {_FIRST_LEAF, _HEAD_LEAF} <= leaves.keys():
        raise UserError(f"variables: no {_path(_FIRST_LEAF)}; expected variables of {architecture}")
    channels = leaves[_FIRST_LEAF].shape[-2]
    normalized = {
        "mean": normalization.per_channel("mean", "mean", mean, channels),
        "std": normalization.per_channel("std", "std", std, channels),
    }
    sizes = sizes_of.of_leaves(architecture, leaves)
    chosen: dict[str, Any] = {"stem": stem}
    if shortcut is None and sizes.final_norm is False:
        shortcut = "activated"  # The model's default, which is not that of an import.
    if shortcut is not None:
        chosen["shortcut"] = shortcut
    if activation != "relu" and not architecture.startswith("dm_"):
        chosen["activation"] = activation
    model = sizes_of.create(architecture, leaves[_HEAD_LEAF].shape[-1], sizes, chosen)
    width = sizes.width
    places = len(leaves[_FLATTENED_LEAF]) // (4 * width) if _FLATTENED_LEAF in leaves else 0
    expected = _leaves(model, channels=channels, places=places)
    for at in sorted({*leaves, *expected}):
        ours, theirs = (tree[at].shape if at in tree else None for tree in (leaves, expected))
        if ours != theirs:
            raise UserError(
                f"variables: {_path(at)} has shape {ours}; expected {theirs} for {architecture} of"
                f" {sizes}"
            )

    tensors: Tensors = {}
    for tensor in layout.tensors(architecture, expected, sizes.depth):
        value = leaves[tensor.path].astype(np.float32)
        tensors[tensor.name] = np.ascontiguousarray(tensor.to_torch(value))
        if tensor.path[-1] == "mean":
            module = tensor.name.removesuffix("running_mean")
            tensors[module + layout.COUNTER] = np.zeros((), np.int64)
    metadata = {"model": architecture, **chosen}
    free = {"depth": sizes.depth, "widening": sizes.widening}
    metadata |= {name: str(value) for name, value in free.items() if value is not None}
    metadata |= {name: json.dumps(values) for name, values in normalized.items()}
    with written_whole(path) as file:
        file.write(save(tensors, metadata))


def import_weights(
    path: str | os.PathLike[str],
    architecture: str,
    num_classes: int,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    stem: Stem | None = None,
    shortcut: Shortcut | None = None,
    dataset: str | None = None,
) -> Imported:
    """Reads the weights of a PyTorch network, exported or published, for Flax.

    A prefix of the network's names, such as `module.` from DataParallel or one from a wrapper, is
    dropped. The sizes that the architecture leaves free are read from the file.

    Args:
      path: the safetensors file.
      architecture: a model of `bat_jax.models.create`.
      num_classes: number of logits.
      mean: per-channel mean by which the network normalises [0, 1] images; by default the file's,
        from its buffers (`mean` or `mu`) or its metadata.
      std: per-channel standard deviation; by default the file's, from its buffers (`std` or
        `sigma`) or its metadata.
      stem: the model's stem; by default that of the file's metadata, else `cifar`.
      shortcut: the shortcut of PreActResNet; by default that of the file's metadata, else `raw` if
        the file has no batch norm before the head, and `activated` if it has, as in RobustBench.
      dataset: `cifar10` or `cifar100`. Networks with `dm_` normalise by its mean and standard
        deviation unless the caller or the file gives others.

    Returns:
      The model and its variables; its logits are those of the PyTorch network in eval mode.

    Raises:
      UserError: the file is not a safetensors file or not of that network, or neither the file nor
        the caller gives the normalisation.
    """
    path = Path(path)
    legal = Integer(None, low=1).expected(num_classes)
    if legal is not None:
        raise UserError(f"num_classes is {num_classes}; expected {legal}")
    check_architecture(architecture)  # Before anything is read.
    tensors, metadata = _read(path)
    if any(name.startswith("params/") for name in tensors):
        raise UserError(
            f"{path}: holds variables of a Flax model, as save_variables or Fitted.export writes"
            " them; expected the tensors of a PyTorch network: read it with"
            " bat_jax.interop.load_variables, or export the run with python -m bat_jax.interop"
        )
    network, others, buffers = _take_apart(path, tensors, architecture)
    first = layout.family(architecture).stem
    _refuse(path, architecture, "lacks", {first} - network.keys())
    shape = network[first].shape
    if len(shape) != 4 or 0 in shape:
        raise UserError(f"{path}: {first} has shape {shape}; expected (width, channels, 3, 3)")
    width, channels = shape[:2]
    places = network["fc1.weight"].size // (32 * width**2) if "fc1.weight" in network else 0
    sizes = sizes_of.of_tensors(architecture, network)
    chosen = _chosen(path, metadata, stem=stem, shortcut=shortcut)
    if sizes.final_norm is False:
        chosen = {"shortcut": "raw", **chosen}
    model = sizes_of.create(architecture, num_classes, sizes, chosen)
    expected = _leaves(model, channels=channels, places=places)
    wanted = list(layout.tensors(architecture, expected, sizes.depth))
    names = {tensor.name for tensor in wanted}
    _refuse(path, architecture, "lacks", names - network.keys())
    _refuse(path, architecture, "also has", [*sorted(network.keys() - names), *sorted(others)])

    leaves: Leaves = {}
    for tensor in wanted:
        value, leaf = network[tensor.name], expected[tensor.path]
        shape = tensor.to_torch(np.empty(leaf.shape, np.float32)).shape
        if value.shape != shape or not jnp.issubdtype(value.dtype, jnp.floating):
            raise UserError(
                f"{path}: {tensor.name} is {value.dtype} of shape {value.shape}; expected floats of"
                f" shape {shape} for {architecture} of {sizes} with {num_classes} classes"
            )
        leaves[tensor.path] = jnp.asarray(tensor.to_flax(_checked(path, tensor, value)))
    _say_rounded(path, [network[tensor.name] for tensor in wanted])
    known = (
        normalization.NORMALIZATIONS.get(dataset or "") if architecture.startswith("dm_") else None
    )
    model = model.clone(
        mean=normalization.found(path, "mean", mean, buffers, metadata, channels, known),
        std=normalization.found(path, "std", std, buffers, metadata, channels, known),
    )
    return Imported(model, unflatten_dict(leaves))


def check_architecture(name: str) -> None:
    """Raises a UserError unless weights of the architecture can be read."""
    if name not in layout.ARCHITECTURES:
        raise UserError(
            f"architecture: {name!r} is unknown; expected one of {', '.join(layout.ARCHITECTURES)}"
        )


def digest(variables: Mapping[str, Any]) -> str:
    """Returns a content hash of a model's variables."""
    found = hashlib.sha256()
    for path, leaf in sorted(flatten_dict(dict(variables)).items()):
        found.update(f"{_path(path)}{leaf.dtype}{leaf.shape}".encode())
        found.update(np.ascontiguousarray(leaf).data)
    return found.hexdigest()[:16]


def _checked(
    path: Path, tensor: layout.Tensor, value: Shaped[np.ndarray, "..."]
) -> Float32[np.ndarray, "..."]:
    """Returns a tensor in float32, with legal values."""
    with np.errstate(over="ignore"):  # Infinity is refused below.
        value = value.astype(np.float32)
    wrong = ~np.isfinite(value)
    if tensor.path[-1] == "var":
        wrong |= value < 0
    if wrong.any():
        kind = "numbers of 0 or more" if tensor.path[-1] == "var" else "finite float32 numbers"
        raise UserError(
            f"{path}: {tensor.name} holds {value[wrong][0]} ({wrong.sum():,} of {value.size:,}"
            f" are wrong); expected {kind}: export a checkpoint that has not diverged"
        )
    return value


def _read(path: Path) -> tuple[Tensors, dict[str, str]]:
    # Memory-mapping folders and devices fails in various ways, and opening a pipe blocks.
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is not a file; expected a safetensors file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a safetensors file") from None
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            return {name: _tensor(path, file, name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError, TypeError) as error:
        raise UserError(
            f"{path}: {in_short(error)}; expected a whole safetensors file: docs/interop.md shows"
            " how to make one from a PyTorch checkpoint"
        ) from None


def _tensor(path: Path, file: Any, name: str) -> Shaped[np.ndarray, "..."]:
    try:
        return file.get_tensor(name)
    # NumPy lacks the type (AttributeError), or cannot represent the shape (ValueError).
    except (AttributeError, ValueError):
        header = file.get_slice(name)
        shape = "x".join(map(str, header.get_shape()[:8]))
        raise UserError(
            f"{path}: {_shown(name)} is {header.get_dtype()} of shape {shape}, which NumPy cannot"
            " represent; expected tensors in float16, bfloat16, float32 or float64"
        ) from None


def _say_rounded(path: Path, values: Sequence[Shaped[np.ndarray, "..."]]) -> None:
    """Warns of weights in half precision, which differ from those that were trained."""
    rounded = {str(value.dtype) for value in values if value.dtype.itemsize < 4}
    if rounded:
        log.warning(
            "%s: has weights in %s, read as float32: accuracies are those of the rounded weights",
            path,
            " and ".join(sorted(rounded)),
        )


def _take_apart(
    path: Path, tensors: Tensors, architecture: str
) -> tuple[Tensors, list[str], Tensors]:
    """Returns the network's tensors by canonical name, other names, and a wrapper's buffers."""
    named: dict[str, str] = {}
    for name in tensors:
        twin = named.setdefault(layout.canonical(architecture, name), name)
        if twin != name:
            raise UserError(
                f"{path}: {_shown(twin)} and {_shown(name)} name one tensor of {architecture};"
                " expected only one of them"
            )
    tensors = {own: tensors[name] for own, name in named.items()}
    prefix = layout.prefix(architecture, tensors)
    if prefix:
        log.info("%s: dropped the prefix %s from its names", path, _shown(prefix))
    network: Tensors = {}
    buffers: Tensors = {}
    others = []
    for name, value in tensors.items():
        own = name.removeprefix(prefix)
        last = name.split(".")[-1]
        if last in _BUFFERS:
            buffer = buffers.setdefault(_BUFFERS[last], value)
            if not np.array_equal(buffer, value):
                raise UserError(
                    f"{path}: {_shown(name)} differs from another buffer of the same meaning;"
                    f" expected one {_BUFFERS[last]} to normalise by"
                )
        elif layout.is_unused(architecture, own):
            continue
        elif not name.startswith(prefix):
            others.append(name)
        else:
            network[own] = value
    return network, others, buffers


def _chosen(
    path: Path, metadata: Mapping[str, str], *, stem: Stem | None, shortcut: Shortcut | None
) -> dict[str, Any]:
    """Returns the settings that tensors do not show, from the caller or else the metadata."""
    chosen: dict[str, Any] = {}
    for name, given, legal in (
        ("stem", stem, get_args(Stem)),
        ("shortcut", shortcut, get_args(Shortcut)),
        ("activation", None, _ACTIVATIONS),
    ):
        found = metadata.get(name) if given is None else given
        if given is None and found is not None and found not in legal:
            raise UserError(f"{path}: {name} is {_shown(found)}; expected {' or '.join(legal)}")
        if found is not None:
            chosen[name] = found
    return chosen


def _leaves(model: nn.Module, *, channels: int, places: int) -> Leaves:
    """Returns the shapes of a model's variables by path.

    Args:
      model: the model.
      channels: channels of the images.
      places: height times width of the map that small_cnn flattens; other models ignore it.
    """
    # Two halvings leave 1 x places; the shapes depend only on the product.
    images = jnp.zeros((1, 4, 4 * max(places, 1), channels))
    # The default normalisation assumes one channel or three.
    model = model.clone(mean=(0.0,) * channels, std=(1.0,) * channels)
    return flatten_dict(dict(jax.eval_shape(model.init, jax.random.key(0), images)))


def _refuse(path: Path, architecture: str, verb: str, names: Collection[str]) -> None:
    if names:
        listed = [_shown(name) for name in sorted(names)[:3]]
        more = f" and {len(names) - len(listed)} more" if len(names) > len(listed) else ""
        raise UserError(
            f"{path}: {verb} {', '.join(listed)}{more}; expected one network with the names of"
            f" {architecture} in docs/interop.md"
        )


def _shown(name: str) -> str:
    """Returns a name for a message, on one short line."""
    return name if name.isprintable() and len(name) <= 100 else reprlib.repr(name)


def _path(leaf: tuple[str, ...]) -> str:
    return "/".join(leaf)
