"""What the switches of the recipe demand of a method, checked before anything starts."""

from ml_collections import ConfigDict

from bat_jax.errors import UserError
from bat_jax.methods import Method


def check(config: ConfigDict, method: Method) -> None:
    """Checks the switches that not every method can take.

    Raises:
      UserError: the first that this one cannot.
    """
    if config.train.label_smoothing:
        _check_targets(method, "train.label_smoothing", config.train.label_smoothing, 0)


def _check_targets(method: Method, field: str, value: object, off: object) -> None:
    """Checks that a method can train on class probabilities that the trainer makes."""
    where = f"config.{field} is {value}; expected {off} for the objective {method.name}"
    if type(method).targets is not Method.targets:
        raise UserError(f"{where}, which makes targets of its own")
    if not method.takes_targets:
        raise UserError(f"{where}, whose loss takes labels, not class probabilities")
