"""How many images fit in memory at a time."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from bat_jax.attacks.classifier import Images, LogitsFn, RandomLogitsFn
from bat_jax.attacks.traced_model import TracedModel
from bat_jax.data.device import free_bytes
from bat_jax.errors import UserError

# No more than this, which keeps a device busy.
_MOST = 256
# The share of the free memory that a batch may take.
_SHARE = 0.5
# The state of an attack and its intermediate results, in float32 arrays of the size of an image.
_ARRAYS = 40
# How many images the model's own memory is measured with.
_PROBE = 8


def fitting_batch(
    logits_fn: LogitsFn | RandomLogitsFn,
    image_shape: tuple[int, ...],
    devices: Sequence[jax.Device] | None = None,
    key_impl: Any = None,
) -> int:
    """Returns the largest power of two of images that fit, at most 256.

    An image takes what the logits and their gradient need, as the compiler reports it for a batch
    of 8, divided by 8, and 40 arrays of its own size. A batch takes at most half of the memory that
    is free on each of the devices.

    Args:
      logits_fn: [0, 1] images, NHWC, to logits; with a `key_impl`, of images and a key.
      image_shape: of one image.
      devices: those that share a batch; defaults to all local ones.
      key_impl: the implementation of keys that a randomised model takes.

    Raises:
      UserError: a single image per device does not fit.
    """
    devices = jax.local_devices() if devices is None else devices
    needed = bytes_per_image(logits_fn, image_shape, key_impl)
    free = min(free_bytes(device) for device in devices)
    count = int(_SHARE * free / needed) * len(devices)
    if count < len(devices):
        raise UserError(
            f"images: one of shape {image_shape} needs {needed / 2**30:.3f} GiB in an attack, and a"
            f" device has {free / 2**30:.3f} GiB free, of which half may be used: use a smaller"
            " model, or give batch_size to try more"
        )
    return min(2 ** int(math.log2(count)), _MOST)


def bytes_per_image(
    logits_fn: LogitsFn | RandomLogitsFn, image_shape: tuple[int, ...], key_impl: Any = None
) -> float:
    """Returns the memory that an attack takes for each image of a batch, without parameters."""
    model = TracedModel(logits_fn, lambda array: array, key_impl)
    shape = (_PROBE, *image_shape)

    def gradient(constants: list[Array], images: Images, *keys: Array) -> Images:
        logits, pull = jax.vjp(lambda x: model.bound(shape, constants)(x, *keys), images)
        (found,) = pull(logits)
        return found

    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32)]
    if key_impl is not None:
        key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0, impl=key_impl), _PROBE))
        inputs.append(key)
    compiled = jax.jit(gradient).lower(model.constants(shape), *inputs).compile()
    analysis = compiled.memory_analysis()
    temporary = analysis.temp_size_in_bytes if analysis is not None else 0
    return temporary / _PROBE + _ARRAYS * 4 * math.prod(image_shape)
