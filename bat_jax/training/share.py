"""One device's share of a batch: its rows, augmented and mixed images, and their targets."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32, Key
from ml_collections import ConfigDict

from bat_jax import keys, losses
from bat_jax.data import mixing
from bat_jax.data.device import TrainData, augment, to_unit
from bat_jax.methods import Method
from bat_jax.parallel import AXIS
from bat_jax.training.schedules import warmth

Images = Float[Array, "batch height width channels"]
Targets = Float[Array, "batch classes"]


class Share(NamedTuple):
    """One device's share of the batch that a step trains on.

    Attributes:
      places: positions of its images in the global batch.
      batch_rows: rows of the whole batch in the training split.
      rows: rows of this share in the training split.
      images: augmented, in [0, 1].
      labels: class indices.
      targets: soft targets that replace the labels, if the method has them.
      epoch: epochs completed before this step, including the fraction.
      scale: the factor of epsilon, if it warms up.
      before: what the method's `before` returned.
    """

    places: Int[Array, " batch"]
    batch_rows: Int32[Array, " global_batch"]
    rows: Int32[Array, " batch"]
    images: Images
    labels: Int[Array, " batch"]
    targets: Targets | None
    epoch: Float[Array, ""]
    scale: Float[Array, ""] | None = None
    before: Any = None


def epochs_before(step: Int32[Array, ""], steps_per_epoch: int) -> Float[Array, ""]:
    """Returns the epochs that end before a step, with the fraction; whole at the end of an epoch.

    XLA multiplies by the rounded reciprocal of a constant, so that `step / steps_per_epoch` can
    stay below the whole number.
    """
    whole, rest = jnp.divmod(step, steps_per_epoch)
    return whole.astype(jnp.float32) + rest / steps_per_epoch


def share_of(
    step: Int32[Array, ""],
    data: TrainData,
    order: Int32[Array, "steps batch_size"],
    root: Key[Array, ""],
    config: ConfigDict,
    method: Method,
) -> Share:
    """Returns this device's share of the batch of a step, with augmented images.

    Args:
      step: the number of steps before this one.
      data: the training split.
      order: rows of the epoch's batches, from `epoch_order`.
      root: the root key of all random draws.
      config: the whole config; `attack`, `data` and `train` are read.
      method: the training method, which may have targets of its own.
    """
    steps_per_epoch, batch_size = order.shape
    size = batch_size // jax.lax.axis_size(AXIS)
    places = jax.lax.axis_index(AXIS) * size + jnp.arange(size)
    batch_rows = order[step % steps_per_epoch]
    rows = batch_rows[places]
    labels = data.labels[rows]
    key = keys.derive(root, keys.Purpose.AUGMENTATION, step)

    def augmented(places: Int[Array, " batch"], *, own: bool) -> Images:
        take = data.own if own else data.others
        return augment(
            to_unit(take(batch_rows, places)),
            keys.per_image(key, places),
            crop_padding=config.data.crop_padding,
            flip=config.data.flip,
            resized_crop=config.data.resized_crop,
        )

    def soft(labels: Int[Array, " batch"]) -> Targets:
        amount = config.train.label_smoothing
        return losses.label_smoothing(labels, method.setup.num_classes, amount=amount)

    images = augmented(places, own=True)
    targets = soft(labels) if config.train.label_smoothing else method.targets(labels)
    if config.data.cutmix:
        mix_key = keys.derive(root, keys.Purpose.MIXING, step)
        mix = mixing.draw(mix_key, batch_size, *images.shape[1:3])
        others = mix.permutation[places]
        images, targets = mixing.mixed(
            images,
            augmented(others, own=False),
            soft(labels),
            soft(data.labels[batch_rows[others]]),
            center=mix.center,
            size=mix.size,
        )
    epoch = epochs_before(step, steps_per_epoch)
    warmup_steps = config.attack.warmup_epochs * steps_per_epoch
    scale = warmth(step, warmup_steps) if warmup_steps else None
    return Share(places, batch_rows, rows, images, labels, targets, epoch, scale=scale)
