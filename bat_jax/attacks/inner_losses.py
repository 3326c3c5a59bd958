"""Per-image losses that attacks maximise, and margins that they drive below zero.

Source: Croce & Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
Parameter-free Attacks, arXiv:2003.01690 (DLR); Andriushchenko et al., arXiv:1912.00049 (margin).
z_(k) is the k-th largest logit of an image.
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bat_jax import losses
from bat_jax.attacks.classifier import Labels, Logits
from bat_jax.errors import UserError

PerImage = Float[Array, " batch"]
# Class probabilities, for images with more than one label.
SoftLabels = Float[Array, "batch classes"]
LossName = Literal["cross_entropy", "kl", "margin"]
Loss = LossName | Callable[..., PerImage]
"""What PGD maximises: a name, or a function that returns a loss per image.

The function takes logits and labels, or logits and soft labels if the attack receives them.
"""
NAMES: tuple[LossName, ...] = get_args(LossName)


def value(
    loss: Loss,
    logits: Logits,
    labels: Labels,
    *,
    soft_labels: SoftLabels | None,
    reference_logits: Logits | None,
) -> PerImage:
    """Returns the loss that PGD maximises, given by name or as a function.

    Args:
      loss: `cross_entropy`; `margin`, max_{k != y} z_k - z_y; `kl`, KL(p(x) || p(x')); or any
        function from logits and labels to one value per image.
      logits: z(x').
      labels: y.
      soft_labels: class probabilities that replace y in `cross_entropy` and functions.
      reference_logits: z(x), for `kl`.

    Raises:
      UserError: a function returns anything but one value per image.
    """
    if loss == "kl":
        assert reference_logits is not None
        return losses.kl_divergence(reference_logits, logits)
    if loss == "margin":
        return -margin(logits, labels)
    if loss == "cross_entropy":
        return losses.cross_entropy(logits, labels if soft_labels is None else soft_labels)
    values = loss(logits, labels if soft_labels is None else soft_labels)
    shape = getattr(values, "shape", None)
    if shape != logits.shape[:1]:
        found = type(values).__name__ if shape is None else f"shape {shape}"
        raise UserError(
            f"loss: returned {found} for logits of shape {logits.shape}; expected one value an"
            f" image, shape {logits.shape[:1]}: take no mean"
        )
    return values


def margin(logits: Logits, labels: Labels) -> PerImage:
    """Returns z_y - max_{k != y} z_k: below zero where the image is misclassified."""
    return logit_of(logits, labels) - _strongest_other(logits, labels)


def cross_entropy(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Returns -log p_y; ignores the targets."""
    del targets
    return losses.cross_entropy(logits, labels)


def dlr(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Returns the difference-of-logits ratio, -(z_y - max_{k != y} z_k) / (z_(1) - z_(3)).

    It is invariant to shifts and rescalings of the logits, and needs three classes. It ignores the
    targets.
    """
    del targets
    largest = jax.lax.top_k(logits, 3)[0]
    return -margin(logits, labels) / (largest[:, 0] - largest[:, 2] + 1e-12)


def targeted_dlr(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Returns -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), t the target. Needs four classes."""
    largest = jax.lax.top_k(logits, 4)[0]
    difference = logit_of(logits, labels) - logit_of(logits, targets)
    spread = largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2
    return -difference / (spread + 1e-12)


def logit_of(logits: Logits, classes: Labels) -> PerImage:
    """Returns one logit per image."""
    return jnp.sum(jnp.where(losses.is_class(logits, classes), logits, 0.0), axis=-1)


def _strongest_other(logits: Logits, labels: Labels) -> PerImage:
    return jnp.max(jnp.where(losses.is_class(logits, labels), -jnp.inf, logits), axis=-1)
