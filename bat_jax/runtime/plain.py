"""Converts configs to plain data for JSON, and compares them."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict


def plain(config: ConfigDict) -> dict[str, Any]:
    """Converts a config to JSON-compatible data: nested dicts, lists for tuples."""
    return {
        name: plain(value)
        if isinstance(value, ConfigDict)
        else list(value)
        if isinstance(value, tuple)
        else value
        for name, value in config.items()
    }


def differences(config: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns the fields in which two plain configs differ, as `field: value, other value`."""
    found = []
    for name in sorted({*config, *other}):
        ours, theirs = config.get(name), other.get(name)
        field = f"{prefix}{name}"
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            found += differences(ours, theirs, f"{field}.")
        elif ours != theirs:
            found.append(f"{field}: {ours!r}, {theirs!r}")
    return found
