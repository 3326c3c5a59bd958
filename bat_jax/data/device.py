"""Data sets on devices, and the epoch order, batches, crops and flips computed there."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Int32, Key, UInt8

from bat_jax import keys, parallel
from bat_jax.data import extra as extra_images
from bat_jax.data.dataset import Split, check_ids
from bat_jax.errors import UserError
from bat_jax.runtime import memory

# The fraction of a device's free memory that a program may plan to use.
USABLE = 0.8
# The logarithm of the largest ratio of the sides of a resized crop, 4 / 3.
_LOG_RATIO = math.log(4 / 3)


class DeviceSplit(NamedTuple):
    """A split as device arrays, replicated on every device.

    Attributes:
      images: uint8, NHWC.
      labels: int32.
      ids: int32, the positions in the source's order.
      memorization: mem(i) by row, NaN where unknown; all NaN without estimates.
    """

    images: UInt8[Array, "examples height width channels"]
    labels: Int32[Array, " examples"]
    ids: Int32[Array, " examples"]
    memorization: Float[Array, " examples"]

    def own(
        self, rows: Int32[Array, " batch"], places: Int[Array, " share"]
    ) -> UInt8[Array, "share height width channels"]:
        """Returns this device's share of the images of a batch.

        Args:
          rows: the rows of the whole batch.
          places: the positions of the share in the batch.
        """
        return self.images[rows[places]]

    def others(
        self, rows: Int32[Array, " batch"], places: Int[Array, " share"]
    ) -> UInt8[Array, "share height width channels"]:
        """Returns the images at any positions of a batch, also those of other devices."""
        return self.images[rows[places]]


class StreamedSplit(NamedTuple):
    """A split whose images stay on the host, except those of one batch.

    Attributes:
      batch: uint8, this device's share of the images of the batch.
      labels: as in `DeviceSplit`, for all examples.
      ids: as in `DeviceSplit`, for all examples.
      memorization: as in `DeviceSplit`, for all examples.
    """

    batch: UInt8[Array, "share height width channels"]
    labels: Int32[Array, " examples"]
    ids: Int32[Array, " examples"]
    memorization: Float[Array, " examples"]

    def own(
        self, rows: Int32[Array, " batch"], places: Int[Array, " share"]
    ) -> UInt8[Array, "share height width channels"]:
        """Returns this device's share of the images of the batch."""
        del rows, places
        return self.batch

    def others(
        self, rows: Int32[Array, " batch"], places: Int[Array, " share"]
    ) -> UInt8[Array, "share height width channels"]:
        """Returns the images at any positions of the batch, gathered from the devices."""
        del rows
        whole = jax.lax.all_gather(self.batch, parallel.AXIS, tiled=True)
        return whole[places]


TrainData = DeviceSplit | StreamedSplit


def to_devices(
    split: Split, mesh: Mesh, memorization: Float[np.ndarray, " examples"] | None = None
) -> DeviceSplit:
    """Puts a split on every device of the mesh.

    Raises:
      UserError: it would take more than 80 % of a device's free memory, or an id is out of range.
    """
    check_ids("data", split.ids)
    if memorization is None:
        memorization = np.full(len(split), np.nan, np.float32)
    needed = bytes_of(split)
    what = f"data: {len(split)} images need {needed / 2**30:.3f} GiB on every device"
    check_fits(needed, mesh, what)
    arrays = (
        np.asarray(split.images),
        split.labels,
        split.ids.astype(np.int32),
        np.float32(memorization),
    )
    return DeviceSplit(*parallel.replicate(arrays, mesh))


def bytes_of(split: Split) -> int:
    """Returns how many bytes a split takes on a device."""
    return split.images.nbytes + split.labels.nbytes * 3


def is_too_large(split: Split, mesh: Mesh) -> bool:
    """Returns whether a split would take more than 80 % of the free memory of a device."""
    # Devices of another machine, for which programs are only compiled, report no memory.
    ours = set(jax.local_devices())
    free = [free_bytes(device) for device in mesh.devices.flat if device in ours]
    return bool(free) and bytes_of(split) > USABLE * min(free)


def without_images(split: Split) -> Split:
    """Returns a split with the same labels and ids, but without the pixels of its images."""
    empty = np.zeros((len(split), 0, 0, split.images.shape[-1]), np.uint8)
    return Split(empty, split.labels, split.ids)


def shapes(split: Split) -> Any:
    """Returns the shapes and dtypes of a split on a device, for compilation."""
    return jax.eval_shape(
        lambda: DeviceSplit(
            jnp.zeros(split.images.shape, jnp.uint8),
            jnp.zeros(len(split), jnp.int32),
            jnp.zeros(len(split), jnp.int32),
            jnp.zeros(len(split)),
        )
    )


def check_fits(needed: int, mesh: Mesh, what: str) -> None:
    """Checks that arrays kept for every image fit on each device of this process.

    Args:
      needed: the bytes of the arrays.
      mesh: the devices.
      what: the statement of what needs these bytes, for messages.

    Raises:
      UserError: they would take more than 80 % of a device's free memory.
    """
    for device in mesh.local_devices:
        free = free_bytes(device)
        if needed > USABLE * free:
            raise UserError(
                f"{what}, and {device} has {free / 2**30:.3f} GiB free; expected at most 80 % of"
                " it: use fewer images (config.data.subset)"
            )


