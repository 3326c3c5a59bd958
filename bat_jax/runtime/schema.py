"""Validates JSON files against the shapes that their readers expect.

Shapes are built from the classes below. A mismatch raises a one-line `ShapeError` with the file and
the location: `results.json: best.test.clean.n is 'x'; expected an integer`.
"""

import dataclasses
import json
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol, runtime_checkable

from bat_jax.errors import UserError
from bat_jax.runtime.storage import AnyPath

# Deeper than any file of a run, and well within Python's recursion limit.
_DEEPEST = 64
# Larger than any float32, the type of computations.
_LARGEST = 1e39
_REPR = reprlib.Repr()
_REPR.maxstring = 60


class ShapeError(UserError):
    """The content of a file has an unexpected shape: it is damaged, or another kind of file."""


@runtime_checkable
class Shape(Protocol):
    """The expected shape of a value."""

    def check(self, value: Any, place: "Place") -> Any:
        """Returns the value, or raises a ShapeError that names its place."""


@dataclasses.dataclass(frozen=True)
class Place:
    """The location of a value: the file and the path of names in it."""

    file: str
    names: str = ""

    def of(self, name: str) -> "Place":
        """Returns the place of a value in the object at this place."""
        return Place(self.file, f"{self.names}.{_short(name)}" if self.names else _short(name))

    def at(self, number: int) -> "Place":
        """Returns the place of a value in the list at this place."""
        return Place(self.file, f"{self.names}[{number}]")

    def refuse(self, value: Any, expected: str) -> NoReturn:
        """Raises the error for a wrong value."""
        what = _quoted(value)
        raise ShapeError(
            f"{self.file}: {self.names or 'the content'} is {what}; expected {expected}"
        )

    def lacks(self, name: str) -> NoReturn:
        """Raises the error for a name that the object at this place lacks."""
        where = f" in {self.names}" if self.names else ""
        raise ShapeError(f"{self.file}: has no {_short(name)}{where}; expected one")


class Read(dict[str, Any]):
    """An object of a file; looking up a missing name raises an error with its location."""

    def __init__(self, content: Mapping[str, Any], place: Place):
        super().__init__(content)
        self.place = place

    def __missing__(self, name: str) -> NoReturn:
        self.place.lacks(name)


@dataclasses.dataclass(frozen=True)
class Number:
    """A number, an integer if `whole`."""

    low: float = -_LARGEST
    high: float = _LARGEST
    whole: bool = False

    def check(self, value: Any, place: Place) -> Any:
        """Returns the number."""
        kinds = int if self.whole else (int, float)
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        if not is_number or not self.low <= value <= self.high:
            place.refuse(value, str(self))
        return value

    def __str__(self) -> str:
        """The number's kind and bounds."""
        words = "an integer" if self.whole else "a number"
        if self.high < _LARGEST:
            return f"{words} from {self.low:g} to {self.high:g}"
        return words + (f" of {self.low:g} or more" if self.low > -_LARGEST else "")


