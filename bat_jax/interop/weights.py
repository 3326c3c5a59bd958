"""Reading and writing weights as safetensors files for exchange with PyTorch."""

import json
import os
import reprlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bat_jax import models
from bat_jax.errors import UserError
from bat_jax.fields import Integer
from bat_jax.interop import layout
from bat_jax.models.resnet import Stem
from bat_jax.runtime.files import written_whole

Tensors = dict[str, Shaped[np.ndarray, "..."]]
Leaves = dict[tuple[str, ...], Any]

# Buffers that a normalising wrapper saves beside its network.
_BUFFERS = {"mean": "mean", "mu": "mean", "std": "std", "sigma": "std"}
_FIRST_LEAF = ("params", "Conv_0", "kernel")
_HEAD_LEAF = ("params", "head", "kernel")
_FLATTENED_LEAF = ("params", "Dense_0", "kernel")


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
    model_name: str,
    variables: Mapping[str, Any],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    stem: Stem = "cifar",
) -> None:
    """Writes the weights of a model under the names of its PyTorch architecture.

    That architecture has no tensors for the normalisation. The file's metadata holds it, with the
    model's name and stem; `import_weights` reads it from there.

    Args:
      path: the safetensors file.
      model_name: a model of `bat_jax.models.create`.
      variables: `params` and, if the model has batch norm, `batch_stats`.
      mean: the model's per-channel mean.
      std: the model's per-channel standard deviation.
      stem: the model's stem.

    Raises:
      UserError: the variables or the normalisation do not fit the model, or the path cannot be
        that of a file.
      OSError: the file cannot be written.
    """
    path = Path(path)
    if not path.name or path.is_dir():
        raise UserError(f"'{path}': is not a file; expected the safetensors file to write")
    leaves = {at: np.asarray(leaf) for at, leaf in flatten_dict(dict(variables)).items()}
    if not {_FIRST_LEAF, _HEAD_LEAF} <= leaves.keys():
        raise UserError(f"variables: no {_path(_FIRST_LEAF)}; expected variables of {model_name}")
    *_, channels, width = leaves[_FIRST_LEAF].shape
    normalization = {
        "mean": _per_channel("mean", "mean", mean, channels),
        "std": _per_channel("std", "std", std, channels),
    }
    model = models.create(model_name, leaves[_HEAD_LEAF].shape[-1], width=width, stem=stem)
    places = len(leaves[_FLATTENED_LEAF]) // (4 * width) if _FLATTENED_LEAF in leaves else 0
    expected = _leaves(model, channels=channels, places=places)
    for at in sorted({*leaves, *expected}):
        ours, theirs = (tree[at].shape if at in tree else None for tree in (leaves, expected))
        if ours != theirs:
            raise UserError(
                f"variables: {_path(at)} has shape {ours}; expected {theirs} for {model_name} of"
                f" width {width}"
            )

    tensors: Tensors = {}
    for tensor in layout.tensors(model_name, expected):
        value = leaves[tensor.path].astype(np.float32)
        tensors[tensor.name] = np.ascontiguousarray(tensor.to_torch(value))
        if tensor.path[-1] == "mean":
            module = tensor.name.removesuffix("running_mean")
            tensors[module + layout.COUNTER] = np.zeros((), np.int64)
    metadata = {"model": model_name, "stem": stem}
    metadata |= {name: json.dumps(values) for name, values in normalization.items()}
    with written_whole(path) as file:
        file.write(save(tensors, metadata))


