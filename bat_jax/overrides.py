"""Loads a config from its page and applies changes from the command line.

A page is a Python file whose `get_config()` returns the config. `--config.SECTION.FIELD=VALUE` sets
a field: the field's type alone determines how the text is parsed.
"""

import ast
import difflib
import importlib.util
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from ml_collections import ConfigDict

from bat_jax.errors import UserError
from bat_jax.fields import refuse, shown

_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")
_LONGEST_REASON = 200

# Parts of ml_collections' messages: a field that does not exist, the names of others, and a value
# of another type than the field's.
_UNKNOWN = re.compile(r"^(?:['\"]?Key )?['\"]+(\w+)")
_NAMES = re.compile(r"['\"](\w+)['\"](?:: | instead)")
_CAST = re.compile(
    r"override field '(\w+)'.*?\. (.+) is of original type <class '(\w+)'> and cannot be casted to"
    r" type <class '(?:\w+\.)*(\w+)'>"
)


class Override(NamedTuple):
    """A field set on the command line.

    Attributes:
      field: its name with its sections, such as `train.epochs`.
      text: the value as text; None for a flag without one.
    """

    field: str
    text: str | None


def load(path: Path) -> ConfigDict:
    """Returns the config of a page.

    Raises:
      UserError: the page does not exist, or does not return a config.
    """
    place = f"--config {shown(str(path))[1:-1]}"
    before, colon, argument = str(path).rpartition(":")
    if colon and not path.is_file() and Path(before).is_file():
        raise UserError(
            f"{place}: takes no argument {argument!r}; name only the file, and set fields as in"
            " --config.train.epochs=3"
        )
    if not path.is_file():
        raise UserError(f"{place}: no such file; expected a page such as configs/digits_bat.py")
    if path.suffix != ".py":
        raise UserError(
            f"{place}: is not a page; expected a Python file such as configs/digits_bat.py"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # The suffix is Python's.
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        if get_config is None:
            raise UserError(f"{place}: has no function get_config; expected one, as in every page")
        config = get_config()
    except UserError:
        raise
    # A page is a program, which may raise anything.
    except (Exception, SystemExit) as error:
        raise UserError(f"{place}: {_raised(error, path)}") from None
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{place}: get_config returned a value of type {type(config).__name__}; expected a"
            " config, made by bat_jax.config.default()"
        )
    return config.lock()


def apply(config: ConfigDict, overrides: Sequence[Override]) -> None:
    """Sets fields of a config, in the order of the command line.

    If a tuple is set several times, the values add up. `None` unsets a number or a tuple.

    Raises:
      UserError: the field does not exist, or the text is not a value of its type.
    """
    seen: set[str] = set()
    for field, text in overrides:
        section, name = _place(config, field)
        kind = section.get_type(name)
        if text is None and kind is not bool:
            raise UserError(f"--config.{field} has no value; expected --config.{field}=VALUE")
        value = _parsed(field, "true" if text is None else text, kind)
        if kind is tuple and field in seen and section[name] and value:
            value = (*section[name], *value)
        seen.add(field)
        try:
            section[name] = value
        except (AttributeError, KeyError, TypeError, ValueError):
            refuse(field, value, f"a value of type {kind.__name__}")


def _raised(error: BaseException, path: Path) -> str:
    """Describes the error of a page and its location in one line."""
    # Python names the file of a module by its absolute path.
    names = (str(path), str(path.absolute()))
    if isinstance(error, SyntaxError) and error.filename in names:
        line: int | None = error.lineno
        words = error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename in names]
        line = lines[-1] if lines else None
        words = f"{type(error).__name__}: {error}"
        if frames and Path(ml_collections.__file__).parent in Path(frames[-1].filename).parents:
            words = _of_config(str(error).replace("\\", "")) or words
    words = " ".join(words.split())[:_LONGEST_REASON]
    return f"line {line}: {words}" if line else words


def _of_config(message: str) -> str | None:
    """Returns the meaning of a message of ml_collections about a field, if it is known."""
    if found := _CAST.search(message):
        field, value, kind, expected = found.groups()
        return f"the field {field} is {value}, of type {kind}; expected one of type {expected}"
    if found := _UNKNOWN.search(message):
        near = difflib.get_close_matches(found[1], _NAMES.findall(message), n=1)
        meant = f"did you mean {near[0]}?" if near else "docs/config_fields.md lists all"
        return f"there is no field {found[1]}; {meant}"
    return None


def _place(config: ConfigDict, field: str) -> tuple[ConfigDict, str]:
    """Returns the section of a field and its name in it."""
    section, where = config, "config"
    *sections, last = field.split(".")
    for name in sections:
        _check_name(section, where, name, field)
        section, where = section[name], f"{where}.{name}"
        if not isinstance(section, ConfigDict):
            raise UserError(f"--config.{field}: {where} is a field; expected a section")
    _check_name(section, where, last, field)
    return section, last


def _check_name(section: ConfigDict, where: str, name: str, field: str) -> None:
    if name in section:
        return
    if near := difflib.get_close_matches(name, section, n=1):
        meant = f"did you mean {where}.{near[0]}?"
    elif len(section):
        meant = f"it has {', '.join(section)}"
    else:
        meant = f"it has none: set them in one, as in --{where}=\"{{'name': value}}\""
    raise UserError(f"--config.{field}: {where} has no field {shown(name)}; {meant}")


def _parsed(field: str, text: str, kind: type) -> Any:
    if text == "None" and kind in (int, float, tuple):
        return None  # The check of the config knows which fields may be unset.
    if kind is bool:
        return _flag(field, text)
    if kind is int:
        return _integer(field, text)
    if kind is float:
        return _real(field, text)
    if kind is tuple:
        return _tuple(field, text)
    if issubclass(kind, ConfigDict):
        return _section(field, text)
    return text


def _flag(field: str, text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        refuse(field, text, "true or false")
    return text.lower() in _TRUE


def _integer(field: str, text: str) -> int | None:
    try:
        return int(text, 16 if text.lower().startswith("0x") else 10)
    except ValueError:
        refuse(field, text, "a whole number")
    return None


def _real(field: str, text: str) -> float | None:
    """Parses a number or a fraction such as 8/255."""
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        refuse(field, text, "a number such as 0.1 or 8/255")
    return None


def _tuple(field: str, text: str) -> tuple[Any, ...]:
    """Parses a Python tuple or list, or a single value, which may be a bare word."""
    value = _literal(text)
    if value is _NOT_LITERAL:
        if any(character in text for character in "()[]{},'\" "):
            refuse(field, text, "a tuple such as (1.0, 2.0) or ('a', 'b')")
        value = text
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _section(field: str, text: str) -> ConfigDict | None:
    value = _literal(text)
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        try:
            return ConfigDict(value)
        except (AttributeError, KeyError, TypeError, ValueError):
            pass
    refuse(field, text, "a section such as {'name': value}: set its fields one by one")
    return None


_NOT_LITERAL = object()


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return _NOT_LITERAL
