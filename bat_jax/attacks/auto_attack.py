"""AutoAttack: the per-image worst case of four attacks.

Source: Croce & Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
Parameter-free Attacks, arXiv:2003.01690.
"""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt64
from tqdm import tqdm

from bat_jax import keys
from bat_jax.attacks import anytime, checks, geometry, sampling, single, versions
from bat_jax.attacks import chosen as chosen_classes
from bat_jax.attacks.checks import GivenImages, GivenLabels, GivenRadius
from bat_jax.attacks.chosen import Reaching
from bat_jax.attacks.classifier import HostImages, LogitsFn, RandomLogitsFn
from bat_jax.attacks.engine import Attack, Engine, Loop, Outcome
from bat_jax.attacks.geometry import Norm
from bat_jax.attacks.judge import Judge
from bat_jax.attacks.memory import fitting_batch
from bat_jax.attacks.sampling import Sample
from bat_jax.attacks.verdicts import (
    CLEAN_ERROR,
    STANDING,
    VerdictFile,
    Verdicts,
    batch_size_of,
    digest,
)
from bat_jax.attacks.versions import STANDARD as STANDARD
from bat_jax.attacks.versions import WHITE_BOX, Name, Version
from bat_jax.errors import UserError
from bat_jax.keys import GivenKey
from bat_jax.runtime.storage import as_path


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


