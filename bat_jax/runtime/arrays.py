"""Reads arrays from .npz files and validates them.

An array's header holds its type and shape, so an array with a wrong header is never unpacked.
"""

import contextlib
import dataclasses
import io
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Literal

import numpy as np
from jaxtyping import Shaped

from bat_jax.errors import UserError, in_short
from bat_jax.runtime.storage import AnyPath, is_remote

Kind = Literal["integers", "numbers", "booleans", "text", "uint8", "uint16", "int16"]

# The longest text, in characters.
_LONGEST = 1000


class ContentError(UserError):
    """The file is readable, but its content is not as expected."""


@dataclasses.dataclass(frozen=True)
class Expected:
    """The expected type, shape and values of an array.

    Attributes:
      kind: `integers` are read as int64, `numbers` as floats of the file's precision, `uint8`,
        `uint16` and `int16` have exactly that type.
      axes: the length of each axis, or its name: axes with the same name have the same length in
        all arrays of the file.
      low: the smallest value.
      high: the largest value. Infinite numbers are always rejected.
      rows_of: an axis that the integers index: its length bounds them.
      nan: whether numbers may be NaN.
      unique: whether all values must differ.
      optional: whether the array may be absent.
    """

    kind: Kind
    axes: tuple[str | int, ...] = ()
    low: float = -np.inf
    high: float = np.inf
    rows_of: str | None = None
    nan: bool = False
    unique: bool = False
    optional: bool = False

    def admits(self, dtype: np.dtype) -> bool:
        """Returns whether the kind accepts arrays of this type."""
        native = dtype.newbyteorder("=")
        match self.kind:
            case "integers":
                return native.kind in "iu"
            case "numbers":
                return native.kind in "iu" or native in (np.float16, np.float32, np.float64)
            case "booleans":
                return native.kind == "b"
            case "text":
                return native.kind == "U" and native <= np.dtype(f"U{_LONGEST}")
            case _:
                return native == self.kind

    def converted(self, values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Converts values of an admitted type to the type that readers receive."""
        native = values.dtype.newbyteorder("=")
        if self.kind == "integers":
            native = np.dtype(np.int64)
        if self.kind == "numbers" and native.kind != "f":
            native = np.dtype(np.float64)
        return values.astype(native, copy=False)

    def first_wrong(self, values: Shaped[np.ndarray, "..."]) -> np.generic | None:
        """Returns a value that is out of bounds, or None."""
        if self.kind in ("booleans", "text") or not values.size:
            return None
        if not self.nan and np.isnan(values).any():
            return np.float64("nan")
        with np.errstate(invalid="ignore"):  # All may be NaN.
            extremes = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
        for value in extremes:
            is_right = np.isfinite(value) and self.low <= value <= self.high
            if not (is_right or np.isnan(value)):
                return value
        return None

    def __str__(self) -> str:
        """The kind and its bounds, for messages."""
        words: str = self.kind
        if self.kind == "numbers" and not self.nan:
            words = "finite numbers"
        if self.kind == "text":
            words = f"one text of up to {_LONGEST:,} characters"
        if np.isfinite(self.low) and np.isfinite(self.high):
            words += f" from {self.low:,} to {self.high:,}"
        elif np.isfinite(self.low):
            words += f" of {self.low:,} or more"
        return words + (", or NaN" if self.nan else "") + (", each once" if self.unique else "")


class Archive:
    """An open .npz file."""

    def __init__(self, path: AnyPath, file: zipfile.ZipFile, what: str):
        """Wraps an open archive.

        Args:
          path: the file's path, for messages.
          file: the archive.
          what: the expected content of the file, for messages.
        """
        self._path, self._file, self._what = path, file, what
        members = [name.removesuffix(".npy") for name in file.namelist() if name.endswith(".npy")]
        self.names = tuple(dict.fromkeys(members))
        if len(members) != len(self.names):
            twice = next(name for name in members if members.count(name) > 1)
            raise ContentError(f"{path}: holds two arrays {twice}; expected {what}")
        # For each named axis: its length, and the array that it was read from.
        self._axes: dict[str, tuple[int, str]] = {}

    def read(self, expected: Mapping[str, Expected]) -> dict[str, np.ndarray]:
        """Returns the named arrays, without optional ones that are absent.

        All types and shapes are checked before the first array is unpacked. Named axes keep their
        lengths across calls.

        Raises:
          UserError: an array is missing or not as expected.
        """
        missing = [
            name
            for name, array in expected.items()
            if name not in self.names and not array.optional
        ]
        if missing:
            raise ContentError(
                f"{self._path}: has no {', '.join(missing)}; expected {self._what}, with"
                f" {', '.join(name for name, array in expected.items() if not array.optional)}"
            )
        present = {name: array for name, array in expected.items() if name in self.names}
        for name, array in present.items():
            self._check_header(name, array)
        return {name: self._values(name, array) for name, array in present.items()}

    def read_all(self) -> dict[str, np.ndarray]:
        """Returns all arrays without validation.

        Raises:
          UserError: an array cannot be read, or is pickled.
        """
        with _reading(self._path, self._what):
            found = {}
            for name in self.names:
                with self._file.open(f"{name}.npy") as member:
                    found[name] = np.lib.format.read_array(member, allow_pickle=False)
            return found

    def _check_header(self, name: str, array: Expected) -> None:
        with _reading(self._path, self._what), self._file.open(f"{name}.npy") as member:
            shape, dtype = _header(member)
        if not array.admits(dtype):
            raise ContentError(f"{self._path}: {name} is {dtype}; expected {array}")
        if len(shape) == len(array.axes):
            for axis, length in zip(array.axes, shape, strict=True):
                if isinstance(axis, str):
                    self._axes.setdefault(axis, (length, name))
        known = tuple(
            self._axes.get(axis, (axis, ""))[0] if isinstance(axis, str) else axis
            for axis in array.axes
        )
        if shape != known:
            # Lengths that other arrays set; an axis that this array sets is shown by its name.
            others: dict[int | str, tuple[int, str]] = {
                axis: self._axes[axis]
                for axis in array.axes
                if isinstance(axis, str) and self._axes.get(axis, (0, name))[1] != name
            }
            sources = dict.fromkeys(source for _, source in others.values())
            lengths = f", the length of {' and '.join(sources)}" if sources else ""
            axes = [str(others[axis][0] if axis in others else axis) for axis in array.axes]
            wanted = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
            raise ContentError(
                f"{self._path}: {name} has shape {shape}; expected {wanted}{lengths}"
            )

    def _values(self, name: str, array: Expected) -> np.ndarray:
        with _reading(self._path, self._what), self._file.open(f"{name}.npy") as member:
            values = np.lib.format.read_array(member, allow_pickle=False)
        values = array.converted(values)
        if array.rows_of is not None:
            array = dataclasses.replace(array, low=0, high=self._axes[array.rows_of][0] - 1)
        wrong = array.first_wrong(values)
        if wrong is not None:
            raise ContentError(f"{self._path}: {name} holds {wrong:,}; expected {array}")
        if array.unique:
            found, counts = np.unique(values, return_counts=True)
            if len(found) != values.size:
                twice = found[counts > 1][0]
                raise ContentError(
                    f"{self._path}: {name} holds {twice:,} more than once; expected {array}"
                )
        return values


@contextlib.contextmanager
def opened(path: AnyPath, what: str) -> Iterator[Archive]:
    """Opens an .npz file. Pickled arrays are never read.

    Args:
      path: the file.
      what: the expected content of the file, for messages.

    Raises:
      UserError: the file is missing, cannot be read, or is not an .npz file.
    """
    with contextlib.ExitStack() as stack:
        with _reading(path, what):
            file = zipfile.ZipFile(stack.enter_context(_content(path, what)))
        yield Archive(path, stack.enter_context(file), what)


def read(path: AnyPath, expected: Mapping[str, Expected], what: str) -> dict[str, np.ndarray]:
    """Returns arrays of an .npz file by name.

    Args:
      path: the file.
      expected: the expected arrays; others are ignored.
      what: the expected content of the file, for messages.

    Raises:
      UserError: the file is missing or cannot be read, or an array is not as expected.
    """
    with opened(path, what) as archive:
        return archive.read(expected)


def _content(path: AnyPath, what: str) -> IO[bytes]:
    if is_remote(path):
        # gcsfs, google-auth and aiohttp raise errors without a common class; none means damage.
        try:
            return io.BytesIO(path.read_bytes())
        except FileNotFoundError:
            raise
        except Exception as error:
            raise OSError(in_short(error)) from error
    # Opening a FIFO would block until a writer opens it.
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is not a file; expected {what}")
    return path.open("rb")


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Returns the shape and type of an .npy file."""
    version = np.lib.format.read_magic(member)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"format {version}")  # Only of arrays with named fields.
    shape, _, dtype = readers[version](member)
    return shape, dtype


@contextlib.contextmanager
def _reading(path: AnyPath, what: str) -> Iterator[None]:
    """Converts all read errors to a UserError."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected {what}") from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); expected {what}"
        ) from None
    # For invalid files, zipfile, zlib and NumPy raise errors without a common class.
    except Exception as error:
        raise ContentError(
            f"{path}: cannot be read ({in_short(error)}); expected {what}, a whole .npz file of"
            " plain arrays"
        ) from None