def free_bytes(device: jax.Device) -> int:
    """Returns the free memory of a device in bytes."""
    stats = device.memory_stats()
    if stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    # The CPU back end has no memory statistics: its devices share the machine's free memory.
    return memory.available() // jax.local_device_count()


def epoch_order(
    seed: keys.Seed,
    epoch: Int[Array, ""] | int,
    *,
    examples: int,
    batch_size: int,
    extra: int = 0,
    extra_each: int = 0,
) -> Int32[Array, "steps batch_size"]:
    """Returns the rows of every batch of an epoch, a pure function of (seed, epoch).

    Rows at the end of the permutation that do not fill a batch are left out of the epoch. Extra
    images do not change the number of batches, `examples // batch_size`.

    Args:
      seed: the seed of the run.
      epoch: the number of the epoch.
      examples: the number of training images.
      batch_size: the size of the global batch.
      extra: the number of extra images; their rows begin at `examples`.
      extra_each: the number of extra images in each batch, drawn with replacement.
    """
    order = jax.random.permutation(keys.derive(seed, keys.Purpose.ORDER, epoch), examples)
    steps, own = examples // batch_size, batch_size - extra_each
    rows = order[: steps * own].reshape(steps, own)
    if not extra_each:
        return rows
    key = keys.derive(seed, keys.Purpose.EXTRA_ORDER, epoch)
    drawn = jax.random.randint(key, (steps, extra_each), examples, examples + extra, rows.dtype)
    together = jnp.concatenate([rows, drawn], axis=1)
    return together[:, extra_images.places(batch_size, extra_each)]


def to_unit(
    images: UInt8[Array, "batch height width channels"],
) -> Float[Array, "batch height width channels"]:
    """Returns uint8 images as float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255.0


def augment(
    images: Float[Array, "batch height width channels"],
    image_keys: Key[Array, " batch"],
    *,
    crop_padding: int,
    flip: bool,
    resized_crop: float | None = None,
) -> Float[Array, "batch height width channels"]:
    """Returns random crops of zero-padded images, flipped left to right half of the time.

    Args:
      images: NHWC.
      image_keys: one key per image.
      crop_padding: pixels added on every side before a crop of the original size; 0 disables crops.
      flip: whether to flip.
      resized_crop: the smallest share of the area of crops that are resized to the original size;
        None disables them.
    """

    def one(
        image: Float[Array, "height width channels"], key: Key[Array, ""]
    ) -> Float[Array, "height width channels"]:
        crop_key, flip_key = jax.random.split(key)
        if crop_padding:
            pad = (crop_padding, crop_padding)
            corner = jax.random.randint(crop_key, (2,), 0, 2 * crop_padding + 1)
            image = jax.lax.dynamic_slice(
                jnp.pad(image, (pad, pad, (0, 0))), (corner[0], corner[1], 0), image.shape
            )
        if resized_crop is not None:
            image = _cropped(image, crop_box(crop_key, image.shape, smallest=resized_crop))
        if flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        return image

    return jax.vmap(one)(images, image_keys)


class Box(NamedTuple):
    """A part of an image, in pixels, possibly fractions of them."""

    top: Float[Array, ""]
    left: Float[Array, ""]
    height: Float[Array, ""]
    width: Float[Array, ""]


def crop_box(key: Key[Array, ""], shape: tuple[int, ...], *, smallest: float) -> Box:
    """Draws a box: its share of the area, then its width / height, then its place.

        share ~ U(smallest, 1),   log(width / height) ~ U(log 3/4, log 4/3)

    A side longer than the image is cut to the image.

    Args:
      key: the key of the draws.
      shape: the shape of the image, which begins with its height and width.
      smallest: the smallest share of the area.

    References:
      Szegedy et al., Going Deeper with Convolutions, arXiv:1409.4842
    """
    share_key, ratio_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(share_key, (), minval=smallest, maxval=1.0) * (shape[0] * shape[1])
    log_ratio = jax.random.uniform(ratio_key, (), minval=-_LOG_RATIO, maxval=_LOG_RATIO)
    height = jnp.minimum(jnp.sqrt(area * jnp.exp(-log_ratio)), float(shape[0]))
    width = jnp.minimum(jnp.sqrt(area * jnp.exp(log_ratio)), float(shape[1]))
    place = jax.random.uniform(place_key, (2,))
    return Box(place[0] * (shape[0] - height), place[1] * (shape[1] - width), height, width)


def _cropped(
    image: Float[Array, "height width channels"], box: Box
) -> Float[Array, "height width channels"]:
    """Returns the box of an image, resized bilinearly to the image's size."""
    scale = jnp.stack([image.shape[0] / box.height, image.shape[1] / box.width])
    corner = jnp.stack([box.top, box.left])
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), scale, -corner * scale, "linear"
    )
