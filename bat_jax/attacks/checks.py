"""Input checks and warnings of attacks.

The warnings are those of Croce & Hein's implementation, for defences that its attacks do not
measure well, plus five: NaN logits, non-finite gradients, a ball larger than the box, a PGD
evaluation that AutoAttack contradicts, and a search in another function than the verdicts.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Key, Shaped

from bat_jax.attacks.classifier import HostImages, Images, Logits, LogitsFn, RandomLogitsFn
from bat_jax.errors import UserError

# Inputs from users: anything, because the checks report what is wrong.
GivenImages = Shaped[Array | np.ndarray, "..."]
GivenLabels = Shaped[Array | np.ndarray, "..."]
GivenRadius = float | Shaped[Array | np.ndarray, "..."]


NORMS = ("linf", "l2", "l1")


# The share of clean images that a model in another precision may classify differently.
_MOST_DIFFERENT = 0.05


class RobustnessWarning(UserWarning):
    """The robust accuracy may be misleading."""


def inputs(
    given_images: GivenImages, given_labels: GivenLabels, batch_size: int | None
) -> tuple[HostImages, Int[np.ndarray, " images"]]:
    """Validates images and labels, and returns them on the host."""
    images, labels = np.asarray(given_images), np.asarray(given_labels)
    if images.dtype != np.float32:
        raise UserError(
            f"images: {images.dtype}; expected float32 values in [0, 1]: divide integers by 255"
        )
    image_values(images)
    if not len(images):
        raise UserError("images: none; expected at least one")
    label_values(labels, len(images))
    if batch_size is not None:
        whole("batch_size", batch_size, 1)
    return images, labels.astype(np.int32)


def whole(name: str, value: int, least: int) -> None:
    """Raises a UserError unless a number is whole and at least some other."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise UserError(f"{name}: {value!r}; expected a whole number, {least} or more")


def each_device(devices: Sequence[jax.Device] | None) -> None:
    """Raises a UserError unless the devices that share a batch are given as such."""
    if devices is None:
        return
    is_list = isinstance(devices, Sequence) and len(devices) > 0
    if not (is_list and all(isinstance(device, jax.Device) for device in devices)):
        raise UserError(
            f"devices: {devices!r}; expected one or more of jax.devices(), or None for all local"
            " ones"
        )


def number(
    name: str, value: Any, expected: str, is_allowed: Callable[[float], bool] = lambda _: True
) -> float:
    """Returns a number as a float; raises a UserError unless it is one, and allowed."""
    is_scalar = isinstance(value, np.ndarray | jax.Array) and not value.ndim
    is_real = isinstance(value, Real) or (is_scalar and _is_real(value.dtype))
    if not is_real or isinstance(value, bool):
        raise UserError(f"{name}: {value!r}; expected {expected}")
    if not is_allowed(float(value)):
        raise UserError(f"{name}: {value}; expected {expected}")
    return float(value)


def _is_real(dtype: np.dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


def if_concrete(array: Shaped[Array | np.ndarray, "..."]) -> np.ndarray | None:
    """Returns the values of an array, or None if it is traced or not fully addressable."""
    if isinstance(array, jax.core.Tracer):
        return None
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return None
    return np.asarray(array)


def image_values(images: Shaped[np.ndarray, "..."]) -> None:
    """Rejects everything but floating-point NHWC images in [0, 1]."""
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"images: {images.dtype}; expected floating-point values in [0, 1]: divide integers by"
            " 255"
        )
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        advice = ""
        if images.ndim == 4 and images.shape[1] in (1, 3):
            advice = ": transpose(0, 2, 3, 1) puts the channels last"
        elif images.ndim == 3:
            advice = ": images[..., None] are gray images, image[None] is one image"
        raise UserError(
            f"images: shape {images.shape}; expected (images, height, width, 1 or 3"
            f" channels){advice}"
        )
    if np.any(np.isnan(images)):
        row = np.flatnonzero(np.any(np.isnan(images), axis=(1, 2, 3)))[0]
        raise UserError(f"images: image {row} holds NaN; expected values in [0, 1]")
    outside = np.flatnonzero(~np.all((images >= 0) & (images <= 1), axis=(1, 2, 3)))
    if len(outside):
        row = outside[0]
        raise UserError(
            f"images: values from {images[row].min():g} to {images[row].max():g} in image {row}"
            " are not all in [0, 1]; normalise inside logits_fn, not before"
        )


def a_batch(images: GivenImages, labels: GivenLabels) -> None:
    """Rejects a single image, a single label and an empty batch, of traced arrays too."""
    if np.ndim(images) != 4 or np.ndim(labels) != 1:
        raise UserError(
            f"images: shape {np.shape(images)}, and labels: {np.shape(labels)}; expected (images,"
            " height, width, 1 or 3 channels) and one label per image: images[None] and"
            " labels[None] for one"
        )
    if not len(labels):
        raise UserError("images: none; expected at least one")


