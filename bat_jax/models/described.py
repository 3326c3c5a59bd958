"""Describes models that a program passes, to recognise them when a run resumes."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from bat_jax.models.adapters import Pretrained, Resized, module_of, path_of
from bat_jax.models.nnx_classifier import NnxClassifier
from bat_jax.models.protocol import Classifier

# Fields of every Linen module, which say where it is rather than what it computes.
_OF_LINEN = ("parent", "name")


def described(model: Classifier, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON-compatible description, equal for models of the same class, fields and shapes.

    Code is not compared: a method of the class, or a function in a field, may change.

    Args:
      model: the model.
      variables: its variables, or their shapes.

    Returns:
      The `class` as `package.module:Class`, its `fields`, the `variables` as their numbers and a
      digest of their shapes, and the digest of the values that training is to `start` at, if they
      are given.
    """
    module = module_of(model)
    is_described = dataclasses.is_dataclass(module) and not isinstance(module, NnxClassifier)
    shapes = _leaves(variables)
    numbers = sum(math.prod(leaf.shape) for leaf in shapes.values())
    listed = "".join(f"{name} {leaf.dtype}{leaf.shape} " for name, leaf in shapes.items())
    return {
        "class": path_of(model),
        "fields": _fields(module) if is_described else {},
        "variables": f"{numbers:,} numbers in {len(shapes)} arrays ({_hex(listed.encode())})",
        "start": _start(model),
    }


def _start(model: Any) -> str | None:
    """Returns the digest of the values that a model brings to the start of training."""
    if isinstance(model, Resized):
        return _start(model.model)
    if isinstance(model, Pretrained):
        fresh = "".join(f"{part} " for part in model.fresh)
        return _hex(fresh.encode(), *_contents(model.variables))
    if isinstance(model, NnxClassifier) and model.make is None:
        return _hex(*_contents(model.init(None, None)))
    return None


def _fields(instance: Any) -> dict[str, Any]:
    names = (field.name for field in dataclasses.fields(instance))
    return {name: _plain(getattr(instance, name)) for name in names if name not in _OF_LINEN}


def _plain(value: Any) -> Any:
    """Returns a value of a field in a form that is the same in every process."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return f"{value.dtype}{value.shape} {_hex(_content(value))}"
    if isinstance(value, functools.partial):
        return [_plain(value.func), _plain(value.args), _plain(value.keywords)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__qualname__, "fields": _fields(value)}
    if isinstance(value, np.dtype):
        return value.name
    # Of a class or a function; of anything else, only its class is known.
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    return name if isinstance(name, str) else type(value).__qualname__


def _leaves(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves of variables by path, in order."""
    return dict(sorted(flatten_dict(dict(variables), sep="/").items()))


def _contents(variables: Mapping[str, Any]) -> list[bytes]:
    return [name.encode() + _content(leaf) for name, leaf in _leaves(variables).items()]


def _content(value: Any) -> bytes:
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return f"{array.dtype}{array.shape}".encode() + array.tobytes()


def _hex(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:16]
