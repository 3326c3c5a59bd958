"""Reading and writing weights as safetensors files that PyTorch shares."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

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
    """A network whose weights were read.

    Attributes:
      model: float32, of the file's width and number of channels, with its normalisation.
      variables: for `model.apply(variables, images)`.
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

    The normalisation is no tensor of that architecture: it goes, with the model's name and its
    stem, into the file's metadata, where `import_weights` finds it.

    Args:
      path: the safetensors file.
      model_name: as `bat_jax.models.create` takes it.
      variables: `params` and, where the model has them, `batch_stats`.
      mean: the model's per-channel mean.
      std: the model's per-channel standard deviation.
      stem: the model's stem.

    Raises:
      UserError: the variables or the normalisation are not those of the model.
    """
    leaves = {at: np.asarray(leaf) for at, leaf in flatten_dict(dict(variables)).items()}
    if not {_FIRST_LEAF, _HEAD_LEAF} <= leaves.keys():
        raise UserError(f"variables: no {_path(_FIRST_LEAF)}; expected those of {model_name}")
    *_, channels, width = leaves[_FIRST_LEAF].shape
    normalization = {
        "mean": _per_channel("mean", mean, channels),
        "std": _per_channel("std", std, channels),
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
    with written_whole(Path(path)) as file:
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
    """Reads the weights of a PyTorch network, ours or a published one, for Flax.

    What stands before the name of the first convolution is dropped from every name, so `module.`
    of DataParallel and the prefix of a wrapper do not matter. The width is read from the file.

    Args:
      path: the safetensors file.
      model_name: as `bat_jax.models.create` takes it.
      num_classes: number of logits.
      mean: per-channel mean that the network normalises [0, 1] images by; by default the file's,
        from its buffers (`mean` or `mu`) or its metadata.
      std: per-channel standard deviation, likewise (`std` or `sigma`).
      stem: by default that of the file's metadata, else `cifar`.

    Returns:
      The model and its variables; its logits are those of the PyTorch network in eval mode.

    Raises:
      UserError: the file is not a safetensors file, or not of that network, or neither it nor the
        caller tells the normalisation.
    """
    models.create(model_name, num_classes)  # An unknown name is told before anything is read.
    tensors, metadata = _read(Path(path))
    network, others, buffers = _take_apart(tensors, model_name)
    _refuse(path, model_name, "lacks", {layout.FIRST} - network.keys())
    first = network[layout.FIRST].shape
    if len(first) != 4 or 0 in first:
        raise UserError(
            f"{path}: {layout.FIRST} has shape {first}; expected (width, channels, 3, 3)"
        )
    width, channels = first[:2]
    places = network["fc1.weight"].size // (32 * width**2) if "fc1.weight" in network else 0
    model = models.create(
        model_name,
        num_classes,
        width=width,
        stem=stem or cast(Stem, metadata.get("stem", "cifar")),
    )
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
        leaves[tensor.path] = jnp.asarray(tensor.to_flax(value.astype(np.float32)))
    model = model.clone(
        mean=_normalization(path, "mean", mean, buffers, metadata, channels),
        std=_normalization(path, "std", std, buffers, metadata, channels),
    )
    return Imported(model, unflatten_dict(leaves))


def _read(path: Path) -> tuple[Tensors, dict[str, str]]:
    # Memory-mapping a folder or a device fails in ways that differ; opening it does not.
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a safetensors file") from None
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError, TypeError) as error:
        raise UserError(
            f"{path}: {error}; expected a whole safetensors file: docs/interop.md says how to make"
            " one from a PyTorch checkpoint"
        ) from None


def _take_apart(tensors: Tensors, model_name: str) -> tuple[Tensors, list[str], Tensors]:
    """Returns the network's tensors by canonical name, other names, and the wrapper's buffers."""
    tensors = {layout.canonical(model_name, name): value for name, value in tensors.items()}
    prefix = layout.prefix(model_name, tensors)
    network: Tensors = {}
    buffers: Tensors = {}
    others = []
    for name, value in tensors.items():
        own = name.removeprefix(prefix)
        last = name.split(".")[-1]
        if last in _BUFFERS:
            buffers[_BUFFERS[last]] = value
        elif not name.startswith(prefix):
            others.append(name)
        elif not layout.is_unused(model_name, own):
            network[own] = value
    return network, others, buffers


def _normalization(
    path: str | os.PathLike[str],
    name: str,
    given: Sequence[float] | None,
    buffers: Tensors,
    metadata: Mapping[str, str],
    channels: int,
) -> tuple[float, ...]:
    if given is not None:
        return _per_channel(name, given, channels)
    if name in buffers:
        return _per_channel(f"{path}: {name}", buffers[name].ravel().tolist(), channels)
    if name not in metadata:
        raise UserError(
            f"{path}: does not say by what {name} images are normalised; pass mean and std, 0 and 1"
            " for each channel if the network takes [0, 1] images as they are"
        )
    try:
        values = json.loads(metadata[name])
    except ValueError:
        values = metadata[name]
    return _per_channel(f"{path}: {name}", values, channels)


def _per_channel(what: str, values: Any, channels: int) -> tuple[float, ...]:
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        found = ()
    if len(found) != channels or not np.isfinite(found).all():
        raise UserError(f"{what} is {values!r}; expected a number for each of {channels} channels")
    return found


def _leaves(model: nn.Module, *, channels: int, places: int) -> Leaves:
    """Returns the shapes of a model's variables by path.

    Args:
      model: to be initialised.
      channels: of the images.
      places: height times width of the map that small_cnn flattens; nothing to the others.
    """
    # Two halvings make 1 x places of it, and the shapes depend on the product alone.
    images = jnp.zeros((1, 4, 4 * max(places, 1), channels))
    # The default normalisation is of one channel or three, which an image need not have.
    model = model.clone(mean=(0.0,) * channels, std=(1.0,) * channels)
    return flatten_dict(dict(jax.eval_shape(model.init, jax.random.key(0), images)))


def _refuse(
    path: str | os.PathLike[str], model_name: str, verb: str, names: Collection[str]
) -> None:
    if names:
        listed = sorted(names)[:3]
        more = f" and {len(names) - len(listed)} more" if len(names) > len(listed) else ""
        raise UserError(
            f"{path}: {verb} {', '.join(listed)}{more}; expected one network with the names of"
            f" {model_name} in docs/interop.md"
        )


def _path(leaf: tuple[str, ...]) -> str:
    return "/".join(leaf)
