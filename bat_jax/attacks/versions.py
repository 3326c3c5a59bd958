"""The versions of AutoAttack: which attacks run, and with what settings."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int

from bat_jax.attacks import auto_pgd, checks
from bat_jax.attacks.expectation import Expectation
from bat_jax.attacks.fab import Fab, FabTargeted
from bat_jax.attacks.geometry import Norm
from bat_jax.attacks.iterate import Loss
from bat_jax.attacks.protocol import Attack
from bat_jax.attacks.square_attack import Square
from bat_jax.errors import UserError

Name = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square", "fab"]
Version = Literal["standard", "plus", "rand"]
STANDARD: tuple[Name, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
_ATTACKS: Mapping[str, tuple[Name, ...]] = MappingProxyType(
    {
        "standard": STANDARD,
        "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
        "rand": ("apgd-ce", "apgd-dlr"),
    }
)
# Starts of the attacks that start more than once, by version and norm.
_STARTS: Mapping[tuple[str, Norm], Mapping[str, int]] = MappingProxyType(
    {
        ("standard", "l1"): {"apgd-ce": 5},
        **{("plus", norm): {"apgd-ce": 5, "apgd-dlr": 5, "fab": 5} for norm in get_args(Norm)},
    }
)
NUM_TARGETS = 9
"""How many classes targeted attacks try, at most."""
# Draws of a randomised model per iterate.
_EOT = 20

TARGETED = {"apgd-t", "fab-t"}
"""The attacks that aim at one class after the other."""
_APGD_LOSSES: Mapping[str, Loss] = MappingProxyType(
    {"apgd-ce": "cross_entropy", "apgd-dlr": "dlr", "apgd-t": "targeted_dlr"}
)
WHITE_BOX = {*_APGD_LOSSES, "fab-t", "fab"}


def names(version: str, attacks: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the attacks to run, those of the version unless others are named.

    Raises:
      UserError: an unknown version or attack, no attack, or one twice.
    """
    if version not in _ATTACKS:
        raise UserError(f"version: {version!r}; expected {', '.join(_ATTACKS)}")
    known = get_args(Name)
    if isinstance(attacks, str) or not isinstance(attacks, Iterable | None):
        raise UserError(
            f"attacks: {attacks!r}; expected several of {', '.join(known)}, such as ('apgd-ce',)"
        )
    chosen: tuple[str, ...] = _ATTACKS[version] if attacks is None else tuple(attacks)
    is_known = all(name in known for name in chosen)
    if not chosen or not is_known or len(set(chosen)) < len(chosen):
        raise UserError(
            f"attacks: {', '.join(map(str, chosen)) or 'none'}; expected some of"
            f" {', '.join(known)}, each once"
        )
    return chosen


def draws_per_iterate(
    version: str, eot: int | None, draws: int, attacks: Sequence[str]
) -> int | None:
    """Returns the draws of the model per iterate, None for a deterministic model.

    Raises:
      UserError: no draws, or attacks that do not average over draws.
    """
    checks.whole("draws", draws, 1)
    if eot is None:
        eot = _EOT if version == "rand" else None
    if eot is None:
        return None
    checks.whole("eot", eot, 1)
    if not set(attacks) <= set(_ATTACKS["rand"]):
        raise UserError(
            f"attacks: {', '.join(attacks)}; expected some of {', '.join(_ATTACKS['rand'])}, which"
            " average over draws of a randomised model: give version='rand' with eot"
        )
    return eot


def starts(
    version: str, norm: Norm, given: Mapping[Name, int] | None, attacks: Sequence[str]
) -> dict[str, int]:
    """Returns how often each attack starts, as given, else as the version has it.

    Raises:
      UserError: no whole numbers of 1 or more, or numbers of attacks that are not run.
    """
    of_version = _STARTS.get((version, norm), {})
    chosen = {} if given is None else given
    if not isinstance(chosen, Mapping):
        raise UserError(f"restarts: {given!r}; expected a number by attack, such as {{'fab': 5}}")
    for name, count in chosen.items():
        if name not in attacks:
            raise UserError(
                f"restarts: {count} of {name}; expected restarts of the attacks to run:"
                f" {', '.join(attacks)}"
            )
        checks.whole(f"restarts of {name}", count, 1)
    if "fab-t" in chosen:
        raise UserError(
            "restarts: fab-t has no random start; expected other attacks, such as fab, whose"
            " restarts are random"
        )
    counts = dict.fromkeys(get_args(Name), 1) | dict(of_version) | dict(chosen)
    if "apgd-dlr" not in attacks:  # With three classes, it replaces apgd-t.
        counts["apgd-dlr"] = counts["apgd-t"]
    return counts


def rounds(
    name: str,
    version: str,
    norm: Norm,
    count: int,
    labels: Int[np.ndarray, " images"],
    strongest: Int[np.ndarray, "images targets"],
) -> Int[np.ndarray, "images rounds"]:
    """Returns what `Problem.targets` holds in each round of an attack that starts `count` times.

    That is the target class, one of 9 or, for `apgd-t` of the standard in L1, of 5; for `fab` the
    number of the start; else the label, which is ignored.

    Args:
      name: of the attack.
      version: of AutoAttack.
      norm: of the ball.
      count: how often the attack starts.
      labels: y.
      strongest: the wrong classes in descending order of their clean logits.
    """
    if name == "fab":
        return np.tile(np.arange(count, dtype=np.int32), (len(labels), 1))
    if name not in TARGETED:
        return np.tile(labels[:, None], count)
    is_short = (name, version, norm) == ("apgd-t", "standard", "l1")
    return np.tile(strongest[:, : 5 if is_short else 9], count)


def create(
    name: str,
    epsilon: float,
    norm: Norm,
    version: str = "standard",
    eot: int | None = None,
    count: int = 1,
) -> Attack:
    """Returns an attack with the settings of a version.

    With an `eot`, the attack itself starts `count` times; else `rounds` restarts it. In L1, the
    standard version has stages, unless draws choose the best of all iterates, also of those beyond
    epsilon.
    """
    if name == "fab-t":
        return FabTargeted(epsilon, norm)
    if name == "fab":
        return Fab(epsilon, norm)
    if name == "square":
        return Square(epsilon, norm)
    loss = _APGD_LOSSES[name]
    in_stages = version == "standard" and eot is None
    attack = auto_pgd.create(epsilon, norm, loss, in_stages=in_stages)
    return attack if eot is None else Expectation(attack, eot, count)


def possible(attacks: Sequence[str], num_classes: int) -> list[str]:
    """Returns the attacks that `num_classes` allows; apgd-dlr may replace apgd-t."""
    allowed = []
    for name in attacks:
        needed = create(name, 1.0, "linf").min_classes
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
