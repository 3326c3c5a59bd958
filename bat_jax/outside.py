"""Objects from outside the package, named in a config as `package.module:Name`."""

import importlib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bat_jax.errors import UserError, in_short


def is_outside(name: str) -> bool:
    """Returns whether a name is of the form `package.module:Name`."""
    module, colon, attribute = name.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def load(name: str, field: str) -> Any:
    """Imports the object that a config field names.

    Args:
      name: `package.module:Name`, importable where the program runs.
      field: the field, for messages.

    Raises:
      UserError: the module does not exist, importing it fails, or it lacks the name.
    """
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    # The module is a user's own: importing it may raise anything, or end the program.
    except (Exception, SystemExit) as error:
        raise UserError(
            f"config.{field} is {name!r}; importing {module} fails ({raised(error)}); expected a"
            " module that Python finds: install it, or run the command from its folder"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(
                f"config.{field} is {name!r}; {module} has no {attribute}; expected a name in that"
                " module: check its spelling"
            )
        found = getattr(found, part)
    return found


def call(
    made: Callable[..., Any], name: str, field: str, expected: str, *values: Any, **named: Any
) -> Any:
    """Calls an object from outside, which may raise anything.

    Args:
      made: the object.
      name: its name in the config.
      field: the field of the config, for messages.
      expected: what the object should be, for messages.
      *values: the positional arguments.
      **named: the keyword arguments.

    Raises:
      UserError: the object does not take these arguments, or raises an exception.
    """
    try:
        return made(*values, **named)
    except (UserError, MemoryError):  # The command handles these itself.
        raise
    except (Exception, SystemExit) as error:
        raise UserError(
            f"config.{field} is {name!r}; calling it fails ({raised(error)}); expected {expected}"
        ) from error


def raised(error: BaseException) -> str:
    """Describes an exception of an object from outside and its location, on one line."""
    words = in_short(error) if str(error).strip() else "without a message"
    frames = traceback.extract_tb(error.__traceback__)
    # The innermost line of code outside this package and outside installed packages.
    own = [frame for frame in frames if not _is_installed(frame.filename)]
    where = f" at {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{where}: {words}"


def _is_installed(filename: str) -> bool:
    place = Path(filename)
    return (
        filename.startswith("<")
        or "site-packages" in place.parts
        or Path(__file__).parent in place.parents
        or Path(traceback.__file__).parent in place.parents
    )
