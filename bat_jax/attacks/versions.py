"""The versions of AutoAttack: which attacks run, and with what settings."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, get_args

from bat_jax.attacks import checks
from bat_jax.attacks.auto_pgd import Apgd
from bat_jax.attacks.engine import Attack
from bat_jax.attacks.expectation import Expectation
from bat_jax.attacks.fab import FabTargeted
from bat_jax.attacks.geometry import Norm
from bat_jax.attacks.iterate import Loss
from bat_jax.attacks.square_attack import Square
from bat_jax.errors import UserError

Name = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"]
Version = Literal["standard", "rand"]
STANDARD: tuple[Name, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
_ATTACKS: Mapping[str, tuple[Name, ...]] = MappingProxyType(
    {"standard": STANDARD, "rand": ("apgd-ce", "apgd-dlr")}
)
# Draws of a randomised model per iterate.
_EOT = 20

TARGETED = {"apgd-t", "fab-t"}
_APGD_LOSSES: Mapping[str, Loss] = MappingProxyType(
    {"apgd-ce": "cross_entropy", "apgd-dlr": "dlr", "apgd-t": "targeted_dlr"}
)
WHITE_BOX = {*_APGD_LOSSES, "fab-t"}


def names(version: str, attacks: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the attacks to run, those of the version unless others are named.

    Raises:
      UserError: an unknown version or attack, no attack, or one twice.
    """
    if version not in _ATTACKS:
        raise UserError(f"version: {version!r}; expected {' or '.join(_ATTACKS)}")
    chosen: tuple[str, ...] = _ATTACKS[version] if attacks is None else tuple(attacks)
    known = get_args(Name)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
        raise UserError(
            f"attacks: {', '.join(chosen) or 'none'}; expected some of {', '.join(known)}, each"
            " once"
        )
    return chosen


def draws_per_iterate(
    version: str, eot: int | None, draws: int, attacks: Sequence[str]
) -> int | None:
    """Returns the draws of the model per iterate, None for a deterministic model.

    Raises:
      UserError: no draws, or attacks that do not average over draws.
    """
    if eot is None:
        eot = _EOT if version == "rand" else None
    if eot is None:
        return None
    for name, value in (("eot", eot), ("draws", draws)):
        if value < 1:
            raise UserError(f"{name}: {value}; expected 1 or more")
    if not set(attacks) <= set(_ATTACKS["rand"]):
        raise UserError(
            f"attacks: {', '.join(attacks)}; expected some of {', '.join(_ATTACKS['rand'])}, which"
            " average over draws of a randomised model: give version='rand' with eot"
        )
    return eot


def create(name: str, epsilon: float, norm: Norm, eot: int | None) -> Attack:
    """Returns an attack with the settings of the standard version."""
    if name == "fab-t":
        return FabTargeted(epsilon, norm)
    if name == "square":
        return Square(epsilon, norm)
    attack = Apgd(epsilon, norm, _APGD_LOSSES[name])
    return attack if eot is None else Expectation(attack, eot)


def possible(attacks: Sequence[str], num_classes: int) -> list[str]:
    """Returns the attacks that `num_classes` allows; apgd-dlr may replace apgd-t."""
    allowed = []
    for name in attacks:
        needed = create(name, 1.0, "linf", None).min_classes
        if num_classes >= needed:
            allowed.append(name)
            continue
        instead = name == "apgd-t" and num_classes == 3 and "apgd-dlr" not in attacks
        if instead:
            allowed.append("apgd-dlr")
        checks.warn_of_few_classes(name, needed, num_classes, "apgd-dlr" if instead else None)
    if not allowed:
        raise UserError(
            f"attacks: {', '.join(attacks)} cannot be run with {num_classes} classes; add apgd-ce,"
            " fab-t or square"
        )
    return allowed