def autoattack(
    logits_fn: LogitsFn | RandomLogitsFn,
    images: GivenImages,
    labels: GivenLabels,
    key: GivenKey,
    *,
    epsilon: GivenRadius,
    norm: Norm = "linf",
    version: Version = "standard",
    attacks: Sequence[Name] | None = None,
    restarts: Mapping[Name, int] | None = None,
    eot: int | None = None,
    draws: int = 21,
    target_classes: Sequence[int] | None = None,
    batch_size: int | None = 256,
    path: str | os.PathLike[str] | None = None,
    keep_adversarial: bool = True,
    tolerance: float | None = None,
    confidence: float = 0.95,
    progress: bool = False,
    loop: Loop | None = None,
    devices: Sequence[jax.Device] | None = None,
    search_fn: LogitsFn | None = None,
) -> Result:
    """Runs a sequence of attacks, each on the images not yet broken.

    An image is broken if the model, in a separate evaluation, misclassifies x', where
    ||x' - x|| <= epsilon and x' is in [0, 1]. Images misclassified without any attack count as
    broken, as do images whose logits are NaN. Everything is computed in float32 at the highest
    matrix precision; the logits function should compute in float32 too.

    Random draws belong to the images, so the same key gives the same draws for any batch size and
    number of devices; verdicts then agree up to float rounding.

    With a tolerance, `fab-t` and `square` are run, batch by batch, on images drawn at random from
    those that withstood the attacks before, until the interval of the robust accuracy on all
    `images` is no wider than the tolerance; `bat_jax.attacks.anytime` has the formula. An image
    that was not drawn counts as robust in `Result.robust`, not in `Result.interval`. Calls with the
    same path continue: with a smaller tolerance, or with None to the exact verdict.

    With a `search_fn`, the attacks evaluate that function, at the back end's default precision of
    matrix products, and `logits_fn` at the highest decides on every image they return: only if it
    is wrong there, the image is broken. An image of which it is right was broken by rounding; it is
    attacked again through `logits_fn`.

    A randomised model, `logits_fn(images, key)`, is attacked by the version `rand`, or by an `eot`:
    each iterate is evaluated in that many draws, and the attack follows the means of loss and
    gradient. The iterate that most draws misclassify is then judged by draws of its own: an image
    is broken if at most half of them classify x, or x', correctly. Every image has its own draws.

    With target classes, an image that the model classifies correctly is broken only by an x' that
    it classifies as one of them: all attacks then search for those (`bat_jax.attacks.chosen`).

    Args:
      logits_fn: [0, 1] images, NHWC, to logits; any JAX function, closed over its parameters. It
        must treat images independently and be deterministic, with `eot` given the key.
      images: x, shape `[images, height, width, channels]`, float32 in [0, 1].
      labels: y, shape `[images]`.
      key: a single key, or one key per image to make draws independent of the position in `images`.
      epsilon: radius of the ball, in units of the [0, 1] pixel scale, such as 8 / 255; or
        one per image, shape `[images]`.
      norm: `linf`, `l2` or `l1`.
      version: `standard`; `plus`, with more attacks and 5 starts of the untargeted ones; or `rand`,
        for randomised models: `apgd-ce` and `apgd-dlr`, `eot` of 20.
      attacks: which to run, in order, instead of those of the version.
      restarts: how often attacks start, by name, instead of as often as in the version.
      eot: for a randomised model, its draws per iterate; of `apgd-ce` and `apgd-dlr` only.
      draws: for a randomised model, how many further draws vote on every image.
      target_classes: the classes that attacks must reach, other than the label; None for any.
      batch_size: how many images to attack at a time, over all devices together; None for as many
        as fit in memory, at most 256 (`bat_jax.attacks.memory`).
      path: an .npz file that the verdicts are written to after every batch. If it exists, the
        evaluation resumes from it.
      keep_adversarial: whether the result contains x', which takes as much memory as `images` and,
        with a path, a file beside it.
      tolerance: how wide the interval of the robust accuracy may be, such as 0.003 for 0.3 points;
        None runs all attacks.
      confidence: the probability that the interval contains the robust accuracy.
      progress: whether to show a progress bar per attack, with the number of robust images.
      loop: see `bat_jax.attacks.engine.Engine`.
      devices: the devices that share each batch; defaults to all local ones.
      search_fn: the model in a lower precision, such as the same network in bfloat16; or
        `logits_fn` itself, for TensorFloat-32 on GPUs that have it. Of deterministic models only.

    Returns:
      The verdicts, as NumPy arrays in the order of `images`.

    Raises:
      UserError: inputs that are not as described, or a file of another evaluation.
    """
    host_images, host_labels = checks.inputs(images, labels, batch_size)
    radius, scale = checks.radii(epsilon, norm, len(host_labels))
    chosen = versions.names(version, attacks)
    starts = versions.starts(version, norm, restarts, chosen)
    eot = versions.draws_per_iterate(version, eot, draws, chosen)
    checks.takes_key(logits_fn, is_random=eot is not None)
    checks.searches(search_fn, is_random=eot is not None)
    sampling.check(tolerance, confidence, chosen)
    image_keys = keys.per_image(key, jnp.arange(len(host_labels)))
    ranks = None if tolerance is None else sampling.ranks(image_keys)
    key_impl = None if eot is None else jax.random.key_impl(image_keys)
    if batch_size is None and path is not None:
        batch_size = batch_size_of(as_path(path))
    if batch_size is None:
        batch_size = fitting_batch(logits_fn, host_images.shape[1:], devices, key_impl)
    engine = Engine(logits_fn, batch_size=batch_size, loop=loop, devices=devices, key_impl=key_impl)
    classes = None if target_classes is None else tuple(target_classes)
    judge = Judge(engine, host_labels, image_keys, None if eot is None else draws, classes)
    logits, is_correct = judge(host_images, np.arange(len(host_labels)), 0)
    num_classes = logits.shape[1]
    checks.labels_in_range(host_labels, num_classes)
    if classes is not None:
        chosen_classes.check(classes, host_labels, num_classes, chosen)
    checks.warn_if_random(logits_fn, host_images[:16], None if eot is None else image_keys[0])
    checks.warn_if_probabilities(logits)
    search = engine
    if search_fn is not None:
        search = Engine(
            search_fn, batch_size=batch_size, loop=loop, devices=devices, precision="default"
        )
        checks.same_model(search.logits(host_images[:batch_size]), logits[:batch_size])

    names = versions.possible(chosen, num_classes)
    adversarial = host_images.copy() if keep_adversarial else None
    verdicts = Verdicts(logits, is_correct, len(names), adversarial)
    file = None
    if path is not None:
        settings: dict[str, Any] = {
            "epsilon": float(radius) if scale is None else digest(scale),
            "norm": norm,
            "attacks": names,
            "batch_size": batch_size,
            "keep_adversarial": keep_adversarial,
            "images": digest(host_images, host_labels),
            "key": digest(np.asarray(jax.random.key_data(image_keys))),
        }
        if version != "standard":
            settings["version"] = version
        if restarts is not None:
            settings["starts"] = [starts[name] for name in names]
        if eot is not None:
            settings |= {"eot": eot, "draws": draws}
        if classes is not None:
            settings["target_classes"] = [int(one) for one in classes]
        if search_fn is not None:
            settings["search_fn"] = True
        file = VerdictFile(as_path(path), settings)
        file.resume(verdicts, host_images)

    attack_list = [versions.create(name, radius, norm, version, eot) for name in names]
    strongest = single.strongest(logits, versions.NUM_TARGETS)
    if classes is not None:
        attack_list = [Reaching(attack, classes) for attack in attack_list]
        strongest = chosen_classes.strongest(logits, host_labels, classes, versions.NUM_TARGETS)
    evaluation = _Evaluation(
        search,
        engine,
        judge,
        attack_list,
        names,
        host_images,
        host_labels,
        [
            versions.rounds(name, version, norm, starts[name], host_labels, strongest)
            for name in names
        ],
        image_keys,
        scale,
        verdicts,
        file,
        progress,
    )
    # A sample that has begun goes on in its order.
    if verdicts.drawn and ranks is None:
        ranks = sampling.ranks(image_keys)
    num_whole = len(names) if ranks is None else sampling.num_whole(names)
    for number in range(verdicts.attack, num_whole):
        evaluation.run_whole(number)
    sample = None
    if ranks is not None and verdicts.attack < len(names):
        sample = evaluation.run_sampled(ranks, tolerance, confidence)
    if file is not None:
        file.write(verdicts)
    return _result(names, verdicts, sample, draws=judge.draws, eot=eot, classes=classes)


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """The attacks on all images, and the verdicts so far.

    The attacks run in `search`; images that it breaks and `judge` does not are attacked in `exact`.
    """

    search: Engine
    exact: Engine
    judge: Judge
    attacks: Sequence[Attack]
    names: Sequence[str]
    images: HostImages
    labels: Int[np.ndarray, " images"]
    targets: Sequence[Int[np.ndarray, "images _"]]
    keys: Key[Array, " images"]
    scale: Float[np.ndarray, " images"] | None
    verdicts: Verdicts
    file: VerdictFile | None
    progress: bool

    def run_whole(self, number: int) -> None:
        """Runs the rest of one attack on all images that withstood the previous ones."""
        verdicts = self.verdicts
        rows = verdicts.left_for(number)
        parts = single.batches(rows, self.exact.batch_size)
        with self._bar(self.names[number], len(rows)) as bar:
            bar.update(sum(len(part) for part in parts[: verdicts.batches]))
            for part in parts[verdicts.batches :]:
                bar.set_postfix(standing=int((verdicts.broken_by == STANDING).sum()))
                self._run(number, part)
                verdicts.batches += 1
                bar.update(len(part))
                self._write()
        verdicts.attack, verdicts.batches = number + 1, 0

    def run_sampled(
        self, ranks: UInt64[np.ndarray, " images"], tolerance: float | None, confidence: float
    ) -> Sample | None:
        """Runs the current and all following attacks on a growing sample.

        Returns:
          The sample, or None once every image is drawn.
        """
        verdicts, first = self.verdicts, self.verdicts.attack
        rows = verdicts.left_for(first)
        order = rows[np.argsort(ranks[rows])]
        # The current attack may have begun without a tolerance, on these images.
        is_attacked = np.zeros(len(self.labels), bool)
        for part in single.batches(rows, self.exact.batch_size)[: verdicts.batches]:
            is_attacked[part] = True
        found = Sample.of(tuple(self.names[first:]), order, confidence)
        found = found.extended(verdicts.broken_by[order[: verdicts.drawn]] != STANDING)
        width = 0.0 if tolerance is None else tolerance * len(self.labels)
        with self._bar(" and ".join(found.attacks), len(order)) as bar:
            bar.update(found.drawn)
            while found.drawn < len(order):
                if tolerance is not None and found.is_within(width):
                    return found
                rest = order[found.drawn :][: found.needed(width)]
                part = single.batches(rest, self.exact.batch_size)[0]
                for number in range(first, len(self.names)):
                    left = part[verdicts.broken_by[part] == STANDING]
                    self._run(number, left[~is_attacked[left]] if number == first else left)
                verdicts.drawn += len(part)
                found = found.extended(verdicts.broken_by[part] != STANDING)
                bar.set_postfix(broken="{} to {}".format(*found.limits))
                bar.update(len(part))
                self._write()
        verdicts.attack, verdicts.batches, verdicts.drawn = len(self.names), 0, 0
        return None

    def _run(self, number: int, rows: Int[np.ndarray, " batch"]) -> None:
        """Runs one attack on a batch, and verifies what it claims."""
        if not len(rows):
            return
        began = time.perf_counter()
        refuted = self._attacked(self.search, number, rows)
        if self.search is not self.exact and len(refuted):
            self._attacked(self.exact, number, refuted)
        self.verdicts.seconds[number] += time.perf_counter() - began

    def _attacked(
        self, engine: Engine, number: int, rows: Int[np.ndarray, " batch"]
    ) -> Int[np.ndarray, " refuted"]:
        """Attacks in one engine, and returns the images whose break is not confirmed."""
        x, y = self.images[rows], self.labels[rows]
        attack = self.attacks[number]
        scale = None if self.scale is None else self.scale[rows]
        outcome = engine.run(attack, x, y, self.targets[number][rows], self.keys[rows], scale)
        _verify(self.judge, attack, number, rows, x, scale, outcome, self.verdicts)
        return rows[outcome.found & (self.verdicts.broken_by[rows] == STANDING)]

    def _bar(self, title: str, total: int) -> tqdm:
        return tqdm(total=total, desc=title, unit="image", disable=not self.progress)

    def _write(self) -> None:
        if self.file is not None:
            self.file.write(self.verdicts)


