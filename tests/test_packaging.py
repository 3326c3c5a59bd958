"""The built packages are complete: the wheel runs anywhere, the sdist is the repository."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from bat_jax import pages

ROOT = Path(__file__).parents[1]
BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]  # setuptools changes the arguments.
build_meta.build_sdist(folder)
build_meta.build_wheel(folder)
"""
NOT_SOURCE = (
    ".*cache",
    ".git",
    ".hypothesis",
    ".venv*",
    "*.egg-info",
    "build",
    "dist",
    "runs",
    "site",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist of a copy of the checkout."""
    if int(metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip("needs the setuptools of requirements-dev.txt")
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns("__pycache__", *NOT_SOURCE))
    command = [sys.executable, "-c", BUILD, str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A new environment with the wheel, beside the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    path = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # Found last, so that the wheel's package goes before a checkout's.
    (Path(path) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", built[0]]
    subprocess.run(install, check=True, capture_output=True)
    return folder / "bin"


def run(*command, cwd):
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_installed_command_runs_in_an_empty_folder(installed, tmp_path):
    assert "--config" in run(installed / "bat-jax", "--help", cwd=tmp_path)
    flags = ("--config=digits_bat", "--dry_run", f"--workdir={tmp_path / 'run'}")
    assert "parameters: " in run(installed / "bat-jax", *flags, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_examples_from_outside_run_with_the_wheel_alone(installed, tmp_path):
    folder = shutil.copytree(ROOT / "examples" / "outside", tmp_path / "mine")
    short = ("--config.train.epochs=1", "--config.attack.num_steps=1")
    run(installed / "bat-jax", "--config=page.py", *short, cwd=folder)
    results = json.loads((folder / "runs" / "page" / "results.json").read_text())
    assert results["best"]["test"]["clean"]["n"] == 200
    assert "clean: " in run(installed / "python", "fit.py", cwd=folder)


def test_the_installed_package_has_its_pages_its_data_and_its_version(installed, tmp_path):
    show = "import bat_jax; from bat_jax import pages; print(bat_jax.__file__, bat_jax.__version__)"
    show += "; print(pages.find('digits_bat')); print(*pages.names())"
    where, page, names = run(installed / "python", "-c", show, cwd=tmp_path).splitlines()
    assert where.startswith(str(installed.parent))
    assert where.endswith(metadata.version("bat_jax"))
    assert page.startswith(str(installed.parent))
    assert names.split() == pages.names()


def test_the_wheel_holds_every_file_of_the_package(built):
    held = set(zipfile.ZipFile(built[0]).namelist())
    for folder, name in ((ROOT / "bat_jax", "bat_jax"), (pages.folder(), "bat_jax/configs")):
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{name}/{path.relative_to(folder)}" in held


def test_the_sdist_is_the_repository(built):
    with tarfile.open(built[1]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    expected = set(tracked.stdout.splitlines())
    expected |= {"launch.py", "Makefile", "configs/digits_bat.py", "tests/conftest.py"}
    assert expected <= held
