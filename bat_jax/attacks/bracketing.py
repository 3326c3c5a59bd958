"""How small a perturbation breaks each image: robust accuracy at many radii from one run."""

import dataclasses
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from bat_jax import keys
from bat_jax.attacks import checks, single, versions
from bat_jax.attacks.bisection import Search
from bat_jax.attacks.brackets import Brackets
from bat_jax.attacks.checks import GivenImages, GivenLabels
from bat_jax.attacks.classifier import HostImages, LogitsFn
from bat_jax.attacks.engine import Engine, Loop
from bat_jax.attacks.geometry import Norm
from bat_jax.attacks.judge import Judge
from bat_jax.attacks.memory import fitting_batch
from bat_jax.attacks.verdict_file import VerdictFile, batch_size_of, digest
from bat_jax.attacks.versions import Name
from bat_jax.errors import UserError
from bat_jax.keys import GivenKey
from bat_jax.runtime.storage import as_path


@dataclasses.dataclass(frozen=True)
class MinimalNorms:
    """Between which radii the smallest adversarial perturbation of each image lies.

    Attributes:
      epsilons: the radii that images were attacked at, ascending.
      lower: the largest of the radii that the image withstands; 0 if it withstands none.
      upper: the distance of the nearest adversarial image found, 0 if the image itself is
        misclassified, infinite if none was found. FAB-T may find one beyond all radii.
      fab: the distance of the nearest one that FAB-T found, at any distance, infinite if it found
        none; None if FAB-T was not run.
      clean: whether the image is classified correctly before any attack.
      attacks: those that the number of classes allows, in order.
    """

    epsilons: tuple[float, ...]
    lower: Float[np.ndarray, " images"]
    upper: Float[np.ndarray, " images"]
    fab: Float[np.ndarray, " images"] | None
    clean: Bool[np.ndarray, " images"]
    attacks: tuple[str, ...]
    _adversarial: HostImages | None = dataclasses.field(repr=False)

    @property
    def adversarial(self) -> HostImages:
        """The nearest adversarial image found, x where there is none."""
        if self._adversarial is None:
            raise UserError(
                "minimal_norms: adversarial images were not kept; pass keep_adversarial"
            )
        return self._adversarial

    def robust(self, epsilon: float) -> Bool[np.ndarray, " images"]:
        """Returns which images withstand a radius: no adversarial image is as near.

        The answer is that of attacks at the radii `epsilons`, and an upper bound between them. An
        image that is broken at a radius is broken at every larger one.

        Raises:
          UserError: a radius below 0, or larger than all that images were attacked at.
        """
        most = self.epsilons[-1]
        expected = f"0 to {most:g}, the largest radius that images were attacked at"
        radius = checks.number("epsilon", epsilon, expected, lambda radius: 0 <= radius <= most)
        return self.clean & (self.upper > radius)


