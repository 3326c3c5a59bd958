"""Checks that a method can take the options of the recipe, before anything starts."""

from ml_collections import ConfigDict

from bat_jax.errors import UserError
from bat_jax.methods import Method


def check(config: ConfigDict, method: Method) -> None:
    """Checks the options that not every method can take.

    Raises:
      UserError: this method cannot take an option; the message names the first.
    """
    remembers = type(method).memory is not Method.memory
    if config.train.label_smoothing:
        _check_targets(method, "train.label_smoothing", config.train.label_smoothing, 0)
    if config.data.cutmix:
        _check_targets(method, "data.cutmix", True, False)
        where = f"config.data.cutmix is True; expected False for the objective {method.name}"
        if method.is_weighted:
            raise UserError(
                f"{where}, which weights images by their labels: mixed images have several"
            )
        if remembers:
            raise UserError(f"{where}, which remembers every example: mixed images are of two")
    if config.data.extra is not None and remembers:
        raise UserError(
            f"config.data.extra is {config.data.extra}; expected none for the objective"
            f" {method.name}, which remembers every example of the data set"
        )
    attack = config.attack
    if method.attack is None:
        return
    if method.attack.gaussian_start and not (attack.random_start or config.data.cutmix):
        raise UserError(
            "config.attack.random_start is False; expected True for the objective"
            f" {method.name}, whose attack maximises a divergence from p(x): its gradient at x is 0"
        )
    if attack.start_radius == 1:
        return
    if method.attack.gaussian_start or not attack.random_start:
        start = "a normal start of its own" if attack.random_start else "no random start"
        raise UserError(
            f"config.attack.start_radius is {attack.start_radius}; expected 1 for the objective"
            f" {method.name} with {start}: the radius is that of a uniform start"
        )


def extra_each(config: ConfigDict) -> int:
    """Returns how many extra images each batch holds, int(fraction * batch size).

    Raises:
      UserError: there are extra images, but a batch has no place for one.
    """
    if config.data.extra is None:
        return 0
    fraction, batch_size = config.data.extra_fraction, config.train.batch_size
    found = int(fraction * batch_size)
    if not found:
        raise UserError(
            f"config.data.extra_fraction is {fraction}; expected at least {1 / batch_size:.3g}, one"
            f" image of a batch of {batch_size}"
        )
    return found


def _check_targets(method: Method, field: str, value: object, off: object) -> None:
    """Checks that a method can train on class probabilities that the trainer makes."""
    where = f"config.{field} is {value}; expected {off} for the objective {method.name}"
    if type(method).targets is not Method.targets:
        raise UserError(f"{where}, which makes targets of its own")
    if not method.takes_targets:
        raise UserError(f"{where}, whose loss takes labels, not class probabilities")
