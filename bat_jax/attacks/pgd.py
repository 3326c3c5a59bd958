"""Projected gradient descent, for training and for plain evaluation.

Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks,
arXiv:1706.06083.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from bat_jax import backend, keys, losses
from bat_jax.errors import UserError

Norm = Literal["linf", "l2"]
Loss = Literal["cross_entropy", "kl", "margin"]
Images = Float[Array, "batch height width channels"]
LogitsFn = Callable[[Images], Float[Array, "batch classes"]]


class Trajectory(NamedTuple):
    """Where an attack ended and what it met on the way.

    Attributes:
      images: the adversarial images x'_K.
      robust_steps: per image, after how many of the first K - 1 steps it was classified correctly.
        Whether x'_K is, the attack has not looked: who forwards x'_K to train on it knows, and
        adds it, at no cost.
    """

    images: Images
    robust_steps: Int[Array, "batch"]


def pgd(
    logits_fn: LogitsFn,
    images: Images,
    labels: Int[Array, "batch"],
    key: Key[Array, ""] | Key[Array, "batch"],
    *,
    epsilon: float,
    step_size: float,
    num_steps: int,
    norm: Norm = "linf",
    loss: Loss = "cross_entropy",
    random_start: bool = True,
    gaussian_start: float = 0.0,
    restarts: int = 1,
    reference_logits: Float[Array, "batch classes"] | None = None,
    unroll: bool | None = None,
) -> Images:
    """Returns adversarial images x' that maximise a loss, ||x' - x|| <= epsilon, x' in [0, 1].

        x' <- clip(project(x' + step_size * direction(grad_x' L)), 0, 1),   K = num_steps times

    The direction is sign(g) for Linf and g / ||g||_2 for L2. Of several restarts each image keeps
    its own best: a misclassified one before any other, then the one of the largest loss.

    Args:
      logits_fn: [0, 1] images, NHWC, to logits `[batch, classes]`; any JAX function. The gradient
        is taken with respect to the images alone.
      images: x, shape `[batch, height, width, channels]`, in [0, 1].
      labels: class indices, shape `[batch]`.
      key: one key, or one an image when the draws are to belong to the image rather than to its
        place in the batch.
      epsilon: radius of the ball, in units of the [0, 1] pixel scale.
      step_size: length of a step, same units.
      num_steps: K.
      norm: `linf` or `l2`.
      loss: `cross_entropy`; `margin`, max_{k != y} z_k - z_y; or `kl`, KL(p(x) || p(x')).
      random_start: start from a uniformly random point of the ball rather than from x.
      gaussian_start: if above 0, start from x + gaussian_start * N(0, 1) instead, as TRADES does.
      restarts: how many attacks to run. More than one costs a forward pass each beside its steps.
      reference_logits: z(x) for the loss `kl`; computed with `logits_fn` when absent.
      unroll: whether to write the steps out instead of looping. By default only on CPU, whose
        back end runs convolutions inside a loop on a single thread.

    Raises:
      UserError: an unknown norm or loss, or a number out of range.
    """
    if restarts < 1:
        raise UserError(f"pgd: restarts is {restarts}; expected 1 or more")

    def attack(key: Key[Array, "batch"]) -> Images:
        return pgd_trajectory(
            logits_fn,
            images,
            labels,
            key,
            epsilon=epsilon,
            step_size=step_size,
            num_steps=num_steps,
            norm=norm,
            loss=loss,
            random_start=random_start,
            gaussian_start=gaussian_start,
            reference_logits=reference_logits,
            unroll=unroll,
        ).images

    image_keys = keys.per_image(key, jnp.arange(len(labels)))
    if restarts == 1:
        return attack(image_keys)

    if loss == "kl" and reference_logits is None:
        reference_logits = logits_fn(images)

    def judge(adversarial: Images) -> tuple[Bool[Array, "batch"], Float[Array, "batch"]]:
        logits = logits_fn(adversarial)
        value = _LOSSES[loss](logits, labels, reference_logits)
        # A non-finite loss is neither larger nor smaller than another: it is kept, not compared.
        return ~correct(logits, labels), jnp.where(jnp.isnan(value), jnp.inf, value)

    def restart(
        best: tuple[Images, Bool[Array, "batch"], Float[Array, "batch"]], number: Int[Array, ""]
    ) -> tuple[tuple[Images, Bool[Array, "batch"], Float[Array, "batch"]], None]:
        best_images, best_broken, best_loss = best
        new = attack(jax.vmap(lambda key: jax.random.fold_in(key, number))(image_keys))
        broken, value = judge(new)
        better = (broken & ~best_broken) | ((broken == best_broken) & (value > best_loss))
        return (
            jnp.where(better[:, None, None, None], new, best_images),
            broken | best_broken,
            jnp.where(better, value, best_loss),
        ), None

    first = attack(image_keys)
    (adversarial, _, _), _ = jax.lax.scan(
        restart,
        (first, *judge(first)),
        jnp.arange(1, restarts),
        unroll=backend.unrolls_attacks(unroll),
    )
    return adversarial


def pgd_trajectory(
    logits_fn: LogitsFn,
    images: Images,
    labels: Int[Array, "batch"],
    key: Key[Array, ""] | Key[Array, "batch"],
    *,
    epsilon: float,
    step_size: float,
    num_steps: int,
    norm: Norm = "linf",
    loss: Loss = "cross_entropy",
    random_start: bool = True,
    gaussian_start: float = 0.0,
    reference_logits: Float[Array, "batch classes"] | None = None,
    unroll: bool | None = None,
) -> Trajectory:
    """Like `pgd` with one restart; also counts the steps each image withstood, for GAIRAT."""
    _check(norm, loss, epsilon, step_size, num_steps)
    if loss == "kl" and reference_logits is None:
        reference_logits = logits_fn(images)
    reference = None if reference_logits is None else jax.lax.stop_gradient(reference_logits)

    def objective(x: Images) -> tuple[Float[Array, ""], Bool[Array, "batch"]]:
        logits = logits_fn(x)
        return jnp.sum(_LOSSES[loss](logits, labels, reference)), correct(logits, labels)

    def step(
        carry: tuple[Images, Int[Array, "batch"]], number: Int[Array, ""]
    ) -> tuple[tuple[Images, Int[Array, "batch"]], None]:
        x, withstood = carry
        gradient, is_correct = jax.grad(objective, has_aux=True)(x)
        # Step 0 meets the start, which no step has led to: it is not counted.
        withstood = withstood + (is_correct & (number > 0)).astype(withstood.dtype)
        x = project(x + step_size * _direction(gradient, norm), images, epsilon, norm)
        return (x, withstood), None

    image_keys = keys.per_image(key, jnp.arange(len(labels)))
    x = images
    if gaussian_start > 0:
        x = images + gaussian_start * _per_image_normal(image_keys, images)
    elif random_start:
        x = images + _uniform_in_ball(image_keys, images, epsilon, norm)
    x = project(x, images, epsilon, norm)
    (x, robust_steps), _ = jax.lax.scan(
        step,
        (x, jnp.zeros(labels.shape, jnp.int32)),
        jnp.arange(num_steps),
        unroll=backend.unrolls_attacks(unroll),
    )
    return Trajectory(jax.lax.stop_gradient(x), robust_steps)


def project(x: Images, center: Images, epsilon: float, norm: Norm) -> Images:
    """Returns the point of the epsilon-ball around `center`, then of [0, 1], nearest to x.

    The center lies in [0, 1], so clipping to the box moves no point away from it.
    """
    if norm == "linf":
        x = jnp.clip(x, center - epsilon, center + epsilon)
    else:
        offset = x - center
        length = jnp.sqrt(jnp.sum(offset**2, axis=(1, 2, 3), keepdims=True))
        x = center + offset * jnp.minimum(1.0, epsilon / jnp.maximum(length, 1e-12))
    return jnp.clip(x, 0.0, 1.0)


def correct(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"]
) -> Bool[Array, "batch"]:
    """Returns whether each image is classified correctly; logits with a NaN never are."""
    is_finite = ~jnp.any(jnp.isnan(logits), axis=-1)
    return (jnp.argmax(logits, axis=-1) == labels) & is_finite


def _direction(gradient: Images, norm: Norm) -> Images:
    if norm == "linf":
        return jnp.sign(gradient)
    # Squares of small gradients underflow in float32: scale the largest entry to 1 before.
    largest = jnp.max(jnp.abs(gradient), axis=(1, 2, 3), keepdims=True)
    scaled = gradient / jnp.where(largest > 0, largest, 1.0)
    length = jnp.sqrt(jnp.sum(scaled**2, axis=(1, 2, 3), keepdims=True))
    return scaled / jnp.maximum(length, 1.0)


def _per_image_normal(image_keys: Key[Array, "batch"], images: Images) -> Images:
    return jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(image_keys)


def _uniform_in_ball(
    image_keys: Key[Array, "batch"], images: Images, epsilon: float, norm: Norm
) -> Images:
    shape, dtype = images.shape[1:], images.dtype
    if norm == "linf":
        draw = jax.vmap(lambda key: jax.random.uniform(key, shape, dtype, -1.0, 1.0))
        return epsilon * draw(image_keys)
    direction_keys, radius_keys = jnp.swapaxes(jax.vmap(jax.random.split)(image_keys), 0, 1)
    direction = _direction(_per_image_normal(direction_keys, images), norm)
    radius = jax.vmap(lambda key: jax.random.uniform(key, (), dtype))(radius_keys)
    return epsilon * direction * radius[:, None, None, None] ** (1.0 / images[0].size)


def _margin(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"], _: object
) -> Float[Array, "batch"]:
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    strongest_wrong = jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1)
    return strongest_wrong - jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1)


_LOSSES: dict[str, Callable[..., Float[Array, "batch"]]] = {
    "cross_entropy": lambda logits, labels, _: optax.softmax_cross_entropy_with_integer_labels(
        logits, labels
    ),
    "kl": lambda logits, _, reference: losses.kl_divergence(reference, logits),
    "margin": _margin,
}


def _check(norm: str, loss: str, epsilon: float, step_size: float, num_steps: int) -> None:
    if norm not in ("linf", "l2"):
        raise UserError(f"pgd: norm is {norm!r}; expected linf or l2")
    if loss not in _LOSSES:
        raise UserError(f"pgd: loss is {loss!r}; expected one of {', '.join(_LOSSES)}")
    if epsilon < 0 or step_size < 0 or num_steps < 0:
        raise UserError(
            f"pgd: epsilon is {epsilon}, step_size {step_size}, num_steps {num_steps};"
            " expected none below 0"
        )
