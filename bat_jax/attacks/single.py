"""Runs a single attack on any number of images."""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from bat_jax import keys
from bat_jax.attacks import checks, chosen
from bat_jax.attacks.checks import GivenImages, GivenLabels, GivenRadius
from bat_jax.attacks.classifier import Images, LogitsFn
from bat_jax.attacks.engine import Engine, Loop
from bat_jax.attacks.geometry import Norm
from bat_jax.attacks.protocol import Attack
from bat_jax.keys import GivenKey


def run(
    create: Callable[[float], Attack],
    logits_fn: LogitsFn,
    images: GivenImages,
    labels: GivenLabels,
    key: GivenKey,
    *,
    epsilon: GivenRadius,
    norm: Norm,
    batch_size: int,
    num_targets: int = 0,
    target_classes: Sequence[int] | None = None,
    loop: Loop | None = None,
) -> Images:
    """Returns the adversarial images of one attack; arguments as in the attacks' own functions.

    `create` returns the attack in balls of a radius.
    With `num_targets` above 0, attacks towards that many of the highest-scoring wrong classes.
    """
    checks.whole("batch_size", batch_size, 1)
    host_images, host_labels = checks.inputs(images, labels, batch_size)
    radius, scale = checks.radii(epsilon, norm, len(host_labels))
    attack = create(radius)
    image_keys = keys.per_image(key, jnp.arange(len(host_labels)))
    engine = Engine(logits_fn, batch_size=batch_size, loop=loop)
    logits = engine.logits(host_images)
    checks.labels_in_range(host_labels, logits.shape[1])
    checks.enough_classes(type(attack).__name__, attack.min_classes, logits.shape[1])
    targets = strongest(logits, num_targets) if num_targets else host_labels[:, None]
    if target_classes is not None:
        classes = chosen.given(target_classes)
        chosen.check(classes, host_labels, logits.shape[1])
        targets = chosen.strongest(logits, host_labels, classes, num_targets)
        attack = chosen.Reaching(attack, classes)
    parts = [
        engine.run(
            attack,
            host_images[rows],
            host_labels[rows],
            targets[rows],
            image_keys[rows],
            None if scale is None else scale[rows],
        ).adversarial
        for rows in batches(np.arange(len(host_labels)), batch_size)
    ]
    return jnp.asarray(np.concatenate(parts))


def strongest(
    logits: Float[np.ndarray, "images classes"], count: int
) -> Int[np.ndarray, "images targets"]:
    """Returns the classes of the 2nd to (count + 1)-th largest logit, or as many as there are."""
    # NaN counts as the smallest logit; such an image is broken in any case.
    ranked = np.where(np.isnan(logits), -np.inf, logits)
    order = np.argsort(-ranked, axis=1, kind="stable")
    return order[:, 1 : count + 1].astype(np.int32)


def batches(rows: Int[np.ndarray, " rows"], batch_size: int) -> list[Int[np.ndarray, " batch"]]:
    """Cuts rows into as few batches as possible, whose sizes differ by at most one."""
    return np.array_split(rows, math.ceil(len(rows) / batch_size)) if len(rows) else []
