import pathlib
import subprocess
import sys

import pytest

from bat_jax.data import load
from bat_jax.errors import UserError


def test_an_unknown_name_is_told_with_the_known_ones():
    with pytest.raises(UserError, match=r"'cifar' is unknown.*digits.*cifar100.*tfds:<name>"):
        load("cifar")


@pytest.mark.parametrize("name", ["tfds:", "folder:", "", "digits:", "s3://digits"])
def test_a_name_without_its_rest_is_unknown(name):
    with pytest.raises(UserError, match="unknown"):
        load(name)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist", "tiny_imagenet"])
def test_a_path_that_does_not_exist_is_told(name, tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        load(name, path=tmp_path / "nowhere")


def test_the_import_costs_no_library_that_only_one_reader_needs():
    program = (
        "import sys, bat_jax.data;"
        "print([m for m in ('sklearn', 'PIL', 'tensorflow_datasets', 'tensorflow')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


def test_a_folder_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    def forbidden(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(pathlib.Path, "iterdir", forbidden)
    with pytest.raises(UserError, match=r"cifar100: .* cannot be read \(Permission denied\)"):
        load("cifar100", path=tmp_path)
