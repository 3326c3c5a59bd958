"""Auto-PGD in the L1 ball: sparse steps, whose sparsity adapts to that of the best image.

Source: Croce & Hein, Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers,
arXiv:2103.01208, section 4.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bat_jax.attacks import geometry
from bat_jax.attacks.classifier import Images
from bat_jax.attacks.geometry import Radius, over_pixels
from bat_jax.attacks.iterate import Ascent, Evaluation, Loss
from bat_jax.attacks.l1_ball import nearest_step
from bat_jax.attacks.protocol import Problem

# Radii, as multiples of epsilon, and shares of the iterations; the last stage has the rest.
_STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
# The share of coordinates that the first step moves, without stages.
_FIRST_SHARE = 0.2
# The share of coordinates that a step moves is that of the best image's, divided by this.
_EXPLORATION = 1.5


class ApgdL1State(NamedTuple):
    """The state of Auto-PGD in the L1 ball.

    Attributes:
      adversarial: the last misclassified iterate within epsilon, else the one with the largest
        loss of the current stage.
      found: whether an iterate within epsilon was misclassified.
      flat: whether the first gradient was zero in every pixel.
      x: the iterate to evaluate next.
      best: the iterate of the stage with the largest loss, `best_loss`, and its gradient
        `best_gradient`.
      step_size: eta.
      share: tau, the share of the coordinates that a step moves.
      changed: how many coordinates the best iterate changed at the last checkpoint.
    """

    adversarial: Images
    found: Bool[Array, " batch"]
    flat: Bool[Array, " batch"]
    x: Images
    best: Images
    best_gradient: Images
    best_loss: Float[Array, " batch"]
    step_size: Float[Array, " batch"]
    share: Float[Array, " batch"]
    changed: Float[Array, " batch"]

    @property
    def done(self) -> Bool[Array, " batch"]:
        """Whether the attack has ended for the image."""
        return self.found


@dataclasses.dataclass(frozen=True)
class ApgdL1(Ascent):
    """Auto-PGD in the L1 ball for the engine: one start, `num_iterations` iterations.

        s       = sign(g_i) where |g_i| is among its tau n largest entries, else 0
        x_{i+1} = x + P(x_i + eta s / ||s||_1 - x)

    P is `l1_ball.nearest_step`. eta begins at the radius. At a checkpoint, every 4 % of the
    iterations, tau becomes the share of coordinates in which the best iterate differs from x,
    divided by 1.5. If their number fell below 0.95 of that at the last checkpoint, eta returns to
    the radius and the attack to the best iterate; else eta is divided by 1.5, down to a tenth of
    the radius.

    With stages, the radius is 3, 2 and 1 times epsilon for 30 %, 30 % and 40 % of the iterations,
    each stage beginning at the best iterate of the last, projected. Only iterates of the last stage
    are within epsilon, and count.

    Attributes:
      epsilon: radius of the ball.
      loss: the loss to maximise.
      num_iterations: number of iterations.
      in_stages: whether the radius shrinks in stages.
    """

    epsilon: float
    loss: Loss
    num_iterations: int = 100
    in_stages: bool = True
    segment: int = 10

    @property
    def norm(self) -> Literal["l1"]:
        """The norm of the ball."""
        return "l1"

    @property
    def num_steps(self) -> int:
        """One more than the iterations per stage: the starts are evaluated too."""
        return len(self._schedule()[0])

    def begin(self, problem: Problem) -> ApgdL1State:
        """Returns the state at a random start, before any evaluation."""
        x = problem.images
        radius = problem.radius(float(self._schedule()[0][0]))
        start = _moved(x, geometry.normal(problem.keys, x), radius)
        count, size = len(x), math.prod(x.shape[1:])
        no, worst = jnp.zeros(count, bool), jnp.full(count, -jnp.inf)
        changed = _num_changed(start, x) if self.in_stages else jnp.full(count, float(size))
        return ApgdL1State(
            adversarial=start,
            found=no,
            flat=no,
            x=start,
            best=start,
            best_gradient=jnp.zeros_like(start),
            best_loss=worst,
            step_size=jnp.full(count, radius),
            share=changed / (_EXPLORATION * size)
            if self.in_stages
            else jnp.full(count, _FIRST_SHARE),
            changed=changed,
        )

    def move(
        self, evaluation: Evaluation, problem: Problem, number: Int[Array, ""], state: ApgdL1State
    ) -> ApgdL1State:
        """Moves on from x_number, given what an evaluation of it has shown."""
        gradient, loss, is_correct = evaluation
        radii, checkpoints, ends = (jnp.asarray(values) for values in self._schedule())
        radii = radii.astype(loss.dtype)
        is_checkpoint, is_end = checkpoints[number], ends[number]
        radius = problem.radius(radii[number])
        next_radius = problem.radius(radii[jnp.minimum(number + 1, len(radii) - 1)])
        size = math.prod(problem.images.shape[1:])

        is_wrong = ~is_correct & (radii[number] == radii[-1])
        is_best = loss > state.best_loss
        best = jnp.where(over_pixels(is_best), state.x, state.best)
        best_gradient = jnp.where(over_pixels(is_best), gradient, state.best_gradient)
        best_loss = jnp.where(is_best, loss, state.best_loss)
        kept = jnp.where(over_pixels(state.found), state.adversarial, best)
        flat = jnp.all(gradient == 0, axis=(1, 2, 3))

        changed = _num_changed(best, problem.images)
        returns = is_checkpoint & (changed < 0.95 * state.changed)
        share = jnp.where(is_checkpoint, changed / (_EXPLORATION * size), state.share)
        shorter = jnp.maximum(state.step_size / 1.5, radius / 10)
        eta = jnp.where(is_checkpoint, jnp.where(returns, radius, shorter), state.step_size)
        x = jnp.where(over_pixels(returns), best, state.x)
        gradient = jnp.where(over_pixels(returns), best_gradient, gradient)

        signs = _largest_signs(gradient, share)
        direction = signs / over_pixels(geometry.length(signs, "l1") + 1e-10)
        ascended = x - problem.images + over_pixels(eta) * direction
        offsets = jnp.where(is_end, best - problem.images, ascended)
        following = _moved(problem.images, offsets, next_radius)
        first_changed = _num_changed(following, problem.images)
        return ApgdL1State(
            adversarial=jnp.where(over_pixels(is_wrong), state.x, kept),
            found=state.found | is_wrong,
            flat=jnp.where(number == 0, flat, state.flat),
            x=following,
            best=best,
            best_gradient=best_gradient,
            best_loss=jnp.where(is_end, -jnp.inf, best_loss),
            step_size=jnp.where(is_end, next_radius, eta),
            share=jnp.where(is_end, first_changed / (_EXPLORATION * size), share),
            changed=jnp.where(
                is_end, first_changed, jnp.where(is_checkpoint, changed, state.changed)
            ),
        )

    def _schedule(
        self,
    ) -> tuple[Float[np.ndarray, " steps"], Bool[np.ndarray, " steps"], Bool[np.ndarray, " steps"]]:
        """Returns, per step: the radius, whether a checkpoint ends there, whether a stage does."""
        lengths, left = [], self.num_iterations
        for _, part in _STAGES[:-1] if self.in_stages else ():
            lengths.append(min(math.ceil(part * self.num_iterations), left))
            left -= lengths[-1]
        lengths.append(left)
        factors = [factor for factor, _ in _STAGES] if self.in_stages else [1.0]
        radii, checkpoints, ends = [], [], []
        for factor, length in zip(factors, lengths, strict=True):
            every = max(length * 4 // 100, 1)
            radii += [factor * self.epsilon] * (length + 1)
            checkpoints += [number > 0 and number % every == 0 for number in range(length + 1)]
            ends += [False] * length + [True]
        ends[-1] = False
        return np.array(radii, np.float32), np.array(checkpoints), np.array(ends)


def _moved(images: Images, steps: Images, radius: Radius) -> Images:
    """Returns x + P(u), exactly x where P(u) is 0."""
    return jnp.clip(images + nearest_step(steps, images, radius), 0.0, 1.0)


def _num_changed(x: Images, images: Images) -> Float[Array, " batch"]:
    return geometry.pixel_sum((x != images).astype(x.dtype))


def _largest_signs(gradient: Images, share: Float[Array, " batch"]) -> Images:
    """Returns the signs of the given share of entries, those largest in size, else 0."""
    size = jnp.abs(gradient).reshape(len(gradient), -1)
    count = size.shape[1]
    place = jnp.clip(jnp.floor((1 - share) * count).astype(jnp.int32), 0, count - 1)
    threshold = jnp.take_along_axis(jnp.sort(size, axis=1), place[:, None], axis=1)[:, 0]
    return jnp.where(jnp.abs(gradient) >= over_pixels(threshold), jnp.sign(gradient), 0.0)
