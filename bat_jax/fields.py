"""The fields of a config: the default and the legal values of each, stated once.

A schema is a nested mapping from names to fields. `section` makes the `ConfigDict` of a schema and
`check` rejects the first invalid value, by the field's name:

    schema = {"beta": Real(6.0, low=0), "gate": Choice("all", ("all", "memorized"))}
    config = section(schema)
    check(config, schema, "objective.trades")
"""

import abc
import dataclasses
import struct
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar, Union

from ml_collections import ConfigDict, config_dict

from bat_jax.errors import UserError

__all__ = [
    "Choice",
    "Either",
    "Field",
    "Flag",
    "Integer",
    "Open",
    "Real",
    "Schema",
    "Several",
    "Text",
    "check",
    "optional",
    "section",
]

LARGEST_INTEGER = 2**31 - 1
"""The largest int32."""

# Limits of file systems, in bytes: for a whole path, and between two slashes.
_LONGEST_PATH = 4095
_LONGEST_NAME = 255
_SHOWN = 80


@dataclasses.dataclass(frozen=True)
class Field(abc.ABC):
    """One field of a config.

    Attributes:
      default: its value unless a config sets another; None makes the field optional.
      hint: text that messages about an invalid value end with.
    """

    default: Any
    hint: str = dataclasses.field(default="", kw_only=True)

    @abc.abstractmethod
    def expected(self, value: object) -> str | None:
        """Returns the expectation that a value violates, or None if the value is valid."""

    @abc.abstractmethod
    def kind(self) -> type:
        """Returns the type of the field's values."""


Schema: TypeAlias = Mapping[str, Union[Field, "Schema"]]
"""Nested fields, by name."""
AnyField = TypeVar("AnyField", bound=Field)


