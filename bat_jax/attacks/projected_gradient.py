"""Projected gradient descent, for training and for plain evaluation.

Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks,
arXiv:1706.06083.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from bat_jax import keys
from bat_jax.attacks import checks, inner_losses
from bat_jax.attacks.checks import GivenImages, GivenLabels, GivenRadius
from bat_jax.attacks.classifier import Images, Labels, Logits, LogitsFn, correct
from bat_jax.attacks.geometry import Norm, Radius, broadcast, normal, project, uniform
from bat_jax.attacks.inner_losses import Loss, PerImage, SoftLabels
from bat_jax.errors import UserError
from bat_jax.kernels import programs
from bat_jax.keys import GivenKey

_NORMS = ("linf", "l2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PgdSettings:
    """The settings of PGD, independent of the model and the images.

    Attributes:
      epsilon: radius of the ball, in units of the [0, 1] pixel scale.
      step_size: length of a step, same units.
      num_steps: K.
      norm: `linf` or `l2`.
      loss: `cross_entropy`; `margin`, max_{k != y} z_k - z_y; `kl`, KL(p(x) || p(x')); or a
        function `(logits, labels) -> loss per image`, which the attack maximises.
      random_start: start from a uniformly random point of the ball rather than from x.
      start_radius: radius of the ball of random starts, in units of epsilon.
      gaussian_start: if above 0, start from x + gaussian_start * N(0, 1) instead, as TRADES does.
      project: keep the iterates in the epsilon-ball. Without it only [0, 1] bounds them, as in
        N-FGSM.
      restarts: how many attacks to run. With more than one, each costs an extra forward pass.
      unroll: whether to unroll the steps instead of looping, or how many steps an iteration of the
        loop holds; None unrolls only on CPU, whose back end runs convolutions inside a loop on a
        single thread.

    Raises:
      UserError: an unknown norm or loss, or a number out of range.
    """

    epsilon: float
    step_size: float
    num_steps: int
    norm: Norm = "linf"
    loss: Loss = "cross_entropy"
    random_start: bool = True
    start_radius: float = 1.0
    gaussian_start: float = 0.0
    project: bool = True
    restarts: int = 1
    unroll: bool | int | None = None

    def __post_init__(self) -> None:
        checks.radius(self.epsilon, self.norm, norms=_NORMS, allow_zero=True)
        if not callable(self.loss) and self.loss not in inner_losses.NAMES:
            raise UserError(
                f"loss: {self.loss!r}; expected {', '.join(inner_losses.NAMES)}, or a function"
            )
        for name in ("step_size", "start_radius", "gaussian_start"):
            checks.number(
                name, getattr(self, name), "0 or a number above 0", lambda one: 0 <= one < math.inf
            )
        for name, least in (("num_steps", 0), ("restarts", 1)):
            checks.whole(name, getattr(self, name), least)


class Trajectory(NamedTuple):
    """The result of an attack, with statistics of its iterates.

    Attributes:
      images: the adversarial images x'_K.
      robust_steps: per image, after how many of the first K - 1 steps it was classified correctly.
        The attack does not evaluate x'_K; a caller that forwards x'_K for training can add that
        step at no cost.
      lost_gradient: per image, whether a gradient was non-finite in some pixel, which was then left
        unchanged.
    """

    images: Images
    robust_steps: Int[Array, " batch"]
    lost_gradient: Bool[Array, " batch"]


def pgd(
    logits_fn: LogitsFn,
    images: GivenImages,
    labels: GivenLabels,
    key: GivenKey,
    *,
    epsilon: GivenRadius,
    step_size: float,
    num_steps: int,
    norm: Norm = "linf",
    loss: Loss = "cross_entropy",
    random_start: bool = True,
    gaussian_start: float = 0.0,
    restarts: int = 1,
    reference_logits: Logits | None = None,
    targets: SoftLabels | None = None,
    unroll: bool | None = None,
) -> Images:
    """Returns adversarial images x' that maximise a loss, ||x' - x|| <= epsilon, x' in [0, 1].

        x' <- clip(project(x' + step_size * direction(grad_x' L)), 0, 1),   K = num_steps times

    The direction is sign(g) for Linf and g / ||g||_2 for L2. Pixels with a non-finite gradient are
    left unchanged. With several restarts, each image keeps its best result: misclassified results
    first, then the largest loss.

    Every call outside `jax.jit` compiles the attack anew. For many batches, compile it once:

        attack = jax.jit(lambda x, y, key: pgd(logits_fn, x, y, key, **settings))

    Args:
      logits_fn: [0, 1] images, NHWC, to logits `[batch, classes]`; any JAX function. The gradient
        is taken with respect to the images only.
      images: x, shape `[batch, height, width, channels]`, in [0, 1].
      labels: class indices, shape `[batch]`.
      key: a single key, or one key per image to make draws independent of the batch position.
      epsilon: radius of the ball, in units of the [0, 1] pixel scale, or one per image.
      step_size: length of a step, same units.
      num_steps: K.
      norm: `linf` or `l2`.
      loss: `cross_entropy`; `margin`, max_{k != y} z_k - z_y; `kl`, KL(p(x) || p(x')); or a
        function `(logits, labels) -> loss per image`.
      random_start: start from a uniformly random point of the ball rather than from x.
      gaussian_start: if above 0, start from x + gaussian_start * N(0, 1) instead, as TRADES does.
      restarts: how many attacks to run. With more than one, each costs an extra forward pass.
      reference_logits: z(x) for the loss `kl`; computed with `logits_fn` when absent.
      targets: class probabilities, shape `[batch, classes]`, that replace the labels in
        `cross_entropy` and in a function. Misclassification is still judged by the labels.
      unroll: whether to unroll the steps instead of looping. Defaults to only on CPU, whose back
        end runs convolutions inside a loop on a single thread.

    Raises:
      UserError: an unknown norm or loss, a number out of range, or, outside `jax.jit`, images,
        labels or logits that are not as described.
    """
    checks.a_batch(images, labels)
    radius, scale = _radii(epsilon, norm, len(labels))
    settings = PgdSettings(
        epsilon=radius,
        step_size=step_size,
        num_steps=num_steps,
        norm=norm,
        loss=loss,
        random_start=random_start,
        gaussian_start=gaussian_start,
        restarts=restarts,
        unroll=unroll,
    )
    trajectory = pgd_trajectory(
        logits_fn,
        images,
        labels,
        key,
        settings,
        reference_logits=reference_logits,
        targets=targets,
        scale=scale,
    )
    return trajectory.images


def pgd_trajectory(
    logits_fn: LogitsFn,
    images: GivenImages,
    labels: GivenLabels,
    key: GivenKey,
    settings: PgdSettings,
    *,
    reference_logits: Logits | None = None,
    targets: SoftLabels | None = None,
    scale: GivenRadius | None = None,
) -> Trajectory:
    """Like `pgd`; also counts the steps each image withstood, for GAIRAT.

    With several restarts, the count is that of the returned images.

    Args:
      logits_fn: [0, 1] images, NHWC, to logits `[batch, classes]`; any JAX function.
      images: x, shape `[batch, height, width, channels]`, in [0, 1].
      labels: class indices, shape `[batch]`.
      key: a single key, or one key per image.
      settings: the settings of the attack.
      reference_logits: z(x) for the loss `kl`; computed with `logits_fn` when absent.
      targets: class probabilities that replace the labels, shape `[batch, classes]`.
      scale: a factor of epsilon, or one per image, which may be traced, as in a warm-up. Without
        projection it scales the step size too, which is then what bounds the iterates.

    Raises:
      UserError: outside `jax.jit`, images, labels or logits that are not as described.
    """
    _check(logits_fn, images, labels)
    image_keys = keys.per_image(key, jnp.arange(len(labels)))
    problem = _Problem(
        logits_fn, jnp.asarray(images), jnp.asarray(labels), reference_logits, targets
    )
    if settings.loss == "kl" and reference_logits is None:
        problem = problem._replace(reference_logits=logits_fn(problem.images))
    bounds = _bounds(settings, None if scale is None else jnp.asarray(scale, jnp.float32))
    trajectory = _attack(problem, image_keys, settings, bounds)
    if settings.restarts > 1:
        trajectory = _best_of_restarts(problem, trajectory, image_keys, settings, bounds)
    lost = checks.if_concrete(trajectory.lost_gradient)
    if lost is not None:
        checks.warn_of_lost_gradients(lost)
    return trajectory


class _Problem(NamedTuple):
    logits_fn: LogitsFn
    images: Images
    labels: Labels
    reference_logits: Logits | None
    soft_labels: SoftLabels | None

    def loss(self, loss: Loss, logits: Logits) -> PerImage:
        return inner_losses.value(
            loss,
            logits,
            self.labels,
            soft_labels=self.soft_labels,
            reference_logits=self.reference_logits,
        )


class _Bounds(NamedTuple):
    epsilon: Radius
    step_size: Radius


def _radii(
    epsilon: GivenRadius, norm: str, num_images: int
) -> tuple[float, Float[Array, ""] | Float[Array, " batch"] | None]:
    """Returns epsilon, and a factor of it, checked where its values are known."""
    if isinstance(epsilon, jax.core.Tracer):
        return 1.0, jnp.asarray(epsilon, jnp.float32)
    if np.ndim(epsilon) == 0:
        # `PgdSettings` checks its range.
        return checks.number("epsilon", epsilon, "0 or a number above 0, such as 8 / 255"), None
    one, scale = checks.radii(epsilon, norm, num_images, norms=_NORMS, allow_zero=True)
    return one, jnp.asarray(scale)


def _bounds(
    settings: PgdSettings, scale: Float[Array, ""] | Float[Array, " batch"] | None
) -> _Bounds:
    """Returns epsilon and the step size, scaled by a warm-up if there is one."""
    if scale is None:
        return _Bounds(settings.epsilon, settings.step_size)
    step_size = settings.step_size if settings.project else scale * settings.step_size
    return _Bounds(scale * settings.epsilon, step_size)


# A trajectory and, per image, whether it ended misclassified and its loss.
_Best = tuple[Trajectory, Bool[Array, " batch"], Float[Array, " batch"]]


def _check(logits_fn: LogitsFn, given_images: GivenImages, given_labels: GivenLabels) -> None:
    """Applies AutoAttack's checks where values are known, that is, outside of tracing."""
    images, labels = checks.if_concrete(given_images), checks.if_concrete(given_labels)
    if images is not None:
        checks.image_values(images)
        if labels is not None:
            checks.label_values(labels, len(images))
            logits = jax.eval_shape(
                lambda x: checks.logits_of(logits_fn, x), jnp.asarray(given_images)
            )
            checks.labels_in_range(labels, logits.shape[1])


def _attack(
    problem: _Problem, image_keys: Key[Array, " batch"], settings: PgdSettings, bounds: _Bounds
) -> Trajectory:
    """Runs one attack."""
    logits_fn, images, labels, reference, _ = problem
    if reference is not None:
        problem = problem._replace(reference_logits=jax.lax.stop_gradient(reference))

    def objective(x: Images) -> tuple[Float[Array, ""], Bool[Array, " batch"]]:
        logits = logits_fn(x)
        return jnp.sum(problem.loss(settings.loss, logits)), correct(logits, labels)

    def step(carry: Trajectory, number: Int[Array, ""]) -> tuple[Trajectory, None]:
        x, withstood, lost = carry
        gradient, is_correct = jax.grad(objective, has_aux=True)(x)
        # The model may be finite elsewhere: leave non-finite pixels in place, move the others.
        is_finite = jnp.isfinite(gradient)
        lost |= ~jnp.all(is_finite, axis=(1, 2, 3))
        gradient = jnp.where(is_finite, gradient, 0.0)
        # Step 0 evaluates the start, before any step: it does not count.
        withstood = withstood + (is_correct & (number > 0)).astype(withstood.dtype)
        moved = x + broadcast(bounds.step_size) * _direction(gradient, settings.norm)
        return Trajectory(bounded(moved), withstood, lost), None

    def bounded(x: Images) -> Images:
        if settings.project:
            return project(x, images, bounds.epsilon, settings.norm)
        return jnp.clip(x, 0.0, 1.0)

    x = images
    if settings.gaussian_start > 0:
        x = images + settings.gaussian_start * normal(image_keys, images)
    elif settings.random_start:
        radius = settings.start_radius * bounds.epsilon
        x = images + _uniform_in_ball(image_keys, images, radius, settings.norm)
    x = bounded(x)
    trajectory, _ = jax.lax.scan(
        step,
        Trajectory(x, jnp.zeros(labels.shape, jnp.int32), jnp.zeros(labels.shape, bool)),
        jnp.arange(settings.num_steps),
        unroll=_unrolls(settings),
    )
    return trajectory._replace(images=jax.lax.stop_gradient(trajectory.images))


def _best_of_restarts(
    problem: _Problem,
    first: Trajectory,
    image_keys: Key[Array, " batch"],
    settings: PgdSettings,
    bounds: _Bounds,
) -> Trajectory:
    """Runs the restarts after the first, and returns each image's best attack."""

    def judge(adversarial: Images) -> tuple[Bool[Array, " batch"], Float[Array, " batch"]]:
        logits = problem.logits_fn(adversarial)
        value = problem.loss(settings.loss, logits)
        # NaN compares with nothing, so treat it as the largest loss.
        return ~correct(logits, problem.labels), jnp.where(jnp.isnan(value), jnp.inf, value)

    def restart(best: _Best, number: Int[Array, ""]) -> tuple[_Best, None]:
        best_trajectory, best_broken, best_loss = best
        new_keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(image_keys)
        new = _attack(problem, new_keys, settings, bounds)
        broken, value = judge(new.images)
        better = (broken & ~best_broken) | ((broken == best_broken) & (value > best_loss))
        kept = Trajectory(
            jnp.where(better[:, None, None, None], new.images, best_trajectory.images),
            jnp.where(better, new.robust_steps, best_trajectory.robust_steps),
            best_trajectory.lost_gradient | new.lost_gradient,
        )
        return (kept, broken | best_broken, jnp.where(better, value, best_loss)), None

    (best, _, _), _ = jax.lax.scan(
        restart,
        (first, *judge(first.images)),
        jnp.arange(1, settings.restarts),
        unroll=_unrolls(settings),
    )
    return best


def _unrolls(settings: PgdSettings) -> bool | int:
    """Returns whether to unroll steps rather than loop, or how many an iteration holds."""
    return programs.is_cpu_style() if settings.unroll is None else settings.unroll


def _direction(gradient: Images, norm: Norm) -> Images:
    if norm == "linf":
        return jnp.sign(gradient)
    # Squares of small gradients underflow in float32: first scale the largest entry to 1.
    largest = jnp.max(jnp.abs(gradient), axis=(1, 2, 3), keepdims=True)
    scaled = gradient / jnp.where(largest > 0, largest, 1.0)
    length = jnp.sqrt(jnp.sum(scaled**2, axis=(1, 2, 3), keepdims=True))
    return scaled / jnp.maximum(length, 1.0)


def _uniform_in_ball(
    image_keys: Key[Array, " batch"],
    images: Images,
    epsilon: Radius,
    norm: Norm,
) -> Images:
    epsilon = broadcast(epsilon)
    if norm == "linf":
        return epsilon * uniform(image_keys, images)
    direction_keys, radius_keys = jnp.swapaxes(jax.vmap(jax.random.split)(image_keys), 0, 1)
    direction = _direction(normal(direction_keys, images), norm)
    radius = jax.vmap(lambda key: jax.random.uniform(key, (), images.dtype))(radius_keys)
    return epsilon * direction * radius[:, None, None, None] ** (1.0 / images[0].size)
