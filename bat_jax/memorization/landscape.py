"""The loss of a model at and around single examples: proxies of memorization for any model.

All are functions of the cross-entropy l(x, y) = -log softmax(z(x))_y, in nats, and of its
derivatives with respect to the image x. A model must treat the images of a batch separately, as it
does in evaluation.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from bat_jax.attacks.classifier import Images, Labels, LogitsFn
from bat_jax.errors import UserError
from bat_jax.keys import GivenKey, typed

PerImage = Float[Array, " batch"]


def cumulative_loss(models: Iterable[LogitsFn], images: Images, labels: Labels) -> PerImage:
    """Returns the Cumulative Sample Loss: the sum of l(x, y) over the models of a training.

    A run of the trainer records it over its own presentations, without further passes: `loss_sum`
    in `train_examples.npz`.

    Source: Ravikumar et al., Towards Memorization Estimation: Fast, Formal and Free, ICML 2025.

    Args:
      models: the model after every epoch, or at other times, as functions from images to logits.
      images: x.
      labels: y.

    Raises:
      UserError: there are no models.
    """
    losses = [_loss(model, images, labels) for model in models]
    if not losses:
        raise UserError("cumulative_loss: no models; expected those of a training, epoch by epoch")
    return jnp.sum(jnp.stack(losses), axis=0)


def curvature(
    logits_fn: LogitsFn, images: Images, labels: Labels, key: GivenKey, *, draws: int = 10
) -> PerImage:
    """Returns the input curvature Tr(H^2), where H is the Hessian of l(x, y) with respect to x.

    Hutchinson's estimator: the mean of |H v|^2 over vectors v of random signs. The paper averages
    it over the epochs of a training, and takes H v as a difference of gradients; here it is exact.

    Source: Garg et al., Memorization Through the Lens of Curvature of Loss Function Around Samples,
    arXiv:2307.05831.

    Args:
      logits_fn: a model.
      images: x.
      labels: y.
      key: of the random signs.
      draws: number of vectors v.

    Raises:
      UserError: draws is below 1.
    """
    if draws < 1:
        raise UserError(f"curvature: draws is {draws}; expected 1 or more")

    def squared(key: Array) -> PerImage:
        signs = jax.random.rademacher(key, images.shape, images.dtype)

        def slope(images: Images) -> Float[Array, ""]:
            return jnp.sum(_gradient(logits_fn, images, labels) * signs)

        # Reverse mode twice: convolutions with gradients of their own have no forward mode.
        return jnp.sum(jax.grad(slope)(images) ** 2, axis=(1, 2, 3))

    return jnp.mean(jax.lax.map(squared, jax.random.split(typed(key), draws)), axis=0)


def loss_sensitivity(logits_fn: LogitsFn, images: Images, labels: Labels) -> PerImage:
    """Returns the sensitivity |dl(x, y) / dx|_1 of the loss to its own image.

    After Arpit et al., A Closer Look at Memorization in Deep Networks, arXiv:1706.05394, who
    differentiate the loss after an update in which the image took part.

    Args:
      logits_fn: a model.
      images: x.
      labels: y.
    """
    return jnp.sum(jnp.abs(_gradient(logits_fn, images, labels)), axis=(1, 2, 3))


def _loss(logits_fn: LogitsFn, images: Images, labels: Labels) -> PerImage:
    return optax.softmax_cross_entropy_with_integer_labels(logits_fn(images), labels)


def _gradient(logits_fn: LogitsFn, images: Images, labels: Labels) -> Images:
    return jax.grad(lambda images: jnp.sum(_loss(logits_fn, images, labels)))(images)
