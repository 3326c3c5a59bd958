"""AutoAttack: the per-image worst case of four attacks.

Source: Croce & Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
Parameter-free Attacks, arXiv:2003.01690.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bat_jax import keys
from bat_jax.attacks import checks, sampling, single, versions
from bat_jax.attacks import chosen as chosen_classes
from bat_jax.attacks.checks import GivenImages, GivenLabels, GivenRadius
from bat_jax.attacks.chosen import Reaching
from bat_jax.attacks.classifier import LogitsFn, RandomLogitsFn
from bat_jax.attacks.engine import Engine, Loop
from bat_jax.attacks.geometry import Norm
from bat_jax.attacks.judge import Judge
from bat_jax.attacks.memory import fitting_batch
from bat_jax.attacks.result import Result, result_of
from bat_jax.attacks.schedule import Schedule
from bat_jax.attacks.verdict_file import VerdictFile, batch_size_of, digest
from bat_jax.attacks.verdicts import Verdicts
from bat_jax.attacks.versions import STANDARD as STANDARD
from bat_jax.attacks.versions import Name, Version
from bat_jax.keys import GivenKey
from bat_jax.runtime.storage import as_path


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
    gradient. The iterate of all starts that most draws misclassify is then judged by draws of its
    own: an image is broken if at most half of them classify x, or x', correctly. Every image has
    its own draws.

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
    checks.each_device(devices)
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
    batch_size = (
        batch_size
        or batch_size_of(path)
        or fitting_batch(logits_fn, host_images.shape[1:], devices, key_impl)
    )
    engine = Engine(logits_fn, batch_size=batch_size, loop=loop, devices=devices, key_impl=key_impl)
    classes = None if target_classes is None else chosen_classes.given(target_classes)
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

    attack_list = [
        versions.create(name, radius, norm, version, eot, starts[name]) for name in names
    ]
    num_rounds = starts if eot is None else dict.fromkeys(names, 1)
    strongest = single.strongest(logits, versions.NUM_TARGETS)
    if classes is not None:
        attack_list = [Reaching(attack, classes) for attack in attack_list]
        strongest = chosen_classes.strongest(logits, host_labels, classes, versions.NUM_TARGETS)
    schedule = Schedule(
        search,
        engine,
        judge,
        attack_list,
        names,
        host_images,
        host_labels,
        [
            versions.rounds(name, version, norm, num_rounds[name], host_labels, strongest)
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
        schedule.run_whole(number)
    sample = None
    if ranks is not None and verdicts.attack < len(names):
        sample = schedule.run_sampled(ranks, tolerance, confidence)
    if file is not None:
        file.write(verdicts)
    return result_of(names, verdicts, sample, draws=judge.draws, eot=eot, classes=classes)
