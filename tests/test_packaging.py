"""The built packages are complete: the wheel runs anywhere, the sdist is the repository."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import bat_jax
from bat_jax import pages
from tests import api

ROOT = Path(__file__).parents[1]
BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]  # setuptools changes the arguments.
build_meta.build_sdist(folder)
build_meta.build_wheel(folder)
"""
# What each extra brings that the package itself does not need.
EXTRAS = {
    "cuda": "jax-cuda13-plugin",
    "tpu": "libtpu",
    "gcs": "gcsfs",
    "docs": "mkdocs-material",
    "notebook": "nbclient",
    "dev": "pytest",
}
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


@pytest.fixture(scope="module")
def fresh(built, tmp_path_factory):
    """A new environment with the wheel and what pip installs with it, and nothing else."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    # Older ones than this pip download packages in order to resolve them.
    newest = [python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1"]
    answered = subprocess.run(newest, capture_output=True, text=True, check=False)
    if answered.returncode:
        pytest.skip(f"needs a package index: {answered.stderr.strip().splitlines()[-1]}")
    run(python, "-m", "pip", "install", "--quiet", built[0], cwd=folder)
    yield folder / "bin"
    shutil.rmtree(folder)  # More than a gigabyte.


def run(*command, cwd):
    # On the devices and with the flags of a new shell, not those of the tests.
    variables = dict(os.environ)
    for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS"):
        variables.pop(name, None)
    result = subprocess.run(
        command, cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_wheel_alone_brings_all_it_needs(fresh, tmp_path):
    run(fresh / "python", "-m", "pip", "check", cwd=tmp_path)
    assert run(fresh / "bat-jax", "--version", cwd=tmp_path) == f"bat_jax {bat_jax.__version__}\n"
    workdir = f"--workdir={tmp_path / 'run'}"
    dry = run(fresh / "bat-jax", "--config=digits_bat", "--dry_run", workdir, cwd=tmp_path)
    assert "parameters: " in dry
    names = [f"{module}:{name}" for module in api.MODULES for name in api.names(module)]
    show = "import pkgutil, sys; found = [pkgutil.resolve_name(name) for name in sys.argv[1:]]"
    show += "; import bat_jax; print(len(found), bat_jax.__file__)"
    count, where = run(fresh / "python", "-c", show, *names, cwd=tmp_path).split()
    assert int(count) == len(names) > 100
    assert where.startswith(str(fresh.parent))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_can_be_installed(built, fresh, extra, tmp_path):
    pip = (fresh / "python", "-m", "pip", "install", "--dry-run", "--use-feature=fast-deps")
    found = run(*pip, f"{built[0]}[{extra}]", cwd=tmp_path)
    assert f" {EXTRAS[extra]}-" in found.splitlines()[-1].replace("_", "-")


def test_every_extra_is_tried():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) == set(EXTRAS)


def test_the_sdist_builds_the_wheel(built, fresh, tmp_path):
    build = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, built[1])
    run(fresh / "python", *build, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == built[0].name
    assert zipfile.ZipFile(wheel).namelist() == zipfile.ZipFile(built[0]).namelist()


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