def minimal_norms(
    logits_fn: LogitsFn,
    images: GivenImages,
    labels: GivenLabels,
    key: GivenKey,
    *,
    epsilons: Sequence[float] | Float[np.ndarray, " radii"],
    norm: Norm = "linf",
    attacks: Sequence[Name] = ("fab-t", "apgd-ce", "apgd-t"),
    batch_size: int | None = 256,
    path: str | os.PathLike[str] | None = None,
    keep_adversarial: bool = True,
    progress: bool = False,
    loop: Loop | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> MinimalNorms:
    """Returns radii between which each image's smallest adversarial perturbation lies.

    `fab-t` minimises the perturbation: it is run first, once, to its end, for every target. The
    other attacks need a radius. They bisect the given ones, each image by itself: an image is
    attacked at the middle one of the radii that it is neither known to withstand nor known to be
    broken at, by one attack after another until one breaks it. n radii take at most log2(n + 1)
    rounds, rounded up, instead of n. An adversarial image counts at its own distance, which may be
    less than the radius of the attack.

    An image that withstands a radius is taken to withstand smaller ones, at which it is not
    attacked, unless a nearer adversarial image is known. Adversarial images are judged as
    `autoattack` judges them, and an image's draws are the same at all radii.

    Args:
      logits_fn: [0, 1] images, NHWC, to logits; any deterministic JAX function.
      images: x, shape `[images, height, width, channels]`, float32 in [0, 1].
      labels: y, shape `[images]`.
      key: a single key, or one key per image to make draws independent of the position in `images`.
      epsilons: the radii, ascending, in units of the [0, 1] pixel scale.
      norm: `linf`, `l2` or `l1`.
      attacks: of AutoAttack, in order; those of the standard version, `apgd-dlr` or `fab`.
      batch_size: how many images to attack at a time, over all devices together; None for as many
        as fit in memory, at most 256 (`bat_jax.attacks.memory`).
      path: an .npz file that the brackets are written to after every batch. If it exists, the
        search resumes from it.
      keep_adversarial: whether the result contains the nearest adversarial images, which take as
        much memory as `images` and, with a path, a file beside it.
      progress: whether to show a progress bar.
      loop: see `bat_jax.attacks.engine.Engine`.
      devices: the devices that share each batch; defaults to all local ones.

    Raises:
      UserError: inputs that are not as described, or a file of another evaluation.
    """
    x, y = checks.inputs(images, labels, batch_size)
    checks.each_device(devices)
    radii = _radii(epsilons, norm)
    chosen = versions.names("standard", attacks)
    checks.takes_key(logits_fn, is_random=False)
    image_keys = keys.per_image(key, jnp.arange(len(y)))
    batch_size = batch_size or batch_size_of(path) or fitting_batch(logits_fn, x.shape[1:], devices)
    engine = Engine(logits_fn, batch_size=batch_size, loop=loop, devices=devices)
    judge = Judge(engine, y, image_keys, None)
    logits, is_correct = judge(x, np.arange(len(y)), 0)
    checks.labels_in_range(y, logits.shape[1])
    checks.warn_if_random(logits_fn, x[:16])
    checks.warn_if_probabilities(logits)
    names = versions.possible(chosen, logits.shape[1])
    adversarial = x.copy() if keep_adversarial else None
    brackets = Brackets(logits, is_correct, len(radii), len(names), adversarial)
    file = None
    if path is not None:
        settings = {
            "epsilons": radii.tolist(),
            "norm": norm,
            "attacks": names,
            "batch_size": batch_size,
            "keep_adversarial": keep_adversarial,
            "images": digest(x, y),
            "key": digest(np.asarray(jax.random.key_data(image_keys))),
        }
        file = VerdictFile(as_path(path), settings)
        file.resume(brackets, x)
    search = Search(engine, judge, norm, x, image_keys, radii, names, brackets, file, progress)
    search.run(single.strongest(logits, versions.NUM_TARGETS))
    for number, name in enumerate(names):
        checks.warn_of_flat(name, brackets.flat[number])
    # Of FAB-T alone, or where a nearer image was found than a radius withstood.
    withstood = brackets.broken_at
    if names != ["fab-t"]:
        withstood = np.minimum(brackets.withstood, brackets.broken_at)
    return MinimalNorms(
        epsilons=tuple(radii.tolist()),
        lower=np.concatenate([[0.0], radii])[withstood],
        upper=brackets.distance,
        fab=brackets.fab if "fab-t" in names else None,
        clean=is_correct,
        attacks=tuple(names),
        # The caller's own: later calls with the same path write to the file.
        _adversarial=None if brackets.adversarial is None else np.array(brackets.adversarial),
    )


def _radii(
    epsilons: Sequence[float] | Float[np.ndarray, " radii"], norm: str
) -> Float[np.ndarray, " radii"]:
    """Returns the radii in float64.

    Raises:
      UserError: a single one, none, or radii that are not above 0 and ascending.
    """
    try:
        given = list(epsilons)
    except TypeError:
        raise UserError(
            f"epsilons: {epsilons!r}; expected several radii, such as (4 / 255, 8 / 255)"
        ) from None
    if not given:
        raise UserError("epsilons: none; expected at least one radius, such as 8 / 255")
    radii = np.array([checks.radius(epsilon, norm) for epsilon in given])
    if (np.diff(radii) <= 0).any():
        place = int(np.argmax(np.diff(radii) <= 0))
        raise UserError(
            f"epsilons: {radii[place]:g}, then {radii[place + 1]:g}; expected ascending radii"
        )
    return radii
