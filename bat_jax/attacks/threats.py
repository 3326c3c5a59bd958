"""The union of threats: which images withstand AutoAttack in several balls."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from bat_jax import keys
from bat_jax.attacks import checks
from bat_jax.attacks.auto_attack import autoattack
from bat_jax.attacks.checks import GivenImages, GivenLabels
from bat_jax.attacks.classifier import LogitsFn
from bat_jax.attacks.engine import Loop
from bat_jax.attacks.geometry import Norm
from bat_jax.attacks.versions import Name
from bat_jax.errors import UserError
from bat_jax.keys import GivenKey
from bat_jax.runtime.storage import AnyPath, as_path


class Threat(NamedTuple):
    """A ball that adversarial images may be in; equal to the plain tuple.

    Attributes:
      norm: `linf`, `l2` or `l1`.
      epsilon: its radius.
    """

    norm: Norm
    epsilon: float

    def __str__(self) -> str:
        """The threat as in the name of a file: `linf-0.0313725`."""
        return f"{self.norm}-{self.epsilon:.6g}"


@dataclasses.dataclass(frozen=True)
class UnionResult:
    """The verdict on every image under several threats.

    Attributes:
      robust: whether the image is classified correctly and withstands all threats.
      clean: whether it is classified correctly before any attack.
      broken_by: per threat, in order, which images it broke; with `skip_broken`, an image that one
        threat broke was not attacked under the next.
      skip_broken: whether such images were skipped.
    """

    robust: Bool[np.ndarray, " images"]
    clean: Bool[np.ndarray, " images"]
    broken_by: Mapping[Threat, Bool[np.ndarray, " images"]]
    skip_broken: bool

    def under(self, threat: tuple[Norm, float]) -> Bool[np.ndarray, " images"]:
        """Returns which images withstand one threat.

        Raises:
          UserError: there is no such threat, or images that another one broke were skipped.
        """
        if threat not in self.broken_by:
            known = ", ".join(str(tuple(one)) for one in self.broken_by)
            raise UserError(f"threat: {threat}; expected one of {known}")
        if self.skip_broken and threat != next(iter(self.broken_by)):
            raise UserError(
                f"threat: {threat}; images that an earlier threat broke were not attacked under it:"
                " only the union is known; give skip_broken=False"
            )
        return self.clean & ~self.broken_by[Threat(*threat)]


def union(
    logits_fn: LogitsFn,
    images: GivenImages,
    labels: GivenLabels,
    key: GivenKey,
    *,
    threats: Sequence[tuple[Norm, float]],
    attacks: Sequence[Name] | None = None,
    skip_broken: bool = False,
    batch_size: int | None = 256,
    path: str | os.PathLike[str] | None = None,
    progress: bool = False,
    loop: Loop | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> UnionResult:
    """Runs AutoAttack in several balls; an image is robust if it withstands all of them.

    Verdicts under each threat are those of `autoattack` with the same key: its draws belong to the
    images, whichever of them are attacked.

    Args:
      logits_fn: [0, 1] images, NHWC, to logits; any deterministic JAX function.
      images: x, shape `[images, height, width, channels]`, float32 in [0, 1].
      labels: y, shape `[images]`.
      key: a single key, or one key per image to make draws independent of the position in `images`.
      threats: pairs of a norm and a radius, such as `Threat("l2", 0.5)` or `("l2", 0.5)`, in order.
      attacks: which to run under each threat, in order, instead of the standard ones.
      skip_broken: whether an image that one threat broke is not attacked under the next. The union
        is the same and takes less time; accuracy under the single threats remains unknown.
      batch_size: how many images to attack at a time, over all devices together; None for as many
        as fit in memory, at most 256 (`bat_jax.attacks.memory`).
      path: an .npz file, with the threat added to its name, that the verdicts under each threat are
        written to after every batch. If such files exist, the evaluation resumes from them.
      progress: whether to show a progress bar per attack.
      loop: see `bat_jax.attacks.engine.Engine`.
      devices: the devices that share each batch; defaults to all local ones.

    Returns:
      The verdicts, as NumPy arrays in the order of `images`.

    Raises:
      UserError: inputs that are not as described, or a file of another evaluation.
    """
    chosen = _threats(threats)
    x, y = checks.inputs(images, labels, batch_size)
    image_keys = keys.per_image(key, jnp.arange(len(y)))
    robust, clean = np.ones(len(y), bool), np.zeros(len(y), bool)
    broken_by = {}
    for number, threat in enumerate(chosen):
        rows = np.flatnonzero(robust) if skip_broken else np.arange(len(y))
        broken = np.zeros(len(y), bool)
        if len(rows):
            found = autoattack(
                logits_fn,
                x[rows],
                y[rows],
                image_keys[rows],
                epsilon=threat.epsilon,
                norm=threat.norm,
                attacks=attacks,
                batch_size=batch_size,
                path=None if path is None else _file(as_path(path), threat),
                keep_adversarial=False,
                progress=progress,
                loop=loop,
                devices=devices,
            )
            if not number:
                clean = found.clean
            broken[rows] = found.clean & ~found.robust
            robust[rows] &= found.robust
        broken_by[threat] = broken
    return UnionResult(robust, clean, broken_by, skip_broken)


def _threats(given: Sequence[Any]) -> list[Threat]:
    """Returns the threats.

    Raises:
      UserError: none, one twice, or one that is not a pair of a norm and a radius.
    """
    if not isinstance(given, Iterable):
        raise UserError(f'threats: {given!r}; expected several, such as [("linf", 8 / 255)]')
    found: list[Threat] = []
    for one in given:
        if not isinstance(one, tuple | list) or len(one) != 2 or not isinstance(one[1], Real):
            raise UserError(
                f"threats: {one!r}; expected pairs of a norm and a radius, such as"
                ' ("linf", 8 / 255)'
            )
        checks.radius(float(one[1]), one[0])
        threat = Threat(one[0], float(one[1]))
        if str(threat) in map(str, found):
            raise UserError(f"threats: {tuple(threat)} twice; expected each once")
        found.append(threat)
    if not found:
        raise UserError('threats: none; expected at least one, such as ("linf", 8 / 255)')
    return found


def _file(path: AnyPath, threat: Threat) -> AnyPath:
    """Returns the file of one threat: `verdicts-linf-0.0313725.npz`."""
    return path.with_name(f"{path.stem}-{threat}{path.suffix}")