@dataclasses.dataclass(frozen=True)
class Real(Field):
    """A number that, also rounded to float32, is within closed (`low`, `high`) or open bounds."""

    default: float | None
    low: float | None = dataclasses.field(default=None, kw_only=True)
    high: float | None = dataclasses.field(default=None, kw_only=True)
    above: float | None = dataclasses.field(default=None, kw_only=True)
    below: float | None = dataclasses.field(default=None, kw_only=True)

    def expected(self, value: object) -> str | None:
        """Returns the expectation if the value is not a number within the bounds."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "a number"
        if value != value or value in (float("inf"), float("-inf")):
            return "a finite number"
        if not self._contains(value):
            return self._range()
        try:
            (rounded,) = struct.unpack("<f", struct.pack("<f", value))
        except (OverflowError, struct.error):  # From a float or an int.
            return "a number that float32 can hold"
        if not self._contains(rounded):
            return f"{self._range()} after rounding to float32, which makes it {rounded:g}"
        return None

    def kind(self) -> type:
        """Returns `float`."""
        return float

    def _contains(self, value: float) -> bool:
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def _range(self) -> str:
        bounds = [
            f"{self.low:g} or more" if self.low is not None else "",
            f"above {self.above:g}" if self.above is not None else "",
            f"at most {self.high:g}" if self.high is not None else "",
            f"below {self.below:g}" if self.below is not None else "",
        ]
        return " and ".join(bound for bound in bounds if bound)


@dataclasses.dataclass(frozen=True)
class Integer(Field):
    """A whole number from `low` to `high`, by default up to the largest int32."""

    default: int | None
    low: int = dataclasses.field(default=0, kw_only=True)
    high: int = dataclasses.field(default=LARGEST_INTEGER, kw_only=True)

    def expected(self, value: object) -> str | None:
        """Returns the expectation if the value is not a whole number within the bounds."""
        if isinstance(value, bool) or not isinstance(value, int):
            return "a whole number"
        if value < self.low:
            return f"{self.low} or more"
        return f"at most {self.high}" if value > self.high else None

    def kind(self) -> type:
        """Returns `int`."""
        return int


@dataclasses.dataclass(frozen=True)
class Choice(Field):
    """One of some names."""

    default: str | None
    choices: tuple[str, ...]

    def expected(self, value: object) -> str | None:
        """Returns the names if the value is none of them."""
        if isinstance(value, str) and value in self.choices:
            return None
        return f"one of {', '.join(self.choices)}"

    def kind(self) -> type:
        """Returns `str`."""
        return str


@dataclasses.dataclass(frozen=True)
class Text(Field):
    """A name or a path: not empty, without control characters, and no longer than paths can be."""

    default: str | None

    def expected(self, value: object) -> str | None:
        """Returns the first expectation that the value violates."""
        if value == "":
            return "text that is not empty"
        if not isinstance(value, str) or not value.isprintable():
            return "text of printable characters"
        if len(value.encode()) > _LONGEST_PATH:
            return f"at most {_LONGEST_PATH} bytes"
        if max(len(part.encode()) for part in value.split("/")) > _LONGEST_NAME:
            return f"at most {_LONGEST_NAME} bytes between slashes"
        return None

    def kind(self) -> type:
        """Returns `str`."""
        return str


@dataclasses.dataclass(frozen=True)
class Flag(Field):
    """True or false."""

    default: bool | None

    def expected(self, value: object) -> str | None:
        """Returns the expectation if the value is not a bool."""
        return None if isinstance(value, bool) else "True or False"

    def kind(self) -> type:
        """Returns `bool`."""
        return bool


@dataclasses.dataclass(frozen=True)
class Several(Field):
    """A tuple of at least `least` valid values of one field, distinct if `unique`."""

    default: tuple[Any, ...] | None
    each: Field
    unique: bool = dataclasses.field(default=False, kw_only=True)
    least: int = dataclasses.field(default=0, kw_only=True)

    def expected(self, value: object) -> str | None:
        """Returns the expectation that the tuple, or its first invalid entry, violates."""
        if not isinstance(value, tuple | list):
            return "a tuple"
        if len(value) < self.least:
            return f"a tuple of {self.least} or more values"
        for entry in value:
            expected = self.each.expected(entry)
            if expected is not None:
                return f"every value in the tuple to be {expected}"
        if self.unique and len(set(value)) < len(value):
            return "each value once"
        return None

    def kind(self) -> type:
        """Returns `tuple`."""
        return tuple


@dataclasses.dataclass(frozen=True)
class Either(Field):
    """A value of one of two fields, as an entry of `Several`."""

    default: Any
    first: Field
    second: Field

    def expected(self, value: object) -> str | None:
        """Returns both expectations for a value that neither field takes."""
        both = [field.expected(value) for field in (self.first, self.second)]
        return None if None in both else " or ".join(str(one) for one in both)

    def kind(self) -> type:
        """Returns `object`, the type that both have in common."""
        return object


@dataclasses.dataclass(frozen=True)
class Open(Field):
    """A section of named fields, which are checked where they are used."""

    default: Mapping[str, Any]

    def expected(self, value: object) -> str | None:
        """Returns the expectation if the value is not a section."""
        if isinstance(value, Mapping | ConfigDict) and all(isinstance(name, str) for name in value):
            return None
        return "a section of named fields"

    def kind(self) -> type:
        """Returns `ConfigDict`."""
        return ConfigDict


def optional(field: AnyField) -> AnyField:
    """Returns the field without a default: a config may leave it unset."""
    return dataclasses.replace(field, default=None)


def section(schema: Schema) -> ConfigDict:
    """Returns the config of a schema with every field at its default."""
    config = ConfigDict()
    for name, field in schema.items():
        if not isinstance(field, Field):
            config[name] = section(field)
        elif field.default is None:
            config[name] = config_dict.placeholder(field.kind())
        elif isinstance(field, Open):
            config[name] = ConfigDict(field.default)
        else:
            config[name] = field.default
    return config


def check(config: Mapping[str, Any], schema: Schema, prefix: str = "") -> None:
    """Checks every field of a config against its schema.

    Args:
      config: a config, or a section of one.
      schema: the schema of that section; fields that it does not name are not checked.
      prefix: the name of the section, for messages.

    Raises:
      UserError: a value is invalid, or a field is missing.
    """
    for name, field in schema.items():
        path = f"{prefix}.{name}" if prefix else name
        if name not in config:
            whole = f"config.{prefix}" if prefix else "the config"
            raise UserError(
                f"config.{path} is missing; expected all fields of {whole}: set single fields"
                " instead of a whole section"
            )
        value = config[name]
        if not isinstance(field, Field):
            if not isinstance(value, Mapping | ConfigDict):
                refuse(path, value, "a section of fields")
            check(value, field, path)
        elif not (value is None and field.default is None):
            expected = field.expected(value)
            refuse(path, value, expected and expected + field.hint)


def refuse(path: str, value: object, expected: str | None) -> None:
    """Raises a UserError about a field's value unless `expected` is None."""
    if expected is not None:
        raise UserError(f"config.{path} is {shown(value)}; expected {expected}")


def shown(value: object) -> str:
    """Formats a value for messages, shortened to one line."""
    try:
        text = repr(value)
    except ValueError:  # The number has more digits than Python converts.
        return "a number with thousands of digits"
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 20]}..."
