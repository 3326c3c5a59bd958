"""Arrays of a file are read only if they are as expected."""

import os
import zipfile

import numpy as np
import pytest
from etils import epath

from bat_jax.errors import UserError
from bat_jax.runtime import arrays
from bat_jax.runtime.arrays import ContentError, Expected

ROWS = {
    "ids": Expected("integers", ("rows",), low=0, unique=True),
    "values": Expected("numbers", ("rows",), nan=True),
}


def read(path, expected=ROWS):
    return arrays.read(path, expected, "two columns")


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "some.npz"
    np.savez(path, ids=np.arange(3), values=np.arange(3.0))
    return path


@pytest.mark.parametrize("dtype", ["i1", "<u2", ">i4", ">i8", "<u8"])
def test_integers_are_read_as_int64(written, dtype):
    np.savez(written, ids=np.array([2, 0, 1], dtype), values=np.zeros(3))
    ids = read(written)["ids"]
    assert ids.dtype == np.int64
    np.testing.assert_array_equal(ids, [2, 0, 1])


@pytest.mark.parametrize(
    ("dtype", "found"), [("<f2", "f2"), (">f4", "f4"), ("f8", "f8"), ("i4", "f8")]
)
def test_numbers_keep_the_precision_of_the_file(written, dtype, found):
    np.savez(written, ids=np.arange(3), values=np.array([2, 0, 1], dtype))
    values = read(written)["values"]
    assert values.dtype == np.dtype(found)
    np.testing.assert_array_equal(values, [2, 0, 1])


def test_nan_is_read_where_it_may_be_and_infinity_nowhere(written):
    np.savez(written, ids=np.arange(3), values=np.full(3, np.nan))
    assert np.isnan(read(written)["values"]).all()
    np.savez(written, ids=np.arange(3), values=[np.nan, -np.inf, 0.0])
    with pytest.raises(ContentError, match="values holds -inf; expected numbers, or NaN"):
        read(written)


def test_an_implausible_array_is_not_unpacked(written):
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as file:
        # A header alone: unpacking it would fail in another way.
        with file.open("ids.npy", "w") as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "|u1", "fortran_order": False, "shape": (2**40,)}
            )
        with file.open("values.npy", "w") as member:
            np.save(member, np.zeros(3))
    with pytest.raises(ContentError, match=r"values has shape \(3,\); expected \(1099511627776,\)"):
        read(written)
    with pytest.raises(ContentError, match=r"ids has shape .*; expected \(3,\)$"):
        read(written, {"ids": Expected("uint8", (3,))})


@pytest.mark.parametrize("damage", ["cut", "empty", "twice", "flipped", "pickle", "foreign header"])
def test_a_damaged_file_ends_in_one_line(written, damage):
    content = bytearray(written.read_bytes())
    if damage == "cut":
        content = content[:-30]
    elif damage == "empty":
        content = b""
    elif damage == "flipped":
        content[150] ^= 0xFF
    elif damage == "pickle":
        content = b"\x80\x04N."
    written.write_bytes(content)
    if damage == "foreign header":
        with zipfile.ZipFile(written, "w") as file:
            file.writestr("ids.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': [[[[[[ ")
            file.writestr("values.npy", b"")
    if damage == "twice":
        with zipfile.ZipFile(written, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("ids.npy", b"")
    with pytest.raises(ContentError, match=r"some\.npz: .*; expected two columns") as raised:
        read(written)
    assert "\n" not in str(raised.value)


def test_system_errors_are_not_taken_for_damage(tmp_path, monkeypatch, written):
    with pytest.raises(UserError, match="no such file; expected two columns"):
        read(tmp_path / "none.npz")
    with pytest.raises(UserError, match="is not a file"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(UserError, match="is not a file"):
        read(tmp_path / "pipe.npz")

    def fail(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(zipfile.ZipFile, "open", fail)
    with pytest.raises(UserError, match=r"cannot be read \(Input/output error\)") as raised:
        read(written)
    assert not isinstance(raised.value, ContentError)


def test_connection_errors_of_a_bucket_are_not_taken_for_damage(written, monkeypatch):
    # Paths of this kind are those of buckets; this one is on the disk.
    path = epath.Path(written)
    np.testing.assert_array_equal(read(path)["ids"], [0, 1, 2])
    with pytest.raises(UserError, match="no such file; expected two columns"):
        read(path.with_name("none.npz"))

    def fail(self):
        raise ValueError("connection\nreset")

    monkeypatch.setattr(type(path), "read_bytes", fail)
    with pytest.raises(UserError, match=r"cannot be read \(connection reset\)") as raised:
        read(path)
    assert not isinstance(raised.value, ContentError)
