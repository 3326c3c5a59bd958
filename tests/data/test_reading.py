import io
import os
import socket

import pytest

from bat_jax.data.reading import is_stray, open_regular, read_at_most
from bat_jax.errors import UserError


@pytest.mark.parametrize(
    "name",
    [
        ".DS_Store",
        "._val_0.JPEG",
        ".ipynb_checkpoints",
        "Thumbs.db",
        "desktop.ini",
        "Desktop.ini",
        "@eaDir",
        "lost+found",
        "__MACOSX",
    ],
)
def test_hidden_and_system_files_are_stray(name):
    assert is_stray(name)


@pytest.mark.parametrize("name", ["val_0.JPEG", "n01443537", "a.b", "thumbs", "_x", "notes.txt"])
def test_other_files_are_not_stray(name):
    assert not is_stray(name)


def test_a_file_and_a_link_to_one_are_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name, remedy="") as file:
            assert file.read() == b"content"


def test_special_files_are_refused_before_opening(tmp_path):
    os.mkfifo(tmp_path / "fifo")  # whose opening would wait
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        for name, kind in (
            ("fifo", "a FIFO"),
            ("zero", "a device"),
            ("folder", "a folder"),
            ("socket", "a socket"),
        ):
            with pytest.raises(UserError, match=rf"{name}: is {kind}; expected a regular.*; mend"):
                open_regular(tmp_path / name, remedy="mend it")


class Endless(io.RawIOBase):
    """An endless stream of zeros that counts the bytes read."""

    asked = 0

    def read(self, size=-1):
        assert size >= 0
        self.asked += size
        return bytes(size)


@pytest.mark.parametrize("length", [0, 1, 9, 10])
def test_a_stream_up_to_its_limit_is_read(length):
    content = bytes(range(length))
    assert read_at_most(io.BytesIO(content), 10, where="", remedy="") == content


@pytest.mark.parametrize("limit", [0, 10, 3_000_000])
def test_a_stream_beyond_its_limit_is_refused_and_not_read_further(limit):
    stream = Endless()
    with pytest.raises(UserError, match=rf"a.bin: has more than {limit:,} bytes; .*; fetch it"):
        read_at_most(stream, limit, where="a.bin", remedy="fetch it")
    assert stream.asked == limit + 1
