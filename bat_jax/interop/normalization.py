"""Finds the mean and the standard deviation that a network normalises its images by."""

import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Shaped

from bat_jax.errors import UserError


class Normalization(NamedTuple):
    """The mean that a network subtracts from [0, 1] images, and the divisor, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


NORMALIZATIONS: Mapping[str, Normalization] = MappingProxyType(
    {
        "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
        "cifar100": Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    }
)
"""By data set, for RobustBench's `DMWideResNet` and `DMPreActResNet`, whose files lack them."""


def found(
    path: Path,
    name: Literal["mean", "std"],
    given: Sequence[float] | None,
    buffers: Mapping[str, Shaped[np.ndarray, "..."]],
    metadata: Mapping[str, str],
    channels: int,
    known: Normalization | None,
) -> tuple[float, ...]:
    """Returns the mean or the std of a network, from the first source that has it.

    Args:
      path: the file, for messages.
      name: `mean` or `std`.
      given: the caller's values.
      buffers: those of a wrapper, saved in the file.
      metadata: the file's metadata.
      channels: the number of channels of the images.
      known: the values for the architecture and the data set, if known.

    Raises:
      UserError: no source has the values, or they are not one number per channel.
    """
    if given is not None:
        return per_channel(name, name, given, channels)
    if name in buffers:
        return per_channel(name, f"{path}: {name}", buffers[name].ravel().tolist(), channels)
    if name not in metadata and known is not None:
        return per_channel(name, name, getattr(known, name), channels)
    if name not in metadata:
        raise UserError(
            f"{path}: holds no {name} to normalise images by; expected one: pass mean and std"
            " (config.model.mean and config.model.std), 0 and 1 for each channel if the network"
            " takes [0, 1] images as they are"
        )
    try:
        values = json.loads(metadata[name])
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list):
        raise UserError(
            f"{path}: {name} is {reprlib.repr(metadata[name])}; expected a JSON list with a number"
            f" for each of {channels} channels"
        )
    return per_channel(name, f"{path}: {name}", values, channels)


def per_channel(
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