def import_weights(
    path: str | os.PathLike[str],
    model_name: str,
    num_classes: int,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    stem: Stem | None = None,
) -> Imported:
    """Reads the weights of a PyTorch network, exported or published, for Flax.

    Prefixes of the network's names, such as `module.` of DataParallel or that of a wrapper, are
    dropped. The width is read from the file.

    Args:
      path: the safetensors file.
      model_name: a model of `bat_jax.models.create`.
      num_classes: number of logits.
      mean: per-channel mean by which the network normalises [0, 1] images; by default the file's,
        from its buffers (`mean` or `mu`) or its metadata.
      std: per-channel standard deviation; by default the file's, from its buffers (`std` or
        `sigma`) or its metadata.
      stem: the model's stem; by default that of the file's metadata, else `cifar`.

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
    models.create(model_name, num_classes)  # Refuses an unknown name before anything is read.
    tensors, metadata = _read(path)
    network, others, buffers = _take_apart(path, tensors, model_name)
    _refuse(path, model_name, "lacks", {layout.FIRST} - network.keys())
    first = network[layout.FIRST].shape
    if len(first) != 4 or 0 in first:
        raise UserError(
            f"{path}: {layout.FIRST} has shape {first}; expected (width, channels, 3, 3)"
        )
    width, channels = first[:2]
    places = network["fc1.weight"].size // (32 * width**2) if "fc1.weight" in network else 0
    model = models.create(model_name, num_classes, width=width, stem=stem or _stem(path, metadata))
    expected = _leaves(model, channels=channels, places=places)
    wanted = layout.tensors(model_name, expected)
    names = {tensor.name for tensor in wanted}
    _refuse(path, model_name, "lacks", names - network.keys())
    _refuse(path, model_name, "also has", [*sorted(network.keys() - names), *sorted(others)])

    leaves: Leaves = {}
    for tensor in wanted:
        value, leaf = network[tensor.name], expected[tensor.path]
        shape = tensor.to_torch(np.empty(leaf.shape, np.float32)).shape
        if value.shape != shape or not jnp.issubdtype(value.dtype, jnp.floating):
            raise UserError(
                f"{path}: {tensor.name} is {value.dtype} of shape {value.shape}; expected floats of"
                f" shape {shape} for {model_name} of width {width} with {num_classes} classes"
            )
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
        leaves[tensor.path] = jnp.asarray(tensor.to_flax(value))
    model = model.clone(
        mean=_normalization(path, "mean", mean, buffers, metadata, channels),
        std=_normalization(path, "std", std, buffers, metadata, channels),
    )
    return Imported(model, unflatten_dict(leaves))


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
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: {reason}; expected a whole safetensors file: docs/interop.md shows how to"
            " make one from a PyTorch checkpoint"
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
            " hold; expected tensors in float16, bfloat16, float32 or float64"
        ) from None


def _take_apart(
    path: Path, tensors: Tensors, model_name: str
) -> tuple[Tensors, list[str], Tensors]:
    """Returns the network's tensors by canonical name, other names, and a wrapper's buffers."""
    named: dict[str, str] = {}
    for name in tensors:
        twin = named.setdefault(layout.canonical(model_name, name), name)
        if twin != name:
            raise UserError(
                f"{path}: {_shown(twin)} and {_shown(name)} name one tensor of {model_name};"
                " expected one of them"
            )
    tensors = {own: tensors[name] for own, name in named.items()}
    prefix = layout.prefix(model_name, tensors)
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
        elif layout.is_unused(model_name, own):
            continue
        elif not name.startswith(prefix):
            others.append(name)
        else:
            network[own] = value
    return network, others, buffers


def _stem(path: Path, metadata: Mapping[str, str]) -> Stem:
    found = metadata.get("stem", "cifar")
    if found not in get_args(Stem):
        raise UserError(f"{path}: stem is {_shown(found)}; expected {' or '.join(get_args(Stem))}")
    return cast(Stem, found)


def _normalization(
    path: Path,
    name: Literal["mean", "std"],
    given: Sequence[float] | None,
    buffers: Tensors,
    metadata: Mapping[str, str],
    channels: int,
) -> tuple[float, ...]:
    if given is not None:
        return _per_channel(name, name, given, channels)
    if name in buffers:
        return _per_channel(name, f"{path}: {name}", buffers[name].ravel().tolist(), channels)
    if name not in metadata:
        raise UserError(
            f"{path}: holds no {name} to normalise images by; pass mean and std, 0 and 1 for each"
            " channel if the network takes [0, 1] images as they are"
        )
    try:
        values = json.loads(metadata[name])
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list):
        raise UserError(
            f"{path}: {name} is {reprlib.repr(metadata[name])}; expected a JSON list of a number"
            f" for each of {channels} channels"
        )
    return _per_channel(name, f"{path}: {name}", values, channels)


def _per_channel(
    name: Literal["mean", "std"], what: str, values: Any, channels: int
) -> tuple[float, ...]:
    """Returns the values as numbers, checked; `what` names them in messages."""
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        found = ()
    if len(found) != channels or not np.isfinite(found).all():
        raise UserError(
            f"{what} is {reprlib.repr(values)}; expected a number for each of {channels} channels"
        )
    if name == "std" and min(found) <= 0:
        raise UserError(f"{what} is {reprlib.repr(values)}; expected numbers above 0")
    return found


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


def _refuse(path: Path, model_name: str, verb: str, names: Collection[str]) -> None:
    if names:
        listed = [_shown(name) for name in sorted(names)[:3]]
        more = f" and {len(names) - len(listed)} more" if len(names) > len(listed) else ""
        raise UserError(
            f"{path}: {verb} {', '.join(listed)}{more}; expected one network with the names of"
            f" {model_name} in docs/interop.md"
        )


def _shown(name: str) -> str:
    """Returns a name for a message, on one short line."""
    return name if name.isprintable() and len(name) <= 100 else reprlib.repr(name)


def _path(leaf: tuple[str, ...]) -> str:
    return "/".join(leaf)
