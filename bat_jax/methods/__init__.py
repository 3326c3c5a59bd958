"""Training methods, one module each; `package.module:Class` names one outside this package.

A method outside this package derives from `Method`:

    class Focal(bat_jax.methods.Method):
        name, title, reference = "focal", "Focal loss", "Lin et al., arXiv:1708.02002"
        fields = {"gamma": bat_jax.fields.Real(2.0, low=0)}

        def weights(self, batch):
            ...
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from bat_jax import fields, outside
from bat_jax.errors import UserError
from bat_jax.methods.base import (
    WEIGHT_BINS,
    Attack,
    Batch,
    Gradient,
    Memory,
    Method,
    Metrics,
    Setup,
    Visit,
    cross_entropy,
    mean,
    weight_metrics,
)
from bat_jax.methods.checks import check_class, check_parts


def _discovered() -> dict[str, type[Method]]:
    """Returns the methods that the modules of this package define, by name."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name not in ("base", "checks"):
            members = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
            for member in members:
                is_method = inspect.isclass(member) and issubclass(member, Method)
                if is_method and member.__module__.endswith(f".{module.name}"):
                    found[member.name] = member
    return found


METHODS: Mapping[str, type[Method]] = MappingProxyType(_discovered())
"""The package's methods by name: a new module needs no registration."""

# Sections of `config.objective` that apply to every method.
_OPTIONS = ("awp",)


def find(name: str, field: str = "objective.name") -> type[Method]:
    """Returns a method by its name, or a class from outside by `package.module:Class`.

    Raises:
      UserError: the method does not exist, or the class is not a method.
    """
    if name in METHODS:
        return METHODS[name]
    if not outside.is_outside(name):
        raise UserError(
            f"config.{field} is {name!r}; expected one of {', '.join(METHODS)}, or"
            " package.module:Class, the class of another method"
        )
    found = outside.load(name, field)
    if not (inspect.isclass(found) and issubclass(found, Method)):
        raise UserError(
            f"config.{field} is {name!r}; expected a class derived from bat_jax.methods.Method"
        )
    check_class(found, name, field, taken=(*METHODS, *_OPTIONS))
    return found


def sections() -> dict[str, fields.Schema]:
    """Returns the section of `config.objective` for each method that has fields."""
    return {name: method.fields for name, method in METHODS.items() if method.fields}


def complete(config: ConfigDict) -> None:
    """Adds the named method's section to `config.objective`, with default values.

    Raises:
      UserError: the method does not exist.
    """
    method = find(config.objective.name)
    if method.fields and method.name not in config.objective:
        with config.unlocked():
            config.objective[method.name] = fields.section(method.fields)


def check(objective: ConfigDict) -> None:
    """Raises a UserError unless the fields of the method that an objective names are valid."""
    _checked(objective)


def _checked(objective: ConfigDict) -> tuple[type[Method], ConfigDict]:
    """Returns the method and its settings, which are valid."""
    method = find(objective.name)
    settings = objective.get(method.name, ConfigDict())
    fields.check(settings, method.fields, f"objective.{method.name}")
    return method, settings


def create(objective: ConfigDict, setup: Setup) -> Method:
    """Checks the fields of the method that `config.objective` names, and returns the method.

    Raises:
      UserError: the method does not exist, one of its fields is invalid, or a class from outside is
        not a method.
    """
    method, settings = _checked(objective)
    if objective.name in METHODS:
        return method(settings.to_dict(), setup)
    expected = "a class derived from bat_jax.methods.Method that takes its settings and a Setup"
    made: Method = outside.call(
        method, objective.name, "objective.name", expected, settings.to_dict(), setup
    )
    check_parts(made, objective.name)
    expected = "parts as bat_jax.methods.Method describes them"
    outside.call(_read, objective.name, "objective.name", expected, made)
    return made


def _read(method: Method) -> None:
    """Reads what a method declares before a step, any of which a class may override."""
    for part in ("begins", "estimates_for", "needs_features", "takes_targets"):
        getattr(method, part)
    method.forward_passes(method.setup.num_steps)


def title(name: str) -> str:
    """Returns a method's title for reports, or its name if the method cannot be imported."""
    try:
        return find(name).title
    except UserError:
        return name


def options_title(objective: Mapping[str, Any]) -> str:
    """Returns a method's options as reports append them to its name: ` + AWP (gamma 0.01)`.

    Args:
      objective: the section of a config, or of a run's config.json, which may lack options.
    """
    gamma = objective.get("awp", {}).get("gamma", 0.0)
    return f" + AWP (gamma {gamma:g})" if gamma else ""


def step_passes(method: Method, config: ConfigDict) -> int:
    """Returns the cost of a step in forward passes of the batch, including its options.

    Args:
      method: the training method.
      config: the whole config; `attack` and `objective` are read.
    """
    num_steps = config.attack.num_steps
    passes = method.forward_passes(num_steps)
    if config.objective.awp.gamma == 0:
        return passes
    return passes + passes - method.attack_passes(num_steps)


def has_attack(name: str) -> bool:
    """Returns whether a method trains on adversarial images; assumes so if it is unavailable."""
    try:
        return find(name).attack is not None
    except UserError:
        return True


__all__ = [
    "METHODS",
    "WEIGHT_BINS",
    "Attack",
    "Batch",
    "Gradient",
    "Memory",
    "Method",
    "Metrics",
    "Setup",
    "Visit",
    "complete",
    "create",
    "cross_entropy",
    "find",
    "has_attack",
    "mean",
    "options_title",
    "sections",
    "step_passes",
    "title",
    "weight_metrics",
]
