"""Variables of any Flax model as safetensors files, under their own names."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bat_jax.errors import UserError, in_short
from bat_jax.runtime.files import written_whole


def new_file(path: str | os.PathLike[str]) -> Path:
    """Returns the path of a safetensors file to write.

    Raises:
      UserError: the path cannot be that of a file.
    """
    path = Path(path)
    if not path.name or path.is_dir():
        raise UserError(f"'{path}': is not a file; expected the safetensors file to write")
    return path


def save_variables(path: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
    """Writes variables as one safetensors file, each under its path, `params/Dense_0/kernel`.

    Args:
      path: the file.
      variables: `params` and, if any, `batch_stats`: nested mappings of arrays.

    Raises:
      UserError: the path cannot be that of a file, or a leaf is not of one of NumPy's own types.
      OSError: the file cannot be written.
    """
    path = new_file(path)
    leaves = flatten_dict(dict(variables), sep="/")
    tensors = {name: np.asarray(leaf, order="C") for name, leaf in leaves.items()}
    for name, leaf in tensors.items():
        if leaf.dtype.kind not in "biuf":
            raise UserError(
                f"{path}: {name} is {leaf.dtype}, which load_variables cannot read; expected one of"
                " NumPy's own types: convert it to float32"
            )
    with written_whole(path) as file:
        file.write(save(tensors))


def load_variables(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the variables that `save_variables` wrote.

    Raises:
      UserError: the file does not exist, or does not hold variables.
    """
    path = Path(path)
    try:
        leaves = load(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected a file written by save_variables"
        ) from error
    except SafetensorError as error:
        raise UserError(
            f"{path}: {in_short(error)}; expected a file written by save_variables"
        ) from None
    except KeyError as error:  # A type that NumPy does not have.
        raise UserError(
            f"{path}: holds tensors of type {error.args[0]}; expected those of NumPy's types, as"
            " save_variables writes them"
        ) from None
    if not any(name.startswith("params/") for name in leaves):
        raise UserError(f"{path}: has no params; expected a file written by save_variables")
    found: dict[str, Any] = unflatten_dict(leaves, sep="/")
    return found