def label_values(labels: Shaped[np.ndarray, "..."], num_images: int) -> None:
    """Rejects everything but one integer per image."""
    if labels.shape != (num_images,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"labels: {labels.dtype} of shape {labels.shape}; expected one integer per image,"
            f" shape ({num_images},)"
        )


def logits_of(logits_fn: LogitsFn, images: Images) -> Logits:
    """Returns the logits of images; rejects functions that return anything else."""
    logits = logits_fn(images)
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != len(images) or shape[1] < 2:
        found = type(logits).__name__ if shape is None else f"shape {shape}"
        raise UserError(
            f"logits_fn: returned {found} for images of shape {images.shape}; expected logits"
            f" of shape ({len(images)}, classes), two classes or more"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise UserError(f"logits_fn: returned {logits.dtype}; expected floating-point logits")
    return logits


def enough_classes(attack: str, needed: int, found: int) -> None:
    """Rejects an attack whose loss needs more classes than there are."""
    if found < needed:
        raise UserError(
            f"{attack}: its loss needs {needed} classes or more, and logits_fn has {found}"
        )


def labels_in_range(labels: Integer[np.ndarray, " images"], num_classes: int) -> None:
    """Rejects labels without a logit."""
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise UserError(
            f"labels: image {outside[0]} has label {labels[outside[0]]}; expected 0 to"
            f" {num_classes - 1}, as many classes as logits_fn has logits"
        )


def radius(
    epsilon: Any,
    norm: str,
    *,
    norms: Sequence[str] = NORMS,
    allow_zero: bool = False,
) -> float:
    """Returns a ball's radius; rejects an invalid one, and warns if it contains the whole box."""
    if norm not in norms:
        raise UserError(f"norm: {norm!r}; expected {', '.join(norms[:-1])} or {norms[-1]}")
    found = number(
        "epsilon",
        epsilon,
        _radius_in_words(allow_zero=allow_zero),
        lambda found: 0 < found < np.inf or (allow_zero and found == 0),
    )
    if norm == "linf" and found > 1:
        _warn(
            f"epsilon: {found:g} exceeds the pixel scale [0, 1], where any image can become any"
            " other; write grey levels as a fraction, such as 8 / 255"
        )
    return found


def _radius_in_words(*, allow_zero: bool) -> str:
    return f"{'0 or ' if allow_zero else ''}a number above 0, such as 8 / 255"


def radii(
    epsilon: GivenRadius,
    norm: str,
    num_images: int,
    *,
    norms: Sequence[str] = NORMS,
    allow_zero: bool = False,
) -> tuple[float, Float[np.ndarray, " images"] | None]:
    """Returns an attack's epsilon and its factor for every image.

    The factor is None if all images have one radius; else epsilon is 1.

    Raises:
      UserError: an unknown norm; or a radius that is not a number above 0 (or 0, if allowed), or
        not one per image.
    """
    if np.ndim(epsilon) == 0:
        return radius(epsilon, norm, norms=norms, allow_zero=allow_zero), None
    given = np.asarray(epsilon)
    if given.shape != (num_images,) or given.dtype.kind not in "fiu":
        raise UserError(
            f"epsilon: {given.dtype} of shape {given.shape}; expected a number, or one per image,"
            f" shape ({num_images},)"
        )
    with np.errstate(over="ignore"):
        scale = given.astype(np.float32)
    is_allowed = (scale > 0) | (allow_zero & (scale == 0))
    for row in np.flatnonzero(~(is_allowed & np.isfinite(scale)))[:1]:
        raise UserError(
            f"epsilon: {given[row]} of image {row}; expected"
            f" {_radius_in_words(allow_zero=allow_zero)}"
        )
    radius(float(scale.max()), norm, norms=norms, allow_zero=allow_zero)
    return 1.0, scale


def takes_key(
    logits_fn: LogitsFn | RandomLogitsFn, *, is_random: bool, name: str = "logits_fn"
) -> None:
    """Rejects a function of images as a randomised model, and a function of a key as another."""
    expected = ("images", "key") if is_random else ("images",)
    try:
        signature = inspect.signature(logits_fn)
    except (TypeError, ValueError):  # It has none, as some functions written in C.
        return
    try:
        signature.bind(*expected)
    except TypeError:
        reason = (
            "eot and version='rand' are for randomised models"
            if is_random
            else "a randomised model, logits_fn(images, key), needs version='rand'"
        )
        raise UserError(
            f"{name}: takes {signature}; expected ({', '.join(expected)}): {reason}"
        ) from None


def searches(search_fn: LogitsFn | None, *, is_random: bool) -> None:
    """Rejects a search function that takes a key, or that comes with a randomised model."""
    if search_fn is None:
        return
    if is_random:
        raise UserError(
            "search_fn: given with eot; expected None, because a randomised model is attacked by"
            " draws of itself"
        )
    takes_key(search_fn, is_random=False, name="search_fn")


def same_model(
    found: Float[np.ndarray, "images found"], logits: Float[np.ndarray, "images classes"]
) -> None:
    """Rejects a search function of other classes, and warns of one that predicts others."""
    if found.shape != logits.shape:
        raise UserError(
            f"search_fn: returned logits of {found.shape[1]} classes; expected {logits.shape[1]},"
            " those of logits_fn"
        )
    differ = int((found.argmax(axis=1) != logits.argmax(axis=1)).sum())
    if differ > _MOST_DIFFERENT * len(logits):
        _warn(
            f"search_fn: predicts another class than logits_fn for {differ} of {len(logits)}"
            " images. Attacks that search another model find fewer adversarial images: give the"
            " same network in a lower precision, or leave search_fn out"
        )


def warn_if_random(
    logits_fn: LogitsFn | RandomLogitsFn, images: HostImages, key: Key[Array, ""] | None = None
) -> None:
    """Warns if repeated forward passes differ, with the same or a retraced program.

    Args:
      logits_fn: the model.
      images: what to evaluate it on.
      key: the key for a randomised model.
    """
    given = () if key is None else (key,)

    def forwards() -> list[np.ndarray]:
        # A new function each time, because jit would not retrace the same function.
        program = jax.jit(lambda x: logits_fn(x, *given))
        return [np.asarray(program(jnp.asarray(images)), np.float32) for _ in range(2)]

    first, *others = forwards() + forwards()
    scale = max(1.0, float(np.max(np.abs(np.nan_to_num(first)))))
    if any(not np.allclose(first, other, 0, 1e-5 * scale, equal_nan=True) for other in others):
        _warn(
            "logits_fn is random: equal forward passes differ, and robust accuracy may be"
            " overestimated. Make it a function of images and a key from which all its draws"
            " derive, and attack it with version='rand'"
        )


def warn_if_probabilities(logits: Float[np.ndarray, "images classes"]) -> None:
    """Warns if every row looks like a distribution over the classes."""
    sums = logits.sum(axis=1)
    if np.all(logits >= 0) and np.all(np.abs(sums - 1) < 1e-3):
        _warn(
            "logits_fn returns what looks like probabilities. Gradients through a softmax vanish"
            " and weaken the attacks: return the logits instead"
        )


def warn_of_few_classes(name: str, needed: int, found: int, instead: str | None) -> None:
    """Warns that an attack is skipped because the model has too few classes for its loss."""
    _warn(
        f"{name} needs at least {needed} classes and the model has {found}, too few for its loss:"
        f" {f'{instead} runs instead' if instead else 'it is left out'}"
    )


def warn_of_flat(name: str, flat: Bool[np.ndarray, " images"]) -> None:
    """Warns if an attack's gradient was zero in every pixel of some images."""
    if flat.any():
        _warn(
            f"{name}: the gradient is zero for {int(flat.sum())} of {len(flat)} images."
            " Saturated outputs mask gradients: rely on the attacks that do not need them, and"
            " attack the model without its saturation"
        )


def warn_of_nan(is_nan: Bool[np.ndarray, " images"]) -> None:
    """Warns if logits were NaN for some images."""
    if is_nan.any():
        _warn(
            f"logits are NaN for {int(is_nan.sum())} of {len(is_nan)} images, clean or attacked;"
            " these count as broken"
        )


def warn_of_lost_gradients(is_lost: Bool[np.ndarray, " images"]) -> None:
    """Warns if PGD encountered non-finite gradients."""
    if is_lost.any():
        _warn(
            f"pgd: the gradient is not finite for {int(is_lost.sum())} of {len(is_lost)} images."
            " These are attacked only where it is: robust accuracy may be overestimated. Look for"
            " a root, a norm or a logarithm of zero in logits_fn or the loss"
        )


def warn_if_square_wins(found: int, total: int, *, in_sample: bool = False) -> None:
    """Warns if Square lowered accuracy by over 0.2 points after the white-box attacks.

    Args:
      found: how many images Square broke, or, by a sample, would break at least.
      total: the number of images.
      in_sample: whether Square was run on a sample.
    """
    if found > 0.002 * total:
        lowered = (
            "would lower robust accuracy by at least" if in_sample else "lowered robust accuracy by"
        )
        _warn(
            f"square {lowered} {100 * found / total:.2f} points after the"
            " white-box attacks: gradients are masked, and robust accuracy may still be"
            " overestimated"
        )


def warn_if_pgd_misleads(
    pgd_robust: Bool[np.ndarray, " images"], robust: Bool[np.ndarray, " images"]
) -> None:
    """Warns if PGD's robust accuracy is more than 10 points above AutoAttack's.

    Args:
      pgd_robust: which images withstood PGD-20.
      robust: which of the same images withstood AutoAttack.
    """
    gap = int(np.sum(pgd_robust)) - int(np.sum(robust))
    if gap > 0.1 * len(robust):
        _warn(
            f"PGD leaves robust accuracy {100 * gap / len(robust):.1f} points above AutoAttack's:"
            " this defence hides from PGD, so do not report its PGD accuracy as robustness"
        )


def _warn(message: str) -> None:
    warnings.warn(message, RobustnessWarning, stacklevel=4)
