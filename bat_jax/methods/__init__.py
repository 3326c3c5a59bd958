"""The methods of training, a module each; one from outside is named `package.module:Class`.

A method from outside derives from `Method`:

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


# Those of the package, by name: a new module is found without being listed anywhere.
METHODS: Mapping[str, type[Method]] = MappingProxyType(_discovered())


def find(name: str, field: str = "objective.name") -> type[Method]:
    """Returns a method by its name, or a class from outside by `package.module:Class`.

    Raises:
      UserError: there is no such method, or the class is no method.
    """
    if name in METHODS:
        return METHODS[name]
    if not outside.is_outside(name):
        raise UserError(
            f"config.{field} is {name!r}; expected one of {', '.join(METHODS)}, or the class of"
            " another method as package.module:Class"
        )
    found = outside.load(name, field)
    if not (inspect.isclass(found) and issubclass(found, Method)):
        raise UserError(
            f"config.{field} is {name!r}, which is not a class derived from"
            " bat_jax.methods.Method; expected one"
        )
    check_class(found, name, field, taken=METHODS)
    return found


def sections() -> dict[str, fields.Schema]:
    """Returns the sections of `config.objective` by method, of those that have fields."""
    return {name: method.fields for name, method in METHODS.items() if method.fields}


def complete(config: ConfigDict) -> None:
    """Gives `config.objective` the section of the method that it names, at its defaults.

    Raises:
      UserError: there is no such method.
    """
    method = find(config.objective.name)
    if method.fields and method.name not in config.objective:
        with config.unlocked():
            config.objective[method.name] = fields.section(method.fields)


def create(objective: ConfigDict, setup: Setup) -> Method:
    """Returns the method that `config.objective` names, its fields checked.

    Raises:
      UserError: there is no such method, a field of it is not legal, or one from outside is no
        method.
    """
    method = find(objective.name)
    settings = objective.get(method.name, ConfigDict())
    fields.check(settings, method.fields, f"objective.{method.name}")
    if objective.name in METHODS:
        return method(settings.to_dict(), setup)
    expected = "a class derived from bat_jax.methods.Method that takes its settings and a Setup"
    made: Method = outside.call(
        method, objective.name, "objective.name", expected, settings.to_dict(), setup
    )
    check_parts(made, objective.name)
    return made


def title(name: str) -> str:
    """Returns what reports call a method: its name, where the method itself is not at hand."""
    try:
        return find(name).title
    except UserError:
        return name


def has_attack(name: str) -> bool:
    """Returns whether a method trains on adversarial images; one that is not at hand does."""
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
    "complete",
    "create",
    "cross_entropy",
    "find",
    "has_attack",
    "mean",
    "sections",
    "title",
    "weight_metrics",
]
