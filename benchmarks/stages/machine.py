"""The device and the packages that figures are measured with."""

import importlib.util
from importlib import metadata

import jax

from bat_jax.errors import UserError
from bat_jax.runtime import backend

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
TF32 = "float32 (products as the device does by default, TF32 on NVIDIA)"
HIGHEST = "float32 (products at highest precision)"
BFLOAT16 = "bfloat16 (float32 parameters)"


def check_accelerator() -> None:
    """Raises a UserError if JAX has no accelerator."""
    found = backend.devices()[0]
    if found.platform == "cpu":
        raise UserError(
            "JAX found no accelerator, only CPU; expected a GPU or TPU: install JAX for it, or try"
            " the program with --smoke"
        )


def card() -> str:
    """Returns the name of the device, and how many there are if several."""
    devices = backend.devices()
    kind = devices[0].device_kind
    return kind if len(devices) == 1 else f"{len(devices)} x {kind}"


def versions() -> dict[str, str]:
    """Returns the versions of what computes, PyTorch among them if it is installed."""
    found = {name: metadata.version(name) for name in _PACKAGES}
    if is_installed("torch"):
        found["torch"] = metadata.version("torch")
    return found


def is_installed(package: str) -> bool:
    """Returns whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def precision(dtype: str) -> str:
    """Returns the words for a compute type."""
    return BFLOAT16 if dtype == "bfloat16" else TF32


def default_device() -> jax.Device:
    """Returns the device that programs run on by default."""
    return jax.devices()[0]
