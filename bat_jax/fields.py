"""The fields of a config: the default and the legal values of each, stated once.

A schema is a nested mapping from names to fields. `section` makes the `ConfigDict` of a schema and
`check` refuses the first value that is not legal, by the field's name:

    schema = {"beta": Real(6.0, low=0), "gate": Choice("all", ("all", "memorized"))}
    config = section(schema)
    check(config, schema, "objective.trades")
"""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, Union

from ml_collections import ConfigDict, config_dict

from bat_jax.errors import UserError

# What an int32 and a float32 hold.
_LARGEST_INTEGER = 2**31 - 1
_LARGEST_REAL = 3.4e38


@dataclasses.dataclass(frozen=True)
class Field(abc.ABC):
    """One field of a config.

    Attributes:
      default: its value unless a config sets another; None makes the field optional.
    """

    default: Any

    @abc.abstractmethod
    def expected(self, value: object) -> str | None:
        """Returns what was expected in place of a value, or None where the value is legal."""

    @abc.abstractmethod
    def kind(self) -> type:
        """Returns the type of the field's values."""


Schema: TypeAlias = Mapping[str, Union[Field, "Schema"]]


@dataclasses.dataclass(frozen=True)
class Real(Field):
    """A number that a float32 holds, within closed (`low`, `high`) or open bounds."""

    default: float | None
    low: float | None = dataclasses.field(default=None, kw_only=True)
    high: float | None = dataclasses.field(default=None, kw_only=True)
    above: float | None = dataclasses.field(default=None, kw_only=True)
    below: float | None = dataclasses.field(default=None, kw_only=True)

    def expected(self, value: object) -> str | None:
        """Returns the range for a value that is no number or lies outside of it."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "a number"
        if not math.isfinite(value):
            return "a finite number"
        is_legal = (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        if not is_legal:
            return self._range()
        if abs(value) > _LARGEST_REAL:
            return "a number that float32 can hold"
        return None

    def kind(self) -> type:
        """Returns `float`."""
        return float

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
    """A whole number from `low` to `high`, by default as far as an int32 goes."""

    default: int | None
    low: int = dataclasses.field(default=0, kw_only=True)
    high: int = dataclasses.field(default=_LARGEST_INTEGER, kw_only=True)

    def expected(self, value: object) -> str | None:
        """Returns the range for a value that is no whole number or lies outside of it."""
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
        """Returns the names for a value that is none of them."""
        return None if value in self.choices else f"one of {', '.join(self.choices)}"

    def kind(self) -> type:
        """Returns `str`."""
        return str


@dataclasses.dataclass(frozen=True)
class Text(Field):
    """A string that is not empty and holds no control characters."""

    default: str | None

    def expected(self, value: object) -> str | None:
        """Returns what a text is for a value that is none."""
        if isinstance(value, str) and value and value.isprintable():
            return None
        return "a text of printable characters"

    def kind(self) -> type:
        """Returns `str`."""
        return str


@dataclasses.dataclass(frozen=True)
class Flag(Field):
    """True or false."""

    default: bool | None

    def expected(self, value: object) -> str | None:
        """Returns the two values for anything else."""
        return None if isinstance(value, bool) else "True or False"

    def kind(self) -> type:
        """Returns `bool`."""
        return bool


@dataclasses.dataclass(frozen=True)
class Several(Field):
    """A tuple whose entries are legal values of one field; with `unique`, each there once."""

    default: tuple[Any, ...] | None
    each: Field
    unique: bool = dataclasses.field(default=False, kw_only=True)

    def expected(self, value: object) -> str | None:
        """Returns what was expected of the first entry that is not legal."""
        if not isinstance(value, tuple | list):
            return "a tuple"
        for entry in value:
            expected = self.each.expected(entry)
            if expected is not None:
                return f"a tuple whose entries are {expected}"
        if self.unique and len(set(value)) < len(value):
            return "each entry once"
        return None

    def kind(self) -> type:
        """Returns `tuple`."""
        return tuple


def section(schema: Schema) -> ConfigDict:
    """Returns the config of a schema, every field at its default."""
    config = ConfigDict()
    for name, field in schema.items():
        if not isinstance(field, Field):
            config[name] = section(field)
        elif field.default is None:
            config[name] = config_dict.placeholder(field.kind())
        else:
            config[name] = field.default
    return config


def check(config: Mapping[str, Any], schema: Schema, prefix: str = "") -> None:
    """Checks every field of a config against its schema.

    Args:
      config: the config, or a section of one.
      schema: of that section; fields of the config that it does not name are left alone.
      prefix: the section's own name, for messages.

    Raises:
      UserError: a value is not legal, or a field is missing.
    """
    for name, field in schema.items():
        path = f"{prefix}.{name}" if prefix else name
        if name not in config:
            raise UserError(
                f"config.{path} is missing; expected the field as config.default has it"
            )
        value = config[name]
        if not isinstance(field, Field):
            if not isinstance(value, Mapping | ConfigDict):
                raise UserError(f"config.{path} is {value!r}; expected a section of fields")
            check(value, field, path)
        elif not (value is None and field.default is None):
            refuse(path, value, field.expected(value))


def refuse(path: str, value: object, expected: str | None) -> None:
    """Raises a UserError that names a field, its value and what was expected, unless that is None."""
    if expected is not None:
        text = repr(value)
        shown = text if len(text) <= 80 else f"{text[:60]}..."
        raise UserError(f"config.{path} is {shown}; expected {expected}")


def one_of(path: str, value: object, choices: Sequence[str]) -> None:
    """Raises a UserError unless the field's value is one of the choices."""
    refuse(path, value, Choice(None, tuple(choices)).expected(value))
