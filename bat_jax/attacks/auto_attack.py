"""AutoAttack: the per-image worst case of four attacks.

Source: Croce & Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
Parameter-free Attacks, arXiv:2003.01690.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int
from tqdm import tqdm

from bat_jax import keys
from bat_jax.attacks import checks, geometry, single
from bat_jax.attacks.auto_pgd import Apgd, Loss
from bat_jax.attacks.checks import GivenImages, GivenLabels
from bat_jax.attacks.classifier import HostImages, LogitsFn
from bat_jax.attacks.engine import Attack, Engine, Loop, Outcome
from bat_jax.attacks.fab import FabTargeted
from bat_jax.attacks.geometry import Norm
from bat_jax.attacks.square_attack import Square
from bat_jax.attacks.verdicts import CLEAN_ERROR, STANDING, VerdictFile, Verdicts, digest
from bat_jax.errors import UserError
from bat_jax.keys import GivenKey
from bat_jax.runtime.storage import as_path

Name = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"]
STANDARD: tuple[Name, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")

_NUM_TARGETS = 9
_TARGETED = {"apgd-t", "fab-t"}
_APGD_LOSSES: Mapping[str, Loss] = MappingProxyType(
    {"apgd-ce": "cross_entropy", "apgd-dlr": "dlr", "apgd-t": "targeted_dlr"}
)
_WHITE_BOX = {*_APGD_LOSSES, "fab-t"}


@dataclasses.dataclass(frozen=True)
class Result:
    """The verdict on every image.

    Attributes:
      robust: whether the image is classified correctly and no attack broke it.
      clean: whether it is classified correctly before any attack.
      by_attack: per attack, in the order they ran, which images it broke; a broken image is not
        attacked again.
      is_nan: whether logits were NaN, clean or attacked; such images count as broken.
    """

    robust: Bool[np.ndarray, " images"]
    clean: Bool[np.ndarray, " images"]
    by_attack: Mapping[str, Bool[np.ndarray, " images"]]
    is_nan: Bool[np.ndarray, " images"]
    _adversarial: HostImages | None = dataclasses.field(repr=False)

    @property
    def adversarial(self) -> HostImages:
        """The adversarial images for broken images, the clean images otherwise."""
        if self._adversarial is None:
            raise UserError("autoattack: adversarial images were not kept; pass keep_adversarial")
        return self._adversarial


def autoattack(
    logits_fn: LogitsFn,
    images: GivenImages,
    labels: GivenLabels,
    key: GivenKey,
    *,
    epsilon: float,
    norm: Norm = "linf",
    attacks: Sequence[Name] = STANDARD,
    batch_size: int = 256,
    path: str | os.PathLike[str] | None = None,
    keep_adversarial: bool = True,
    progress: bool = False,
    loop: Loop | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Result:
    """Runs a sequence of attacks, each on the images not yet broken.

    An image is broken if the model, in a separate evaluation, misclassifies x', where
    ||x' - x|| <= epsilon and x' is in [0, 1]. Images misclassified without any attack count as
    broken, as do images whose logits are NaN. Everything is computed in float32 at the highest
    matrix precision; the logits function should compute in float32 too.

    Random draws belong to the images, so the same key gives the same draws for any batch size and
    number of devices; verdicts then agree up to float rounding.

    Args:
      logits_fn: [0, 1] images, NHWC, to logits; any JAX function, closed over its parameters. It
        must be deterministic and treat images independently.
      images: x, shape `[images, height, width, channels]`, float32 in [0, 1].
      labels: y, shape `[images]`.
      key: a single key, or one key per image to make draws independent of the position in `images`.
      epsilon: radius of the ball, in units of the [0, 1] pixel scale, such as 8 / 255.
      norm: `linf` or `l2`.
      attacks: which to run, in order; the default is the published standard version.
      batch_size: how many images to attack at a time, over all local devices together.
      path: an .npz file that the verdicts are written to after every batch. If it exists, the
        evaluation resumes from it.
      keep_adversarial: whether the result contains x', which takes as much memory as `images` and,
        with a path, a file beside it.
      progress: whether to show a progress bar per attack, with the number of robust images.
      loop: see `bat_jax.attacks.engine.Engine`.
      devices: the devices that share each batch; defaults to all local ones.

    Returns:
      The verdicts, as NumPy arrays in the order of `images`.

    Raises:
      UserError: inputs that are not as described, or a file of another evaluation.
    """
    host_images, host_labels = checks.inputs(images, labels, batch_size)
    checks.radius(epsilon, norm)
    _check_names(attacks)
    image_keys = keys.per_image(key, jnp.arange(len(host_labels)))
    engine = Engine(logits_fn, batch_size=batch_size, loop=loop, devices=devices)
    logits = engine.logits(host_images)
    num_classes = logits.shape[1]
    checks.labels_in_range(host_labels, num_classes)
    checks.warn_if_random(logits_fn, host_images[:16])
    checks.warn_if_probabilities(logits)

    names = _possible(attacks, num_classes, epsilon, norm)
    adversarial = host_images.copy() if keep_adversarial else None
    verdicts = Verdicts(logits, checks.correct(logits, host_labels), len(names), adversarial)
    file = None
    if path is not None:
        settings = {
            "epsilon": float(epsilon),
            "norm": norm,
            "attacks": names,
            "batch_size": batch_size,
            "keep_adversarial": keep_adversarial,
            "images": digest(host_images, host_labels),
            "key": digest(np.asarray(jax.random.key_data(image_keys))),
        }
        file = VerdictFile(as_path(path), settings)
        file.resume(verdicts, host_images)

    strongest = single.strongest(logits, _NUM_TARGETS)
    for number in range(verdicts.attack, len(names)):
        attack = _attack(names[number], epsilon, norm)
        targets = strongest if names[number] in _TARGETED else host_labels[:, None]
        rows = verdicts.left_for(number)
        parts = single.batches(rows, batch_size)
        with tqdm(total=len(rows), desc=names[number], unit="image", disable=not progress) as bar:
            bar.update(sum(len(part) for part in parts[: verdicts.batches]))
            for part in parts[verdicts.batches :]:
                bar.set_postfix(standing=int((verdicts.broken_by == STANDING).sum()))
                x, y = host_images[part], host_labels[part]
                outcome = engine.run(attack, x, y, targets[part], image_keys[part])
                _judge(engine, attack, part, x, y, outcome, verdicts)
                bar.update(len(part))
                if file is not None:
                    file.write(verdicts)
        verdicts.attack, verdicts.batches = number + 1, 0
    if file is not None:
        file.write(verdicts)
    return _result(names, verdicts)


def _judge(
    engine: Engine,
    attack: Attack,
    rows: Int[np.ndarray, " batch"],
    images: HostImages,
    labels: Int[np.ndarray, " batch"],
    outcome: Outcome,
    verdicts: Verdicts,
) -> None:
    """Verifies an attack's images: re-evaluates the model and checks the constraint."""
    verdicts.flat[verdicts.attack, rows] = outcome.flat
    verdicts.batches += 1
    claimed = np.flatnonzero(outcome.found)
    if not len(claimed):
        return
    adversarial = outcome.adversarial[claimed]
    logits = engine.logits(adversarial)
    is_broken = ~checks.correct(logits, labels[claimed])
    is_broken &= geometry.within(adversarial, images[claimed], attack.epsilon, attack.norm)
    broken = rows[claimed[is_broken]]
    verdicts.broken_by[broken] = verdicts.attack
    verdicts.is_nan[broken] |= np.isnan(logits[is_broken]).any(axis=1)
    if verdicts.adversarial is not None:
        verdicts.adversarial[broken] = adversarial[is_broken]


