"""The packages; everything else is in pyproject.toml.

`configs/` is beside `bat_jax` in a checkout, and is installed within it.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["bat_jax", "bat_jax.*"]), "bat_jax.configs"],
    package_dir={"bat_jax.configs": "configs"},
)
