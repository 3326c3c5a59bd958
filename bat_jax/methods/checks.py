"""Checks a method from outside the package before anything starts."""

from collections.abc import Collection, Mapping
from typing import Any, get_args

from bat_jax.attacks import inner_losses
from bat_jax.errors import UserError
from bat_jax.fields import Field, shown
from bat_jax.methods.base import Attack, Clean, Method, SelectBy


def check_class(method: type[Method], name: str, field: str, *, taken: Collection[str]) -> None:
    """Checks the attributes of a class that describe a method.

    Args:
      method: the class.
      name: what the config calls it.
      field: the field of the config, for messages.
      taken: names of other methods.

    Raises:
      UserError: an attribute is missing or wrong; the message names the first.
    """
    where = f"config.{field}: {name}"
    missing = [part for part in ("name", "title", "reference") if not hasattr(method, part)]
    if missing:
        raise UserError(f"{where} has no {', '.join(missing)}; expected name, title and reference")
    for part in ("name", "title", "reference"):
        value = getattr(method, part)
        if not isinstance(value, str) or not value:
            raise UserError(f"{where} has the {part} {shown(value)}; expected text")
    if not method.name.isidentifier() or method.name in (*taken, "name"):
        raise UserError(
            f"{where} has the name {shown(method.name)}; expected letters, digits and _, and none"
            f" of name, {', '.join(taken)}: the method's section of config.objective has this name"
        )
    if method.select_by not in get_args(SelectBy):
        raise UserError(
            f"{where} has select_by {shown(method.select_by)}; expected"
            f" {' or '.join(get_args(SelectBy))}"
        )
    _check_fields(where, "fields", method.fields)


def check_parts(method: Method, name: str) -> None:
    """Checks a method's attack and its use of clean images, once its settings are known.

    Raises:
      UserError: its attack or its `clean` is wrong.
    """
    where = f"config.objective.name: {name}"
    attack: Any = method.attack
    if attack is not None and not isinstance(attack, Attack):
        raise UserError(
            f"{where} has the attack {shown(attack)}; expected a bat_jax.methods.Attack, or None to"
            " train on clean images"
        )
    if attack is not None and attack.loss not in inner_losses.NAMES and not callable(attack.loss):
        raise UserError(
            f"{where} has an attack on the loss {shown(attack.loss)}; expected one of"
            f" {', '.join(inner_losses.NAMES)}, or a function of logits and labels"
        )
    if method.clean is not None and method.clean not in get_args(Clean):
        raise UserError(
            f"{where} has clean {shown(method.clean)}; expected {', '.join(get_args(Clean))} or"
            " None"
        )


def _check_fields(where: str, section: str, schema: Any) -> None:
    """Checks that a section has fields by name, with legal defaults."""
    if not isinstance(schema, Mapping):
        raise UserError(
            f"{where} has {section} of type {type(schema).__name__}; expected a dict of"
            " bat_jax.fields by name"
        )
    for name, field in schema.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(f"{where} has {shown(name)} in {section}; expected names of fields")
        if isinstance(field, Mapping):
            _check_fields(where, f"{section}.{name}", field)
        elif not isinstance(field, Field):
            raise UserError(
                f"{where} has {shown(field)} as {section}.{name}; expected a field such as"
                " bat_jax.fields.Real(1.0, low=0)"
            )
        elif field.default is not None and field.expected(field.default) is not None:
            raise UserError(
                f"{where} has {section}.{name} with the default {shown(field.default)}; expected"
                f" {field.expected(field.default)}"
            )
