"""Paths on a disk and in a bucket; tests/jobs/test_bucket.py has runs in one."""

from pathlib import Path

import pytest

from bat_jax.errors import UserError
from bat_jax.runtime import storage


def test_a_path_without_a_scheme_is_one_on_a_disk():
    assert storage.as_path("runs/one") == Path("runs/one")
    assert type(storage.as_path("runs/one")) is type(Path())
    assert not storage.is_remote(storage.as_path(Path("runs/one")))


def test_a_path_in_a_bucket_keeps_its_scheme():
    path = storage.as_path("gs://bucket/runs") / "one"
    assert storage.is_remote(path)
    assert str(path) == str(storage.absolute(path)) == "gs://bucket/runs/one"
    assert storage.as_path(path) == path


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("s3://bucket/run", "expected a folder on a disk, or gs://BUCKET/FOLDER"),
        ("file:///tmp/run", "expected a folder on a disk, or gs://BUCKET/FOLDER"),
        ("gs://", "names no bucket"),
        ("gs:///run", "names no bucket"),
    ],
)
def test_other_paths_are_refused(path, reason):
    with pytest.raises(UserError, match=reason):
        storage.as_path(path)


def test_without_gcsfs_a_bucket_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(storage.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="install -r requirements-gcs"):
        storage.as_path("gs://bucket/run")


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert storage.as_path("~/runs/one") == Path("/home/someone/runs/one")
    assert storage.as_path("~") == Path("/home/someone")
    assert storage.as_path("runs/~/one") == Path("runs/~/one")


def test_impossible_paths_give_one_line():
    with pytest.raises(
        UserError, match="~nosuchuser/x: the home folder of ~nosuchuser is not known"
    ):
        storage.as_path("~nosuchuser/x")
    with pytest.raises(UserError, match="3: is not a path; expected text or a pathlib"):
        storage.as_path(3)
    with pytest.raises(UserError, match="has a NUL character"):
        storage.as_path("runs/\0")
