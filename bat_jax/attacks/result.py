"""The result of AutoAttack: the verdict on every image."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from bat_jax.attacks import anytime, checks
from bat_jax.attacks.classifier import HostImages
from bat_jax.attacks.sampling import Sample
from bat_jax.attacks.verdicts import CLEAN_ERROR, STANDING, Verdicts
from bat_jax.attacks.versions import WHITE_BOX
from bat_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Result:
    """The verdict on every image.

    Attributes:
      robust: whether the image is classified correctly and no attack that ran on it broke it.
      clean: whether it is classified correctly before any attack.
      by_attack: per attack, in the order they ran, which images it broke; a broken image is not
        attacked again.
      is_nan: whether logits were NaN, clean or attacked; such images count as broken.
      seconds: per attack, its wall time, including compilation and earlier calls with the same
        path.
      sample: of a tolerance, the images that its last attacks were run on; None if all attacks were
        run on all images that withstood the previous ones.
      draws: of a randomised model, how many draws voted on every image, clean and attacked; None
        for a deterministic model.
      eot: of a randomised model, in how many draws every iterate of an attack was evaluated.
      target_classes: the classes that attacks had to reach; None if any wrong class would do.
    """

    robust: Bool[np.ndarray, " images"]
    clean: Bool[np.ndarray, " images"]
    by_attack: Mapping[str, Bool[np.ndarray, " images"]]
    is_nan: Bool[np.ndarray, " images"]
    seconds: Mapping[str, float]
    sample: Sample | None
    draws: int | None
    eot: int | None
    target_classes: tuple[int, ...] | None
    _adversarial: HostImages | None = dataclasses.field(repr=False)

    @property
    def not_run(self) -> Bool[np.ndarray, " images"]:
        """Whether an image stands, but not all attacks were run on it."""
        rest = np.zeros(len(self.robust), bool)
        if self.sample is not None:
            rest[self.sample.order[self.sample.drawn :]] = True
        return rest & self.robust

    @property
    def interval(self) -> tuple[float, float]:
        """The robust accuracy on these images if all attacks were run on all of them.

        With a sample, it is inside of the interval with probability `sample.confidence`; otherwise,
        both ends are the accuracy.
        """
        low = high = int(self.robust.sum())
        if self.sample is not None:
            population, limits = len(self.sample.order), self.sample.limits
            # What stands now is certain to be no less.
            low, high = min(population - limits.high, high), min(population - limits.low, high)
        return low / len(self.robust), high / len(self.robust)

    @property
    def robust_accuracy(self) -> float:
        """The robust accuracy; with a sample, its estimate for all images."""
        low, high = self.interval
        if self.sample is None:
            return low
        standing = len(self.sample.order) - self.sample.estimate
        return float(np.clip(standing / len(self.robust), low, high))

    @property
    def adversarial(self) -> HostImages:
        """The adversarial images for broken images, the clean images otherwise."""
        if self._adversarial is None:
            raise UserError("autoattack: adversarial images were not kept; pass keep_adversarial")
        return self._adversarial


def result_of(
    names: Sequence[str],
    verdicts: Verdicts,
    sample: Sample | None,
    *,
    draws: int | None,
    eot: int | None,
    classes: tuple[int, ...] | None,
) -> Result:
    """Returns the result of finished verdicts, with the warnings that they call for."""
    by_attack = {name: verdicts.broken_by == number for number, name in enumerate(names)}
    for number, name in enumerate(names):
        checks.warn_of_flat(name, verdicts.flat[number])
    checks.warn_of_nan(verdicts.is_nan)
    if "square" in names and WHITE_BOX & set(names[: names.index("square")]):
        found = _least(by_attack["square"], sample)
        checks.warn_if_square_wins(found, len(verdicts.broken_by), in_sample=sample is not None)
    return Result(
        robust=verdicts.broken_by == STANDING,
        clean=verdicts.broken_by != CLEAN_ERROR,
        by_attack=by_attack,
        is_nan=verdicts.is_nan,
        seconds=dict(zip(names, verdicts.seconds.tolist(), strict=True)),
        sample=sample,
        draws=draws,
        eot=eot,
        target_classes=classes,
        # The caller's own: later calls with the same path write to the file.
        _adversarial=None if verdicts.adversarial is None else np.array(verdicts.adversarial),
    )


def _least(is_broken: Bool[np.ndarray, " images"], sample: Sample | None) -> int:
    """Returns how many images an attack broke, or, by a sample, would break at least."""
    if sample is None:
        return int(is_broken.sum())
    found = int(is_broken[sample.order[: sample.drawn]].sum())
    population = len(sample.order)
    return anytime.limits(population, sample.drawn, found, confidence=sample.confidence).low
