"""A wrong environment ends in one line, before anything starts."""

import os
import subprocess
import sys

import pytest

from bat_jax import environment
from bat_jax.errors import UserError

# Runs in a new process, because JAX reads its variables once per process.
START = """
from bat_jax import environment
from bat_jax.errors import UserError
try:
    environment.check()
    from bat_jax.runtime import backend
    print(len(backend.devices()), "devices")
except UserError as error:
    print(error)
"""


def started(**variables):
    """Returns the message of a program that starts with these environment variables."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **variables},
    )
    assert ended.stdout.count("\n") == 1
    return ended.stdout


@pytest.mark.parametrize("count", ["abc", "0", "-2", "1.5", ""])
def test_the_number_of_cpu_devices_is_a_positive_integer(monkeypatch, count):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", count)
    with pytest.raises(UserError, match=r"JAX_NUM_CPU_DEVICES is .*; expected the number"):
        environment.check()


def test_a_valid_environment_passes(monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "3")
    environment.check()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"JAX_NUMPY_DTYPE_PROMOTION": "foo"}, 'Invalid value "foo" for JAX flag jax_numpy_dtype'),
        ({"JAX_PLATFORMS": "cuda"}, "JAX_PLATFORMS is 'cuda': JAX found no device"),
        ({"JAX_PLATFORMS": "nonsense"}, "'nonsense' is not in the list of known backends"),
        ({"JAX_NUM_CPU_DEVICES": "3"}, "3 devices"),
    ],
)
def test_errors_of_jax_about_its_variables_give_one_line(variables, said):
    assert said in started(**variables)


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    error = environment.missing(ModuleNotFoundError(name="sklearn.datasets"))
    assert str(error) == "sklearn is not installed; pip install scikit-learn"
    error = environment.missing(ModuleNotFoundError(name="optax"))
    assert str(error) == "optax is not installed; pip install optax"


def test_a_missing_module_of_this_package_is_not_an_input_error():
    with pytest.raises(ModuleNotFoundError):
        environment.missing(ModuleNotFoundError(name="bat_jax.none"))


def test_a_program_without_jax_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(UserError, match="jax is not installed; pip install jax"):
        environment.check()
