"""Weights to and from PyTorch as safetensors files; docs/interop.md lists the tensor names.

    bat_jax.interop.export_weights("weights.safetensors", "resnet18", variables, mean=..., std=...)
    model, variables = bat_jax.interop.import_weights("weights.safetensors", "resnet18", 10)

`save_variables` and `load_variables` store the variables of any Flax model under their own names.
For the weights of a run: `python -m bat_jax.interop export --run=runs/digits_bat --out=FILE`.
"""

from bat_jax.interop.normalization import NORMALIZATIONS, Normalization
from bat_jax.interop.variables import load_variables, save_variables
from bat_jax.interop.weights import (
    Imported,
    check_architecture,
    digest,
    export_weights,
    import_weights,
)

__all__ = [
    "NORMALIZATIONS",
    "Imported",
    "Normalization",
    "check_architecture",
    "digest",
    "export_weights",
    "import_weights",
    "load_variables",
    "save_variables",
]
