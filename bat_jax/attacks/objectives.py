"""What the attacks of AutoAttack maximise or bring below zero, an image.

Source: Croce & Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
Parameter-free Attacks, arXiv:2003.01690 (DLR); Andriushchenko et al., arXiv:1912.00049 (margin).
z_(k) is the k-th largest logit of an image.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Logits = Float[Array, "batch classes"]
Labels = Int[Array, "batch"]
PerImage = Float[Array, "batch"]


def margin(logits: Logits, labels: Labels) -> PerImage:
    """Returns z_y - max_{k != y} z_k: below zero where the image is misclassified."""
    return logit_of(logits, labels) - _strongest_other(logits, labels)


def cross_entropy(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Returns -log p_y; the targets play no part."""
    del targets
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def dlr(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Returns the difference-of-logits ratio, -(z_y - max_{k != y} z_k) / (z_(1) - z_(3)).

    It is invariant to shifts and rescalings of the logits. It needs three classes; the targets
    play no part.
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
    """Returns one logit an image."""
    return jnp.sum(jnp.where(_is_class(logits, classes), logits, 0.0), axis=-1)


def _strongest_other(logits: Logits, labels: Labels) -> PerImage:
    return jnp.max(jnp.where(_is_class(logits, labels), -jnp.inf, logits), axis=-1)


def _is_class(logits: Logits, classes: Labels) -> Array:
    # A comparison rather than an index: no gather whose gradient would be a scatter.
    return jnp.arange(logits.shape[-1])[None, :] == classes[:, None]
