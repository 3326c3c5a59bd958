"""Archives that are made to exhaust memory or time, or to be misread."""

import contextlib
import gzip
import io
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from bat_jax.data import archive
from bat_jax.errors import UserError
from tests.data import archives

LIMITS = {"train.bin": 30_000, "names.txt": 10_000}


def error(path, limits=LIMITS):
    with pytest.raises(UserError) as caught:
        archive.read_tar(path, limits, remedy="fetch it")
    assert str(caught.value).endswith("; fetch it")
    return str(caught.value)


def write(path, members, tail=b""):
    """Writes a .tar.gz of (TarInfo, content) pairs, whatever sizes the former claim."""
    stream = io.BytesIO()
    for member, content in members:
        stream.write(member.tobuf(tarfile.GNU_FORMAT))
        stream.write(content + bytes(-len(content) % 512))
    stream.write(bytes(1024) + tail)
    path.write_bytes(gzip.compress(stream.getvalue()))


def member(name, size, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info


def test_files_are_read_up_to_their_limits(tmp_path):
    files = {"set/train.bin": b"x" * 30_000, "set/names.txt": b"", "set/readme": b"..."}
    archives.write_tar(tmp_path / "a.tar.gz", files)
    assert archive.read_tar(tmp_path / "a.tar.gz", LIMITS, remedy="") == {
        "train.bin": b"x" * 30_000,
        "names.txt": b"",
        "readme": None,
    }


def test_a_member_above_its_limit_is_refused(tmp_path):
    archives.write_tar(tmp_path / "a.tar.gz", {"train.bin": b"x" * 30_001})
    assert "train.bin: has more than 30,000 bytes" in error(tmp_path / "a.tar.gz")


@pytest.mark.parametrize("name", ["train.bin", "unwanted"])
@pytest.mark.parametrize("size", [60 << 30, 1 << 62])
def test_a_member_of_an_impossible_size_is_refused_by_its_header(name, size, tmp_path):
    write(tmp_path / "a.tar.gz", [(member(name, size), b"")])
    problem = f"unpacks to {size + 512:,} bytes up to the end of its member '{name}'; expected at"
    assert problem in error(tmp_path / "a.tar.gz")


def test_a_member_of_a_negative_size_is_damage(tmp_path):
    write(tmp_path / "a.tar.gz", [(member("unwanted", -1024), b"")])
    assert "damaged or incomplete" in error(tmp_path / "a.tar.gz")


def test_skipped_members_are_bounded_together(tmp_path):
    write(tmp_path / "a.tar.gz", [(member(f"{k}", 40_000), bytes(40_000)) for k in range(5)])
    assert "to the end of its member '3'; expected at most 160,000" in error(tmp_path / "a.tar.gz")


def test_data_after_the_last_member_are_bounded(tmp_path):
    write(tmp_path / "a.tar.gz", [(member("train.bin", 1), b"x")], tail=bytes(1 << 20))
    assert "unpacks to more than 160,000 bytes" in error(tmp_path / "a.tar.gz")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("place", [0, 1])
def test_headers_are_bounded(kind, place, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_HEADERS", 20_480)  # two of tarfile's blocks
    members = [(member("0", 0), b"")] * place
    write(tmp_path / "a.tar.gz", [*members, (member("long", 1 << 40, kind), b"n" * 100_000)])
    assert "unpacks to more than 2" in error(tmp_path / "a.tar.gz", {"train.bin": 1 << 20})


def test_the_number_of_members_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_MEMBERS", 3)
    write(tmp_path / "a.tar.gz", [(member(f"{k}", 0), b"") for k in range(4)])
    assert "has more than 3 members" in error(tmp_path / "a.tar.gz")


def test_sparse_members_are_refused(tmp_path):
    write(tmp_path / "a.tar.gz", [(member("train.bin", 0, tarfile.GNUTYPE_SPARSE), b"")])
    assert "train.bin is sparse" in error(tmp_path / "a.tar.gz")
    info = member("train.bin", 0)
    info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": "3000"}
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as file:
        file.addfile(info)
    assert "train.bin is sparse" in error(tmp_path / "b.tar.gz")


@pytest.mark.parametrize("other", ["set/train.bin", "other/train.bin"])
def test_two_members_of_one_name_are_refused(other, tmp_path):
    write(tmp_path / "a.tar.gz", [(member(name, 0), b"") for name in ("set/train.bin", other)])
    assert "has two members train.bin" in error(tmp_path / "a.tar.gz")


def test_stray_members_are_skipped(tmp_path):
    files = {"set/._train.bin": b"x" * 90_000, "set/train.bin": b"x", "set/.DS_Store": b"x"}
    archives.write_tar(tmp_path / "a.tar.gz", files)
    found = archive.read_tar(tmp_path / "a.tar.gz", LIMITS, remedy="")
    assert found == {"train.bin": b"x"}


def test_an_archive_that_is_a_device_is_refused():
    assert "is a device" in error(Path("/dev/zero"))
    with (
        pytest.raises(UserError, match="is a device"),
        archive.opened(Path("/dev/zero"), marker="m", remedy=""),
    ):
        pass


@pytest.mark.parametrize("name", ["a.gz", "a"])
def test_a_file_is_read_up_to_its_limit(name, tmp_path):
    content = gzip.compress(bytes(1000)) if name == "a.gz" else bytes(1000)
    (tmp_path / name).write_bytes(content)
    assert archive.read_file(tmp_path / name, 1000, remedy="") == bytes(1000)
    with pytest.raises(UserError, match=f"{name}: has more than 999 bytes.*; fetch it"):
        archive.read_file(tmp_path / name, 999, remedy="fetch it")


@contextlib.contextmanager
def opened_zip(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, content in members:
            file.writestr(name, content)
    with archive.opened(path, marker="m", remedy="fetch it") as files:
        yield files


def test_members_of_a_zip_are_read_up_to_their_limits(tmp_path):
    with opened_zip(tmp_path / "a.zip", [("m", b""), ("a", bytes(1000))]) as files:
        assert files.read("a", 1000) == bytes(1000)
        with pytest.raises(UserError, match=r"a\.zip: a: has more than 999 bytes.*; fetch it"):
            files.read("a", 999)


def test_a_zip_that_lies_about_a_size_is_damaged(tmp_path):
    path = tmp_path / "a.zip"
    with opened_zip(path, [("m", b""), ("a", bytes(10_000_000))]):
        pass
    content = path.read_bytes().replace(struct.pack("<I", 10_000_000), struct.pack("<I", 10))
    path.write_bytes(content)
    with (
        archive.opened(path, marker="m", remedy="fetch it") as files,
        pytest.raises(UserError, match="damaged or incomplete"),
    ):
        files.read("a", 1000)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_bound_are_refused(method, tmp_path):
    with (
        opened_zip(tmp_path / "a.zip", [("m", b""), ("a", bytes(1000))], method) as files,
        pytest.raises(UserError, match=f"a: is compressed by method {method}; expected deflate"),
    ):
        files.read("a", 1000)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["m", "a", "a"], "has two members a;"),
        (["top/m", "top/a", "./top/a"], "has two members top/a;"),
        (["x/m", "y/m", "z/w/m"], "has a file m both in x and in y;"),
    ],
)
def test_ambiguous_members_are_refused(names, problem, tmp_path):
    with (
        pytest.raises(UserError, match=problem),
        opened_zip(tmp_path / "a.zip", [(name, b"") for name in names]),
    ):
        pass


def test_a_member_without_a_name_is_skipped(tmp_path):
    path = tmp_path / "a.zip"
    with opened_zip(path, [("m", b""), ("?", b"")]):
        pass
    path.write_bytes(path.read_bytes().replace(b"?", b"\0"))  # a name ends at a zero byte
    with archive.opened(path, marker="m", remedy="") as files:
        assert files.under(".") == ["m"]


def test_stray_members_of_a_zip_are_skipped(tmp_path):
    names = ["t/m", "t/d/a", "t/d/._a", "t/d/Thumbs.db", "t/@eaDir/a", "__MACOSX/t/._m"]
    with opened_zip(tmp_path / "a.zip", [(name, b"") for name in names]) as files:
        assert files.under("d") == ["d/a"]
        assert files.under("@eaDir") == []


def test_two_sets_in_a_folder_are_refused(tmp_path):
    archives.write_folder(tmp_path, {"x/m": b"", "y/m": b"", "z/w/m": b""})
    with (
        pytest.raises(UserError, match="has a file m both in x and in y;"),
        archive.opened(tmp_path, marker="m", remedy=""),
    ):
        pass
