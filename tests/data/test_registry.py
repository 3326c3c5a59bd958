import pathlib
import pwd
import subprocess
import sys

import pytest

from bat_jax.data import load
from bat_jax.data.places import data_folder as current_data_folder
from bat_jax.errors import UserError


def test_an_unknown_name_is_reported_with_the_known_ones():
    with pytest.raises(UserError, match=r"'cifar' is unknown.*digits.*cifar100.*tfds:<name>"):
        load("cifar")


@pytest.mark.parametrize("name", ["tfds:", "folder:", "", "digits:", "s3://digits"])
def test_a_name_without_its_rest_is_unknown(name):
    with pytest.raises(UserError, match="unknown"):
        load(name)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist", "tiny_imagenet"])
def test_a_path_that_does_not_exist_is_reported(name, tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        load(name, path=tmp_path / "nowhere")


def test_importing_data_imports_no_library_that_only_one_reader_needs():
    program = (
        "import sys, bat_jax.data;"
        "print([m for m in ('sklearn', 'PIL', 'tensorflow_datasets', 'tensorflow')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


def test_a_folder_without_read_permission_is_reported(tmp_path, monkeypatch):
    def forbidden(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(pathlib.Path, "iterdir", forbidden)
    with pytest.raises(UserError, match=r"cifar100: .* cannot be read \(Permission denied\)"):
        load("cifar100", path=tmp_path)


def error(name, **arguments):
    with pytest.raises(UserError) as caught:
        load(name, **arguments)
    return str(caught.value)


def test_the_home_folder_of_an_unknown_user_is_refused(monkeypatch):
    problem = "~nosuchuser/x: begins with ~, but that home folder is unknown"
    assert problem in error("cifar10", path="~nosuchuser/x")
    assert problem in error("digits", path="~nosuchuser/x")
    assert problem in error("folder:~nosuchuser/x")
    monkeypatch.setenv("BAT_JAX_DATA", "~nosuchuser/x")
    assert problem in error("cifar10")


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"path {tmp_path}/x does not exist" in error("cifar10", path="~/x")
    assert f"{tmp_path}/x: is no folder" in error("folder:~/x")
    monkeypatch.setenv("BAT_JAX_DATA", "~/data")
    assert current_data_folder() == tmp_path / "data"
    monkeypatch.delenv("BAT_JAX_DATA")
    assert current_data_folder() == tmp_path / ".cache/bat_jax/data"


@pytest.mark.parametrize("path", ["x" * 5000, "x/" * 3000, "a\0b"])
def test_a_path_that_no_system_takes_is_shortened_in_the_error(path):
    for message in (error("cifar10", path=path), error(f"folder:{path}")):
        assert "cannot be read (File name too long)" in message or "a\\x00b" in message
        assert len(message) < 1000


@pytest.fixture
def no_home(monkeypatch):
    """A user unknown to the system, as in containers."""

    def unknown(user):
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "BAT_JAX_DATA", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_home_folder_the_other_places_are_used(no_home, tmp_path):
    assert len(load("digits").train) == 1348
    assert "does not exist" in error("cifar10", path=tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["cifar100", "fashion_mnist", "tiny_imagenet", "tfds:mnist"])
def test_without_a_home_folder_the_error_says_what_to_set(name, no_home):
    assert "DATA" in error(name)
    assert "no home folder" in error(name)
    assert "~" not in error(name).replace("~kriz", "")


def test_a_cache_is_for_folders_of_images_alone(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.cache is .*; expected None for digits"):
        load("digits", cache=str(tmp_path))
