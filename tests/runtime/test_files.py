"""Files are whole or absent, and never lead elsewhere."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from bat_jax.errors import UserError
from bat_jax.runtime import files


def test_only_leftovers_of_killed_processes_are_removed(tmp_path):
    for name in (".results.json.123.part", ".process_1.part"):
        (tmp_path / name).write_text("{")
    kept = ["results.json", ".mine.part", "notes.1.part", ".lock"]
    for name in kept:
        (tmp_path / name).write_text("{}")
    (tmp_path / ".a.1.part").mkdir()
    files.remove_partial(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, ".a.1.part"}


def test_a_link_in_the_place_of_a_partial_file_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / f".results.json.{os.getpid()}.part").symlink_to(precious)
    files.write_json(tmp_path / "results.json", {"a": 1})
    assert precious.read_text() == "mine"
    assert not (tmp_path / "results.json").is_symlink()
    assert (tmp_path / "results.json").read_text() == '{\n  "a": 1\n}\n'


def test_the_error_of_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "results.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left on device") as caught:
        files.write_json(path, {})
    assert caught.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    assert path.read_text() == "old"


def test_plain_files_are_opened_as_they_are(tmp_path):
    path = tmp_path / "file"
    path.write_text("content")
    os.close(files.open_plain(path, os.O_RDWR | os.O_CREAT))
    assert path.read_text() == "content"
    os.close(files.open_plain(tmp_path / "new", os.O_RDWR | os.O_CREAT))
    assert (tmp_path / "new").is_file()


@pytest.mark.parametrize("kind", ["link", "fifo", "device", "folder"])
def test_special_files_are_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "file"
    if kind == "link":
        path.symlink_to(tmp_path / "target")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/null")
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_CREAT):
        with pytest.raises(
            UserError, match="is not a regular file; expected one, or none: remove it"
        ):
            files.open_plain(path, flags)
    assert not (tmp_path / "target").exists()


def test_a_lock_is_free_held_or_unavailable(tmp_path, monkeypatch):
    first, second = ((tmp_path / "lock").open("w") for _ in range(2))
    with first, second:
        assert files.lock(first.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not files.lock(second.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)

        def flock(*_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(fcntl, "flock", flock)
        with pytest.raises(OSError, match="Input/output error") as caught:
            files.lock(first.fileno(), fcntl.LOCK_EX)
        assert not isinstance(caught.value, files.NoLocksError)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/tmp/x"), "Not a directory"),
        (
            ValueError(
                'UNKNOWN: Error reading "step": Failed to open: "/d": Input/output error'
                " [tensorstore_spec='{a: b}']"
            ),
            "Input/output error",
        ),
        (ValueError(""), "ValueError"),
    ],
)
def test_the_reason_is_the_systems_message(error, words):
    assert files.reason(error) == words


def test_special_files_are_never_replaced(tmp_path):
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for path in (pipe, folder, link):
        with (
            pytest.raises(
                UserError, match="is not a regular file; expected one to write: name another"
            ),
            files.written_whole(path) as file,
        ):
            file.write(b"content")
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "pipe"]


def test_a_file_in_a_folder_that_does_not_exist_is_refused_by_name(tmp_path):
    path = tmp_path / "no" / "file"
    with (
        pytest.raises(UserError, match=r"no/file: .*no is not a folder; expected one: create it"),
        files.written_whole(path),
    ):
        pass