def _verify(
    judge: Judge,
    attack: Attack,
    number: int,
    rows: Int[np.ndarray, " batch"],
    images: HostImages,
    scale: Float[np.ndarray, " batch"] | None,
    outcome: Outcome,
    verdicts: Verdicts,
) -> None:
    """Verifies an attack's images: re-evaluates the model and checks the constraint."""
    verdicts.flat[number, rows] = outcome.flat
    claimed = np.flatnonzero(outcome.found)
    if not len(claimed):
        return
    adversarial = outcome.adversarial[claimed]
    logits, is_correct = judge(adversarial, rows[claimed], number + 1)
    is_broken = ~is_correct
    radius = attack.epsilon if scale is None else attack.epsilon * scale[claimed]
    is_broken &= geometry.within(adversarial, images[claimed], radius, attack.norm)
    broken = rows[claimed[is_broken]]
    verdicts.broken_by[broken] = number
    verdicts.is_nan[broken] |= np.isnan(logits[is_broken]).any(axis=1)
    if verdicts.adversarial is not None:
        verdicts.adversarial[broken] = adversarial[is_broken]


def _result(
    names: Sequence[str],
    verdicts: Verdicts,
    sample: Sample | None,
    *,
    draws: int | None,
    eot: int | None,
    classes: tuple[int, ...] | None,
) -> Result:
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
        _adversarial=verdicts.adversarial,
    )


def _least(is_broken: Bool[np.ndarray, " images"], sample: Sample | None) -> int:
    """Returns how many images an attack broke, or, by a sample, would break at least."""
    if sample is None:
        return int(is_broken.sum())
    found = int(is_broken[sample.order[: sample.drawn]].sum())
    population = len(sample.order)
    return anytime.limits(population, sample.drawn, found, confidence=sample.confidence).low
