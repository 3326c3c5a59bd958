"""Maps a per-device step over all devices.

A step is written for one device; its collectives run over the axis `AXIS`. `over_devices` maps it
by `jax.jit(jax.shard_map(...))`; `jax.pmap(step, axis_name=AXIS)` runs the same step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key

from bat_jax.errors import UserError

__all__ = [
    "AXIS",
    "REPLICATED",
    "SHARED",
    "make_mesh",
    "over_devices",
    "replicate",
    "root",
]

AXIS = "data"
"""The mapped axis, over which the collectives of a per-device step run."""
REPLICATED = P()
"""The partition of an array that every device holds whole."""
SHARED = P(AXIS)
"""The partition of an array whose first axis the devices share."""


def make_mesh(num_devices: int = 0) -> Mesh:
    """Returns a one-dimensional mesh of the first `num_devices` devices, or of all (0).

    Raises:
      UserError: there are fewer devices, or a process would be left without one.
    """
    devices = jax.devices()
    if jax.process_count() > 1 and num_devices not in (0, len(devices)):
        raise UserError(
            f"config.parallel.devices is {num_devices}; expected 0, for all {len(devices)}, when"
            f" {jax.process_count()} processes run together"
        )
    if num_devices > len(devices):
        raise UserError(
            f"config.parallel.devices is {num_devices}; found {len(devices)} {devices[0].platform}"
            " device(s): lower it"
        )
    return mesh_of(devices[: num_devices or None])


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """Returns the one-dimensional mesh of these devices, which may be another machine's."""
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def check_divisible(field: str, batch_size: int, mesh: Mesh, *, parts: int = 1) -> None:
    """Raises a UserError unless a batch divides evenly into `parts` parts per device."""
    if batch_size % (mesh.size * parts):
        among = f"{mesh.size} devices" + (f" in {parts} parts each" if parts > 1 else "")
        raise UserError(
            f"{field} is {batch_size}, which {among} cannot share evenly; expected a multiple of"
            f" {mesh.size * parts}"
        )


def over_devices(
    step: Callable[..., Any],
    mesh: Mesh,
    *,
    in_specs: Any,
    out_specs: Any,
    donate: Sequence[int] = (),
) -> jax.stages.Wrapped:
    """Returns the per-device `step` mapped over the mesh and jitted.

    `check_vma` is off, so that collectives differentiate as under `jax.pmap` and the same step is
    correct under both. The step itself averages gradients over the axis.

    Args:
      step: written for one device, with collectives over `AXIS`.
      mesh: the devices.
      in_specs: per argument, `REPLICATED` or `SHARED` (along the first dimension).
      out_specs: the same for the result.
      donate: arguments whose buffers the result may reuse.
    """
    mapped = jax.shard_map(step, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    return jax.jit(mapped, donate_argnums=tuple(donate))


def root(seed: int, mesh: Mesh) -> Key[Array, ""]:
    """Returns a seed's key on every device, as an argument, so that programs serve any seed."""
    # Computed on every device of every process rather than transferred.
    return jax.jit(lambda: jax.random.key(seed), out_shardings=NamedSharding(mesh, REPLICATED))()


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Replicates host arrays on all devices.

    With several processes, each copies its arrays, which must be equal, to its own devices.
    """
    sharding = NamedSharding(mesh, REPLICATED)

    def put(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)
