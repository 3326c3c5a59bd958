"""Auto-PGD: projected gradient descent with momentum and an adaptive step size.

Source: Croce & Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
Parameter-free Attacks, arXiv:2003.01690, section 4.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bat_jax.attacks import checks, geometry, single
from bat_jax.attacks.auto_pgd_l1 import ApgdL1
from bat_jax.attacks.checks import GivenImages, GivenLabels, GivenRadius
from bat_jax.attacks.classifier import Images, LogitsFn
from bat_jax.attacks.engine import Loop
from bat_jax.attacks.geometry import Norm, over_pixels, project
from bat_jax.attacks.iterate import Ascent, Evaluation, Loss
from bat_jax.attacks.protocol import Problem
from bat_jax.errors import UserError
from bat_jax.keys import GivenKey

_MOMENTUM = 0.75


class ApgdState(NamedTuple):
    """The state of Auto-PGD.

    Attributes:
      adversarial: the last misclassified iterate, else the one with the largest loss.
      found: whether an iterate was misclassified.
      flat: whether the first gradient was zero in every pixel.
      x: the iterate to evaluate next.
      previous: the iterate before x.
      loss: of the iterate before x.
      best: the iterate with the largest loss, `best_loss`, and the gradient `best_gradient`.
      step_size: eta.
      rises: how often the loss increased since the last checkpoint.
      halved: whether eta was halved at the last checkpoint.
      checkpoint_loss: `best_loss` at the last checkpoint.
    """

    adversarial: Images
    found: Bool[Array, " batch"]
    flat: Bool[Array, " batch"]
    x: Images
    previous: Images
    loss: Float[Array, " batch"]
    best: Images
    best_gradient: Images
    best_loss: Float[Array, " batch"]
    step_size: Float[Array, " batch"]
    rises: Int[Array, " batch"]
    halved: Bool[Array, " batch"]
    checkpoint_loss: Float[Array, " batch"]

    @property
    def done(self) -> Bool[Array, " batch"]:
        """Whether the attack has ended for the image."""
        return self.found


@dataclasses.dataclass(frozen=True)
class Apgd(Ascent):
    """Auto-PGD for the engine: one start, `num_iterations` iterations.

        z_i     = P(x_i + eta steepest(g_i))
        x_{i+1} = P(x_i + a (z_i - x_i) + (1 - a) (x_i - x_{i-1})),   a = 1 for i = 0, then 0.75

    eta begins at 2 epsilon. At a checkpoint that ends an interval of k iterations it is halved,
    and the attack returns to the best iterate, if either (i) the loss rose in at most rho k of
    them, or (ii) eta was not halved at the last checkpoint and the best loss has not risen since.

    Attributes:
      epsilon: radius of the ball.
      norm: `linf` or `l2`.
      loss: the loss to maximise.
      num_iterations: number of iterations.
      rho: fraction of rising iterations below which eta is halved.
    """

    epsilon: float
    norm: Norm
    loss: Loss
    num_iterations: int = 100
    rho: float = 0.75
    segment: int = 10

    @property
    def num_steps(self) -> int:
        """One more than the iterations: the start is evaluated too."""
        return self.num_iterations + 1

    def begin(self, problem: Problem) -> ApgdState:
        """Returns the state at a random start, before any evaluation."""
        epsilon = problem.radius(self.epsilon)
        start = geometry.random_start(problem.keys, problem.images, epsilon, self.norm)
        count = len(start)
        no, worst = jnp.zeros(count, bool), jnp.full(count, -jnp.inf)
        return ApgdState(
            adversarial=start,
            found=no,
            flat=no,
            x=start,
            previous=start,
            loss=-worst,  # The start is not a rise.
            best=start,
            best_gradient=jnp.zeros_like(start),
            best_loss=worst,
            step_size=jnp.full(count, 2.0 * epsilon),
            rises=jnp.zeros(count, jnp.int32),
            halved=~no,  # So that (ii) cannot hold at the first checkpoint.
            checkpoint_loss=worst,
        )

    def move(
        self, evaluation: Evaluation, problem: Problem, number: Int[Array, ""], state: ApgdState
    ) -> ApgdState:
        """Moves on from x_number, given what an evaluation of it has shown."""
        gradient, loss, is_correct = evaluation
        found = state.found | ~is_correct
        is_best = loss > state.best_loss
        best = jnp.where(over_pixels(is_best), state.x, state.best)
        best_gradient = jnp.where(over_pixels(is_best), gradient, state.best_gradient)
        best_loss = jnp.where(is_best, loss, state.best_loss)
        kept = jnp.where(over_pixels(state.found), state.adversarial, best)
        flat = jnp.all(gradient == 0, axis=(1, 2, 3))

        rises = state.rises + (loss > state.loss).astype(jnp.int32)
        interval = jnp.asarray(_intervals(self.num_iterations))[number]
        is_checkpoint = interval > 0
        has_stalled = ~state.halved & (best_loss <= state.checkpoint_loss)
        is_oscillating = rises.astype(jnp.float32) <= self.rho * interval.astype(jnp.float32)
        halved = is_oscillating | has_stalled
        halve = halved & is_checkpoint
        x = jnp.where(over_pixels(halve), best, state.x)
        gradient = jnp.where(over_pixels(halve), best_gradient, gradient)
        step_size = jnp.where(halve, state.step_size / 2, state.step_size)

        moved = x + over_pixels(step_size) * geometry.steepest(gradient, self.norm)
        epsilon = problem.radius(self.epsilon)
        target = project(moved, problem.images, epsilon, self.norm)
        a = jnp.where(number == 0, 1.0, _MOMENTUM)
        mixed = x + a * (target - x) + (1 - a) * (x - state.previous)
        return ApgdState(
            adversarial=jnp.where(over_pixels(is_correct), kept, state.x),
            found=found,
            flat=jnp.where(number == 0, flat, state.flat),
            x=project(mixed, problem.images, epsilon, self.norm),
            previous=x,
            loss=loss,
            best=best,
            best_gradient=best_gradient,
            best_loss=best_loss,
            step_size=step_size,
            rises=jnp.where(is_checkpoint, 0, rises),
            halved=jnp.where(is_checkpoint, halved, state.halved),
            checkpoint_loss=jnp.where(is_checkpoint, best_loss, state.checkpoint_loss),
        )


def _intervals(num_iterations: int) -> Int[np.ndarray, " steps"]:
    """Returns, per iteration count, the length of the interval that ends there, else 0.

    Intervals start at 22 % of all iterations and shrink by 3 % each, down to 6 %.
    """
    shortest, shrink, interval = (max(num_iterations * p // 100, 1) for p in (6, 3, 22))
    intervals = np.zeros(num_iterations + 1, np.int32)
    checkpoint = interval
    while checkpoint <= num_iterations:
        intervals[checkpoint] = interval
        interval = max(interval - shrink, shortest)
        checkpoint += interval
    return intervals


def create(
    epsilon: float,
    norm: Norm,
    loss: Loss,
    num_iterations: int = 100,
    rho: float = 0.75,
    *,
    in_stages: bool = True,
) -> Apgd | ApgdL1:
    """Returns Auto-PGD in the ball of a norm; only in L1 does it have stages."""
    if norm == "l1":
        return ApgdL1(epsilon, loss, num_iterations, in_stages)
    return Apgd(epsilon, norm, loss, num_iterations, rho)


def _share(rho: Any) -> float:
    return checks.number("rho", rho, "a number of 0 to 1, such as 0.75", lambda one: 0 <= one <= 1)


def apgd(
    logits_fn: LogitsFn,
    images: GivenImages,
    labels: GivenLabels,
    key: GivenKey,
    *,
    epsilon: GivenRadius,
    norm: Norm = "linf",
    loss: Literal["cross_entropy", "dlr"] = "cross_entropy",
    num_iterations: int = 100,
    rho: float = 0.75,
    batch_size: int = 256,
    loop: Loop | None = None,
) -> Images:
    """Returns adversarial images of Auto-PGD: misclassified, else with the largest loss.

    Args:
      logits_fn: [0, 1] images, NHWC, to logits; any JAX function.
      images: x, shape `[images, height, width, channels]`, float32 in [0, 1].
      labels: y, shape `[images]`.
      key: a single key, or one key per image to make draws independent of the position in `images`.
      epsilon: radius of the ball, in units of the [0, 1] pixel scale, or one per image.
      norm: `linf`, `l2` or `l1`.
      loss: `cross_entropy`, or `dlr`, which needs three classes.
      num_iterations: number of iterations.
      rho: fraction of rising iterations below which the step size is halved; unused in L1.
      batch_size: how many images to attack at a time.
      loop: see `bat_jax.attacks.engine.Engine`.

    Raises:
      UserError: images, labels or logits that are not as described, or a number out of range.
    """
    if loss not in ("cross_entropy", "dlr"):
        raise UserError(f"apgd: loss is {loss!r}; expected cross_entropy or dlr")
    checks.whole("num_iterations", num_iterations, 0)
    share = _share(rho)
    return single.run(
        lambda radius: create(radius, norm, loss, num_iterations, share),
        logits_fn,
        images,
        labels,
        key,
        epsilon=epsilon,
        norm=norm,
        batch_size=batch_size,
        loop=loop,
    )


def apgd_targeted(
    logits_fn: LogitsFn,
    images: GivenImages,
    labels: GivenLabels,
    key: GivenKey,
    *,
    epsilon: GivenRadius,
    norm: Norm = "linf",
    num_iterations: int = 100,
    num_targets: int = 9,
    target_classes: Sequence[int] | None = None,
    rho: float = 0.75,
    batch_size: int = 256,
    loop: Loop | None = None,
) -> Images:
    """Returns adversarial images of Auto-PGD on the targeted DLR loss, for a sequence of targets.

    Args:
      logits_fn: [0, 1] images, NHWC, to logits of four classes or more; any JAX function.
      images: x, shape `[images, height, width, channels]`, float32 in [0, 1].
      labels: y, shape `[images]`.
      key: a single key, or one key per image.
      epsilon: radius of the ball, in units of the [0, 1] pixel scale, or one per image.
      norm: `linf`, `l2` or `l1`.
      num_iterations: iterations per target.
      num_targets: how many classes to try, from the second largest clean logit down, at most all
        wrong classes. An image misclassified as any class is done.
      target_classes: the classes to try, by descending clean logit, at most `num_targets`; then
        only an image misclassified as one of them is done.
      rho: fraction of rising iterations below which the step size is halved; unused in L1.
      batch_size: how many images to attack at a time.
      loop: see `bat_jax.attacks.engine.Engine`.

    Raises:
      UserError: images, labels or logits that are not as described, or a number out of range.
    """
    checks.whole("num_iterations", num_iterations, 0)
    checks.whole("num_targets", num_targets, 1)
    share = _share(rho)
    return single.run(
        lambda radius: create(radius, norm, "targeted_dlr", num_iterations, share),
        logits_fn,
        images,
        labels,
        key,
        epsilon=epsilon,
        norm=norm,
        num_targets=num_targets,
        target_classes=target_classes,
        batch_size=batch_size,
        loop=loop,
    )