@dataclasses.dataclass(frozen=True)
class Text:
    """A text, one of `choices` if there are any."""

    choices: tuple[str, ...] = ()

    def check(self, value: Any, place: Place) -> Any:
        """Returns the text."""
        if not isinstance(value, str) or (self.choices and value not in self.choices):
            place.refuse(value, f"one of {', '.join(self.choices)}" if self.choices else "a text")
        return value


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or false."""

    def check(self, value: Any, place: Place) -> Any:
        """Returns the flag."""
        if not isinstance(value, bool):
            place.refuse(value, "true or false")
        return value


@dataclasses.dataclass(frozen=True)
class Maybe:
    """A value of a shape, or null."""

    shape: Shape

    def check(self, value: Any, place: Place) -> Any:
        """Returns the value."""
        return None if value is None else self.shape.check(value, place)


@dataclasses.dataclass(frozen=True)
class ListOf:
    """A list of values of one shape."""

    shape: Shape
    shortest: int = 0
    length: int | None = None

    def check(self, value: Any, place: Place) -> Any:
        """Returns the list."""
        if not isinstance(value, list):
            place.refuse(value, "a list")
        if len(value) < self.shortest or self.length not in (None, len(value)):
            expected = self.shortest if self.length is None else self.length
            more = " or more" if self.length is None else ""
            raise ShapeError(
                f"{place.file}: {place.names} has {len(value)} values; expected {expected}{more}"
            )
        return [self.shape.check(one, place.at(number)) for number, one in enumerate(value)]


@dataclasses.dataclass(frozen=True)
class Object:
    """An object with named values.

    Attributes:
      names: the required values.
      optional: the optional values.
      others: the shape of further values; None accepts any value.
      is_name: whether a further name is valid, as described by `expected`.
    """

    names: Mapping[str, Shape] = dataclasses.field(default_factory=dict)
    optional: Mapping[str, Shape] = dataclasses.field(default_factory=dict)
    others: Shape | None = None
    is_name: Callable[[str], bool] = lambda name: True
    expected: str = "another name"

    def check(self, value: Any, place: Place) -> Any:
        """Returns the object as a `Read`."""
        if not isinstance(value, dict):
            place.refuse(value, "an object")
        for name in self.names:
            if name not in value:
                place.lacks(name)
        found = {}
        for name, one in value.items():
            shape = self.names.get(name) or self.optional.get(name) or self.others
            if name not in self.names and name not in self.optional and not self.is_name(name):
                where = place.names or "the content"
                raise ShapeError(
                    f"{place.file}: {where} has {_quoted(name)}; expected {self.expected}"
                )
            found[name] = one if shape is None else shape.check(one, place.of(name))
        return Read(found, place)


def read(path: AnyPath, shape: Shape, what: str) -> Any:
    """Returns the content of a JSON file.

    Args:
      path: the file.
      shape: the expected shape of its content.
      what: the expected content, for messages, such as "the results of a finished run".

    Raises:
      UserError: the file is missing, or not a regular file.
      ShapeError: its content has another shape.
      OSError: a system error prevented reading it.
    """
    return parse(read_plain(path, what), shape, Place(str(path)))


def read_plain(path: AnyPath, what: str) -> bytes:
    """Returns the bytes of a file, which must not be a device or a FIFO.

    Raises:
      UserError: the file is missing, or not a regular file.
      OSError: a system error prevented reading it.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; expected {what}")
    if not path.is_file():
        raise UserError(f"{path}: is not a regular file; expected {what}")
    return path.read_bytes()


def parse(content: bytes, shape: Shape, place: Place) -> Any:
    """Parses and validates a JSON text.

    Raises:
      ShapeError: the text is not JSON, or has another shape.
    """
    where = f"{place.file}: " + (f"{place.names} " if place.names else "")
    if not content.strip():
        raise ShapeError(f"{where}is empty; expected JSON")
    try:
        value = json.loads(
            content.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant
        )
    except RecursionError:
        raise ShapeError(
            f"{where}is nested too deeply; expected the file as a run writes it"
        ) from None
    except UnicodeDecodeError:
        raise ShapeError(f"{where}is not UTF-8 text; expected JSON") from None
    except json.JSONDecodeError as error:
        raise ShapeError(
            f"{where}is not JSON (line {error.lineno}, column {error.colno}: {error.msg}); expected"
            " the file as a run writes it"
        ) from None
    except ValueError as error:  # Of the hooks, and of integers with thousands of digits.
        raise ShapeError(f"{where}holds {_reason(error)}; expected JSON") from None
    if not _is_flat(value, _DEEPEST):
        raise ShapeError(f"{where}is nested too deeply; expected the file as a run writes it")
    return shape.check(value, place)


def name_aside(path: AnyPath) -> AnyPath:
    """Returns an unused name to move a damaged file to: `results.json.damaged`."""
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    return aside


class _JsonError(ValueError):
    """Content that is not valid JSON."""


def _reason(error: ValueError) -> str:
    return str(error) if isinstance(error, _JsonError) else "a number of too many digits"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _JsonError(f"{_quoted(name)} twice in one object")
        found[name] = value
    return found


def _constant(text: str) -> NoReturn:
    raise _JsonError(f"{text}, which is not a JSON number")


def _is_flat(value: Any, deepest: int) -> bool:
    """Returns whether a value is nested at most `deepest` levels deep."""
    if not isinstance(value, (dict, list)):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return deepest > 0 and all(_is_flat(one, deepest - 1) for one in inner)


def _quoted(value: Any) -> str:
    if isinstance(value, int) and abs(value) > 10**18:
        return "an integer of too many digits"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else _REPR.repr(value)


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:30]}...{name[-20:]}"
