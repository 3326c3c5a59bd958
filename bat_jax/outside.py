"""Objects from outside the package, named in a config as `package.module:Name`."""

import importlib
from typing import Any

from bat_jax.errors import UserError


def is_outside(name: str) -> bool:
    """Returns whether a name is of the form `package.module:Name`."""
    module, colon, attribute = name.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def load(name: str, field: str) -> Any:
    """Imports what a field of a config names.

    Args:
      name: `package.module:Name`, importable where the program runs.
      field: the field, for messages.

    Raises:
      UserError: there is no such module, importing it fails, or it has no such name.
    """
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    # The module is a user's own: importing it may raise anything.
    except Exception as error:
        raise UserError(
            f"config.{field} is {name!r}; importing {module} fails"
            f" ({type(error).__name__}: {error}); expected a module that Python finds: install it,"
            " or run where it lies"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(f"config.{field} is {name!r}; {module} has no {attribute}")
        found = getattr(found, part)
    return found
