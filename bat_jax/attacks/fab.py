"""Targeted FAB: the smallest perturbation that reaches another class.

Source: Croce & Hein, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary
Attack, arXiv:1907.02044; targeted as in arXiv:2003.01690.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bat_jax.attacks import checks, geometry, inner_losses, single
from bat_jax.attacks.checks import GivenImages, GivenLabels, GivenRadius
from bat_jax.attacks.classifier import Images, LogitsFn, correct
from bat_jax.attacks.draws import Purpose
from bat_jax.attacks.engine import Loop
from bat_jax.attacks.geometry import Norm, over_pixels
from bat_jax.attacks.protocol import Problem
from bat_jax.keys import GivenKey

_PIXELS = (1, 2, 3)
_DUALS: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
# Newton's method below takes two to five steps; this is only a guard against rounding.
_MOST_NEWTON_STEPS = 100


class FabState(NamedTuple):
    """The state of FAB.

    Attributes:
      adversarial: the nearest misclassified image to x0 found within epsilon, else x0.
      found: whether such an image was found.
      flat: whether the first gradient was zero in every pixel.
      done: whether the attack has ended for the image.
      x: the iterate.
      distance: of `adversarial` to x0, infinite unless found.
    """

    adversarial: Images
    found: Bool[Array, " batch"]
    flat: Bool[Array, " batch"]
    done: Bool[Array, " batch"]
    x: Images
    distance: Float[Array, " batch"]


@dataclasses.dataclass(frozen=True)
class FabTargeted:
    """FAB-T for the engine, with one target class t per image.

    With w = grad(z_t - z_y) at x and b = w.x - (z_t - z_y), the linearised boundary is
    {v : w.v = b}; d and d0 are the shortest steps to it in [0, 1] from x and from the original x0.

        alpha = min(||d|| / (||d|| + ||d0||), alpha_max)
        x <- clip((1 - alpha) (x + eta d) + alpha (x0 + eta d0))

    and where that is misclassified x <- x0 + beta (x - x0), to search closer to x0.

    Attributes:
      epsilon: radius within which a misclassified image counts.
      norm: `linf`, `l2` or `l1`; of the ball and of the steps.
      num_iterations: number of iterations.
      alpha_max: largest bias towards x0.
      eta: overshoot factor beyond the boundary.
      beta: factor of the step back towards x0.
      to_the_end: whether to search on after an image is found, for a nearer one.
    """

    epsilon: float
    norm: Norm
    num_iterations: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    to_the_end: bool = False
    segment: int = 10

    @property
    def purpose(self) -> Purpose:
        """The purpose of the random draws; FAB-T draws nothing."""
        return Purpose.FAB_TARGETED

    @property
    def min_classes(self) -> int:
        """Two: every model has enough classes."""
        return 2

    @property
    def num_steps(self) -> int:
        """One step per iteration."""
        return self.num_iterations

    def begin(self, problem: Problem) -> FabState:
        """Returns the original image: the attack has no random start."""
        count = len(problem.images)
        no = jnp.zeros(count, bool)
        return FabState(problem.images, no, no, no, problem.images, jnp.full(count, jnp.inf))

    def step(
        self, logits_fn: LogitsFn, problem: Problem, number: Int[Array, ""], state: FabState
    ) -> FabState:
        """Moves to the linearised boundary, and back if the image there is misclassified."""

        def lead(x: Images) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
            logits = logits_fn(x)
            lead = inner_losses.logit_of(logits, problem.targets) - inner_losses.logit_of(
                logits, problem.labels
            )
            return jnp.sum(lead), lead

        w, z = jax.grad(lead, has_aux=True)(state.x)
        return self._moved(logits_fn, problem, number, state, w, z)

    def _moved(
        self,
        logits_fn: LogitsFn,
        problem: Problem,
        number: Int[Array, ""],
        state: FabState,
        w: Images,
        z: Float[Array, " batch"],
    ) -> FabState:
        """Moves to the boundary where z_t - z_y, now z with the gradient w, is 0."""
        x0 = problem.images
        w = jnp.where(jnp.isfinite(w), w, 0.0)
        # w.x - b and w.x0 - b, without the cancellation of subtracting b.
        residuals = jnp.stack([z, z + geometry.pixel_sum(w * (x0 - state.x))])
        d, d0 = jax.vmap(shortest_steps, in_axes=(0, None, 0, None))(
            jnp.stack([state.x, x0]), w, residuals, self.norm
        )
        size, size0 = (jnp.maximum(geometry.length(v, self.norm), 1e-8) for v in (d, d0))
        alpha = over_pixels(jnp.minimum(size / (size + size0), self.alpha_max))
        x = (1 - alpha) * (state.x + self.eta * d) + alpha * (x0 + self.eta * d0)
        x = jnp.clip(x, 0.0, 1.0)

        is_wrong = ~correct(logits_fn(x), problem.labels)
        distance = geometry.length(x - x0, self.norm)
        is_nearest = (
            is_wrong & (distance <= problem.radius(self.epsilon)) & (distance < state.distance)
        )
        found = state.found | is_nearest
        return FabState(
            adversarial=jnp.where(over_pixels(is_nearest), x, state.adversarial),
            found=found,
            flat=jnp.where(number == 0, jnp.all(w == 0, axis=_PIXELS), state.flat),
            done=state.done if self.to_the_end else found,
            x=jnp.where(over_pixels(is_wrong), x0 + self.beta * (x - x0), x),
            distance=jnp.where(is_nearest, distance, state.distance),
        )


@dataclasses.dataclass(frozen=True)
class Fab(FabTargeted):
    """FAB without a target: each iteration moves towards the nearest linearised boundary.

    That of the class c with the least |z_c - z_y| / ||grad(z_c - z_y)||, in the dual norm. The
    first run starts at x; restarts, numbered in `problem.targets`, at a random distance of
    epsilon / 2 from it.
    """

    @property
    def purpose(self) -> Purpose:
        """The purpose of the random draws."""
        return Purpose.FAB

    def begin(self, problem: Problem) -> FabState:
        """Returns the original image, or a random start."""
        half = problem.radius(self.epsilon / 2)
        start = geometry.random_start(problem.keys, problem.images, half, self.norm)
        is_first = over_pixels(problem.targets == 0)
        x = jnp.where(is_first, problem.images, start)
        return super().begin(problem)._replace(x=x)

    def step(
        self, logits_fn: LogitsFn, problem: Problem, number: Int[Array, ""], state: FabState
    ) -> FabState:
        """Moves to the nearest linearised boundary, and back if the image there is wrong."""
        logits, pull = jax.vjp(logits_fn, state.x)
        own = jax.nn.one_hot(problem.labels, logits.shape[1], dtype=logits.dtype)
        leads = logits - inner_losses.logit_of(logits, problem.labels)[:, None]
        dual = _DUALS[self.norm]

        # One class at a time, because the gradients of all of them may not fit.
        def look(nearest: Any, label: Int[Array, ""]) -> tuple[Any, None]:
            w, z, distance = nearest
            (gradient,) = pull(jax.nn.one_hot(label, logits.shape[1], dtype=own.dtype)[None] - own)
            gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
            lead = leads[:, label]
            away = jnp.abs(lead) / (geometry.length(gradient, dual) + 1e-12)
            is_nearer = (away < distance) & (label != problem.labels)
            return (
                jnp.where(over_pixels(is_nearer), gradient, w),
                jnp.where(is_nearer, lead, z),
                jnp.where(is_nearer, away, distance),
            ), None

        far = jnp.full(len(logits), jnp.inf)
        begin = (jnp.zeros_like(state.x), jnp.zeros_like(far), far)
        (w, z, _), _ = jax.lax.scan(look, begin, jnp.arange(logits.shape[1]))
        return self._moved(logits_fn, problem, number, state, w, z)


def shortest_steps(x: Images, w: Images, residuals: Float[Array, " batch"], norm: Norm) -> Images:
    """Returns the shortest d with w.(x + d) = b and 0 <= x + d <= 1, per image.

    With the signs of w and r = w.x - b flipped such that r >= 0, and the room
    c_i = x_i where w_i > 0, else 1 - x_i,

        d_i = -sign(w_i) min(lambda s_i, c_i),   s_i = 1 for Linf, |w_i| for L2,

    where lambda solves sum_i |w_i| min(lambda s_i, c_i) = r; without a solution, d_i uses all room.
    The sum is concave and piecewise linear in lambda, so Newton's method from 0 approaches the root
    without overshooting, and is exact once it reaches the root's piece.

    For L1, pixels move in descending order of |w_i|, each by all of its room, the last by a part.

    Args:
      x: points of [0, 1], shape `[batch, height, width, channels]`.
      w: normals, same shape.
      residuals: r = w.x - b, shape `[batch]`.
      norm: the norm of d.
    """
    w = w * over_pixels(jnp.where(residuals < 0, -1.0, 1.0))
    r = jnp.abs(residuals)
    room = jnp.where(w > 0, x, 1 - x)
    weight = jnp.abs(w)
    if norm == "l1":
        return -jnp.sign(w) * _greedy(weight, room, r)
    speed = jnp.ones_like(w) if norm == "linf" else weight

    def climb(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        root, _, count = carry
        taken = over_pixels(root) * speed
        is_free = taken < room
        value = geometry.pixel_sum(weight * jnp.minimum(taken, room))
        slope = geometry.pixel_sum(jnp.where(is_free, weight * speed, 0.0))
        rise = jnp.where(slope > 0, (r - value) / jnp.where(slope > 0, slope, 1.0), 0.0)
        # Stop at a rise that is negative by rounding, or negligible.
        has_moved = rise > 1e-6 * root
        return jnp.where(has_moved, root + rise, root), has_moved, count + 1

    def is_climbing(carry: tuple[Array, Array, Array]) -> Bool[Array, ""]:
        return jnp.any(carry[1]) & (carry[2] < _MOST_NEWTON_STEPS)

    start = (jnp.zeros_like(r), jnp.ones_like(r, bool), jnp.zeros((), jnp.int32))
    root, _, _ = jax.lax.while_loop(is_climbing, climb, start)
    return -jnp.sign(w) * jnp.minimum(over_pixels(root) * speed, room)


def _greedy(weight: Images, room: Images, total: Float[Array, " batch"]) -> Images:
    """Returns how far pixels move, those of the largest weight first, for a weighted total."""
    weights, rooms = (values.reshape(len(values), -1) for values in (weight, room))
    # A pixel of hardly any weight would move far for nothing.
    rooms = jnp.where(weights > 1e-8, rooms, 0.0)
    order = jnp.argsort(-weights, axis=1)
    weights, rooms = (jnp.take_along_axis(v, order, axis=1) for v in (weights, rooms))
    gains = weights * rooms
    left = total[:, None] - (jnp.cumsum(gains, axis=1) - gains)
    moved = jnp.clip(left / jnp.maximum(weights, 1e-8), 0.0, rooms)
    back = jnp.argsort(order, axis=1)
    return jnp.take_along_axis(moved, back, axis=1).reshape(weight.shape)


def fab_targeted(
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
    batch_size: int = 256,
    loop: Loop | None = None,
) -> Images:
    """Returns the misclassified images within epsilon that FAB-T finds, else the originals.

    Args:
      logits_fn: [0, 1] images, NHWC, to logits; any JAX function.
      images: x, shape `[images, height, width, channels]`, float32 in [0, 1].
      labels: y, shape `[images]`.
      key: a single key, or one key per image; unused, because the attack draws nothing.
      epsilon: radius of the ball, in units of the [0, 1] pixel scale, or one per image.
      norm: `linf`, `l2` or `l1`.
      num_iterations: iterations per target.
      num_targets: how many classes to try, from the second largest clean logit down, at most all
        wrong classes.
      target_classes: the classes to try, by descending clean logit, at most `num_targets`; then
        only an image misclassified as one of them is done.
      batch_size: how many images to attack at a time.
      loop: see `bat_jax.attacks.engine.Engine`.

    Raises:
      UserError: images, labels or logits that are not as described, or a number out of range.
    """
    checks.whole("num_iterations", num_iterations, 0)
    checks.whole("num_targets", num_targets, 1)
    return single.run(
        lambda radius: FabTargeted(radius, norm, num_iterations),
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