def _result(names: Sequence[str], verdicts: Verdicts) -> Result:
    by_attack = {name: verdicts.broken_by == number for number, name in enumerate(names)}
    for number, name in enumerate(names):
        checks.warn_of_flat(name, verdicts.flat[number])
    checks.warn_of_nan(verdicts.is_nan)
    if "square" in names and _WHITE_BOX & set(names[: names.index("square")]):
        checks.warn_if_square_wins(int(by_attack["square"].sum()), len(verdicts.broken_by))
    return Result(
        robust=verdicts.broken_by == STANDING,
        clean=verdicts.broken_by != CLEAN_ERROR,
        by_attack=by_attack,
        is_nan=verdicts.is_nan,
        _adversarial=verdicts.adversarial,
    )


def _attack(name: str, epsilon: float, norm: Norm) -> Attack:
    if name == "fab-t":
        return FabTargeted(epsilon, norm)
    if name == "square":
        return Square(epsilon, norm)
    return Apgd(epsilon, norm, _APGD_LOSSES[name])


def _check_names(attacks: Sequence[str]) -> None:
    known = (*_APGD_LOSSES, "fab-t", "square")
    if not attacks or len(set(attacks)) < len(attacks) or not set(attacks) <= set(known):
        raise UserError(
            f"attacks: {', '.join(attacks) or 'none'}; expected some of {', '.join(known)}, each"
            " once"
        )


def _possible(attacks: Sequence[str], num_classes: int, epsilon: float, norm: Norm) -> list[str]:
    """Returns the attacks that `num_classes` allows; apgd-dlr may replace apgd-t."""
    names = []
    for name in attacks:
        needed = _attack(name, epsilon, norm).min_classes
        if num_classes >= needed:
            names.append(name)
            continue
        instead = name == "apgd-t" and num_classes == 3 and "apgd-dlr" not in attacks
        if instead:
            names.append("apgd-dlr")
        checks.warn_of_few_classes(name, needed, num_classes, "apgd-dlr" if instead else None)
    if not names:
        raise UserError(
            f"attacks: {', '.join(attacks)} cannot be run with {num_classes} classes; add apgd-ce,"
            " fab-t or square"
        )
    return names
