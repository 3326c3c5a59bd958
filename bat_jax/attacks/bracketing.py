"""How small a perturbation breaks each image: robust accuracy at many radii from one run."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from tqdm import tqdm

from bat_jax import keys
from bat_jax.attacks import checks, geometry, single, versions
from bat_jax.attacks.checks import GivenImages, GivenLabels
from bat_jax.attacks.classifier import HostImages, LogitsFn
from bat_jax.attacks.engine import Engine, Loop
from bat_jax.attacks.fab import FabTargeted
from bat_jax.attacks.geometry import Norm
from bat_jax.attacks.judge import Judge
from bat_jax.attacks.memory import fitting_batch
from bat_jax.attacks.versions import Name
from bat_jax.errors import UserError
from bat_jax.keys import GivenKey


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
      adversarial: the nearest adversarial image found, x where there is none.
    """

    epsilons: tuple[float, ...]
    lower: Float[np.ndarray, " images"]
    upper: Float[np.ndarray, " images"]
    fab: Float[np.ndarray, " images"] | None
    clean: Bool[np.ndarray, " images"]
    adversarial: HostImages = dataclasses.field(repr=False)

    def robust(self, epsilon: float) -> Bool[np.ndarray, " images"]:
        """Returns which images withstand a radius: no adversarial image is as near.

        The answer is that of attacks at the radii `epsilons`, and an upper bound between them. An
        image that is broken at a radius is broken at every larger one.

        Raises:
          UserError: a radius below 0, or larger than all that images were attacked at.
        """
        if not 0 <= epsilon <= self.epsilons[-1]:
            raise UserError(
                f"epsilon: {epsilon}; expected 0 to {self.epsilons[-1]:g}, the largest radius that"
                " images were attacked at"
            )
        return self.clean & (self.upper > epsilon)


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
      progress: whether to show a progress bar.
      loop: see `bat_jax.attacks.engine.Engine`.
      devices: the devices that share each batch; defaults to all local ones.

    Raises:
      UserError: inputs that are not as described.
    """
    x, y = checks.inputs(images, labels, batch_size)
    radii = _radii(epsilons, norm)
    chosen = versions.names("standard", attacks)
    checks.takes_key(logits_fn, is_random=False)
    image_keys = keys.per_image(key, jnp.arange(len(y)))
    if batch_size is None:
        batch_size = fitting_batch(logits_fn, x.shape[1:], devices)
    engine = Engine(logits_fn, batch_size=batch_size, loop=loop, devices=devices)
    judge = Judge(engine, y, image_keys, None)
    logits, is_correct = judge(x, np.arange(len(y)), 0)
    checks.labels_in_range(y, logits.shape[1])
    checks.warn_if_random(logits_fn, x[:16])
    checks.warn_if_probabilities(logits)
    names = versions.possible(chosen, logits.shape[1])
    strongest = single.strongest(logits, versions.NUM_TARGETS)
    search = _Search(engine, judge, norm, x, y, image_keys, radii, is_correct, progress)
    fab = None
    if "fab-t" in names:
        search.to_the_nearest(strongest)
        fab = search.distance.copy()
    others = [name for name in names if name != "fab-t"]
    starts = versions.starts("standard", norm, None, others)
    rounds = [
        versions.rounds(name, "standard", norm, starts[name], y, strongest) for name in others
    ]
    search.bisect(others, rounds)
    return MinimalNorms(
        epsilons=tuple(radii.tolist()),
        lower=np.concatenate([[0.0], radii])[search.withstood],
        upper=search.distance,
        fab=fab,
        clean=is_correct,
        adversarial=search.adversarial,
    )


class _Search:
    """The radii that are still possible for every image.

    Attributes:
      adversarial: the nearest adversarial image found, else x.
      distance: its distance, as far as it counts; infinite if there is none.
      withstood: how many of the radii the image withstands.
      broken_at: the place of the smallest radius that breaks it, or the number of radii.
    """

    def __init__(
        self,
        engine: Engine,
        judge: Judge,
        norm: Norm,
        images: HostImages,
        labels: Int[np.ndarray, " images"],
        image_keys: Key[Array, " images"],
        radii: Float[np.ndarray, " radii"],
        is_correct: Bool[np.ndarray, " images"],
        progress: bool,
    ) -> None:
        self._engine, self._judge, self._norm = engine, judge, norm
        self._images, self._labels, self._keys = images, labels, image_keys
        self._radii, self._progress = radii, progress
        self._flat: dict[str, Bool[np.ndarray, " images"]] = {}
        self.adversarial = images.copy()
        self.distance = np.where(is_correct, np.inf, 0.0)
        self.withstood = np.zeros(len(labels), int)
        self.broken_at = np.where(is_correct, len(radii), 0)

    def to_the_nearest(self, targets: Int[np.ndarray, "images targets"]) -> None:
        """Runs FAB-T towards every target, within the distance that is known already."""
        attack = FabTargeted(1.0, self._norm, to_the_end=True)
        rows = np.flatnonzero(self.distance > 0)
        with self._bar("fab-t", len(rows)) as bar:
            for part in single.batches(rows, self._engine.batch_size):
                for target in targets.T:
                    self._run("fab-t", attack, target[part, None], part, self.distance[part])
                bar.update(len(part))
        self._warn()

    def bisect(self, names: Sequence[str], rounds: Sequence[Int[np.ndarray, "images _"]]) -> None:
        """Attacks images at the middle of their possible radii until one radius is left."""
        attacks = [versions.create(name, 1.0, self._norm) for name in names]
        most = math.ceil(math.log2(len(self._radii) + 1))
        for number in range(most if names else 0):
            rows = np.flatnonzero(self.withstood < self.broken_at)
            with self._bar(f"bisection {number + 1} of {most}", len(rows)) as bar:
                for part in single.batches(rows, self._engine.batch_size):
                    middle = (self.withstood[part] + self.broken_at[part]) // 2
                    for name, attack, targets in zip(names, attacks, rounds, strict=True):
                        left = self.broken_at[part] > middle
                        if left.any():
                            some, radii = part[left], self._radii[middle[left]]
                            self._run(name, attack, targets[some], some, radii)
                    stands = self.broken_at[part] > middle
                    self.withstood[part[stands]] = middle[stands] + 1
                    bar.update(len(part))
        # Of FAB-T alone, or where a nearer image was found than a radius withstood.
        self.withstood = self.broken_at if not names else np.minimum(self.withstood, self.broken_at)
        self._warn()

    def _run(
        self,
        name: str,
        attack: versions.Attack,
        targets: Int[np.ndarray, "batch rounds"],
        rows: Int[np.ndarray, " batch"],
        radii: Float[np.ndarray, " batch"],
    ) -> None:
        """Attacks images, each in a ball of its own, and records nearer adversarial images."""
        x = self._images[rows]
        scale = radii.astype(np.float32)
        outcome = self._engine.run(attack, x, self._labels[rows], targets, self._keys[rows], scale)
        flat = self._flat.setdefault(name, np.zeros(len(self._labels), bool))
        flat[rows] |= outcome.flat
        claimed = np.flatnonzero(outcome.found)
        if not len(claimed):
            return
        found, x, radii, rows = (
            outcome.adversarial[claimed],
            x[claimed],
            radii[claimed],
            rows[claimed],
        )
        _, is_correct = self._judge(found, rows, 1)
        # What exceeds the radius by rounding alone counts at the radius.
        distance = np.minimum(geometry.distances(found, x, self._norm), radii)
        is_nearer = ~is_correct & geometry.within(found, x, radii, self._norm)
        is_nearer &= distance < self.distance[rows]
        nearer = rows[is_nearer]
        self.adversarial[nearer] = found[is_nearer]
        self.distance[nearer] = distance[is_nearer]
        self.broken_at[nearer] = np.searchsorted(self._radii, distance[is_nearer])

    def _bar(self, title: str, total: int) -> tqdm:
        return tqdm(total=total, desc=title, unit="image", disable=not self._progress)

    def _warn(self) -> None:
        """Warns of zero gradients, once per attack."""
        for name, flat in self._flat.items():
            checks.warn_of_flat(name, flat)
        self._flat = {}


def _radii(
    epsilons: Sequence[float] | Float[np.ndarray, " radii"], norm: str
) -> Float[np.ndarray, " radii"]:
    """Returns the radii in float64.

    Raises:
      UserError: none, or radii that are not above 0 and ascending.
    """
    radii = np.asarray(list(epsilons), np.float64)
    if not len(radii):
        raise UserError("epsilons: none; expected at least one radius, such as 8 / 255")
    for epsilon in radii.tolist():
        checks.radius(epsilon, norm)
    if (np.diff(radii) <= 0).any():
        place = int(np.argmax(np.diff(radii) <= 0))
        raise UserError(
            f"epsilons: {radii[place]:g}, then {radii[place + 1]:g}; expected ascending radii"
        )
    return radii
