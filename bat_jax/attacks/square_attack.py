"""Square: random search with square-shaped updates, using logits but no gradients.

Source: Andriushchenko, Croce, Flammarion & Hein, Square Attack: a Query-Efficient Black-Box
Adversarial Attack via Random Search, arXiv:1912.00049, algorithms 1 to 3.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from bat_jax.attacks import checks, geometry, inner_losses, single, square_l1
from bat_jax.attacks.checks import GivenImages, GivenLabels, GivenRadius
from bat_jax.attacks.classifier import Images, LogitsFn, correct
from bat_jax.attacks.draws import Purpose
from bat_jax.attacks.engine import Loop
from bat_jax.attacks.geometry import Norm, over_pixels
from bat_jax.attacks.protocol import Problem
from bat_jax.attacks.windows import OneRadius, Pixels, between, exchange, window
from bat_jax.keys import GivenKey

# After how many queries the fraction p of pixels that a square covers is halved.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# How many queries to search for one that changes the image. In L2 and L1, nearly every query does.
_LOOK_AHEAD = {"linf": 3, "l2": 1, "l1": 1}
# The L2 attack starts from a grid with this many tiles per side.
_TILES = 5


class SquareState(NamedTuple):
    """The state of Square.

    Attributes:
      adversarial: the image with the smallest margin so far.
      found: whether it is misclassified.
      flat: always false; there is no gradient.
      margin: its z_y - max_{k != y} z_k, infinite before the first query.
      query: the number of the next query.
      done: whether it is misclassified or no queries are left.
    """

    adversarial: Images
    found: Bool[Array, " batch"]
    flat: Bool[Array, " batch"]
    margin: Float[Array, " batch"]
    query: Int[Array, " batch"]
    done: Bool[Array, " batch"]


@dataclasses.dataclass(frozen=True)
class Square:
    """Square for the engine.

    A query changes a square window of side s = round(sqrt(p h w)) at a random position, and is
    accepted if the margin z_y - max_{k != y} z_k falls or is not above 0. Misclassified images are
    left unchanged.

    Linf: the start is vertical stripes of +-epsilon, one sign per channel and column; a window is
    shifted by +-2 epsilon, one sign per channel, and clipped to the ball and to [0, 1].
    L2: see `_l2_start` and `_l2_query`. L1: see `square_l1`.

    A Linf window that already has its signs changes nothing (a fifth to a quarter of the queries on
    gray images). Such a query counts, but the model is not evaluated: a step is the next query that
    changes the image, so images differ in their query numbers.

    Attributes:
      epsilon: radius of the ball.
      norm: `linf`, `l2` or `l1`.
      num_queries: forward passes per image, after that of the start.
      p: fraction of the pixels that the first windows cover.
    """

    epsilon: float
    norm: Norm
    num_queries: int = 5000
    p: float = 0.8
    segment: int = 100

    @property
    def purpose(self) -> Purpose:
        """The purpose of the random draws."""
        return Purpose.SQUARE

    @property
    def min_classes(self) -> int:
        """Two: every model has enough classes."""
        return 2

    @property
    def num_steps(self) -> int:
        """One more than the queries: the start is evaluated too."""
        return self.num_queries + 1

    def begin(self, problem: Problem) -> SquareState:
        """Returns the state at the stripes or tiles, before any evaluation."""
        start = _STARTS[self.norm]
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 0))(problem.keys)
        images = jax.vmap(
            lambda x, key, epsilon: start(x, key, epsilon=epsilon),
            in_axes=(0, 0, _axis(problem)),
        )(problem.images, keys, problem.radius(self.epsilon))
        no = jnp.zeros(len(images), bool)
        first = jnp.ones(len(images), jnp.int32)
        return SquareState(images, no, no, jnp.full(len(images), jnp.inf), first, no)

    def step(
        self, logits_fn: LogitsFn, problem: Problem, number: Int[Array, ""], state: SquareState
    ) -> SquareState:
        """Evaluates the start if `number` is 0, else the best image with one window changed."""
        changed, next_query = jax.vmap(self._next_change, in_axes=(0, 0, 0, 0, _axis(problem)))(
            problem.images,
            state.adversarial,
            problem.keys,
            state.query,
            problem.radius(self.epsilon),
        )
        is_start = number == 0
        candidate = jnp.where(is_start, state.adversarial, changed)
        query = jnp.where(is_start, state.query, next_query)
        logits = logits_fn(candidate)
        margin = inner_losses.margin(logits, problem.labels)
        is_wrong = ~correct(logits, problem.labels)  # Not just margin < 0: NaN is wrong too.
        is_better = (margin < state.margin) | (margin <= 0) | is_wrong
        is_better &= ~state.done
        found = state.found | (is_wrong & ~state.done)
        return SquareState(
            adversarial=jnp.where(over_pixels(is_better), candidate, state.adversarial),
            found=found,
            flat=state.flat,
            margin=jnp.where(is_better, margin, state.margin),
            query=query,
            done=found | (query > self.num_queries),
        )

    def _next_change(
        self,
        x: Pixels,
        best: Pixels,
        key: Key[Array, ""],
        query: Int[Array, ""],
        epsilon: OneRadius,
    ) -> tuple[Pixels, Int[Array, ""]]:
        """Returns the next query's image that differs from `best`, and the query after it.

        Looks a few queries ahead, and returns `best` if none of them changes it.
        """
        change = _QUERIES[self.norm]
        look_ahead = _LOOK_AHEAD[self.norm]
        sides = jnp.asarray(self._sides(x.shape[0], x.shape[1]))
        chosen, following = best, query + look_ahead
        for ahead in reversed(range(look_ahead)):
            number = query + ahead
            image = change(
                x,
                best,
                jax.random.fold_in(key, number),
                epsilon=epsilon,
                side=sides[jnp.minimum(number, self.num_queries)],
            )
            is_query = jnp.any(image != best) & (number <= self.num_queries)
            chosen = jnp.where(is_query, image, chosen)
            following = jnp.where(is_query, number + 1, following)
        return chosen, following

    def _sides(self, height: int, width: int) -> Int[np.ndarray, " steps"]:
        """Returns the side of the window per step; the first step has no window."""
        sides = []
        for query in range(self.num_queries):
            p = self.p / 2 ** sum(query > after for after in _HALVINGS)
            side = round(math.sqrt(p * height * width))
            if self.norm == "l1":
                sides.append(min(max(side, 3) | 1, height, width))
            elif self.norm == "l2":
                side = max(side, 3) | 1  # Odd, so that the pyramids have a center.
                sides.append(min(side, (min(height, width) - 1) | 1))
            else:
                sides.append(min(max(side, 1), height, width))
        return np.array([0, *sides], np.int32)


def _axis(problem: Problem) -> int | None:
    """Returns the axis of `problem.radius` over images, None for one radius."""
    return None if problem.scale is None else 0


def _linf_start(x: Pixels, key: Key[Array, ""], *, epsilon: OneRadius) -> Pixels:
    signs = jax.random.rademacher(key, (1, *x.shape[1:]), x.dtype)
    return jnp.clip(x + epsilon * signs, 0.0, 1.0)


def _linf_query(
    x: Pixels, best: Pixels, key: Key[Array, ""], *, epsilon: OneRadius, side: Int[Array, ""]
) -> Pixels:
    draws = jax.random.uniform(key, (2 + x.shape[2],), x.dtype)
    inside = window(x, draws[:2], side)[2]
    shift = 2 * epsilon * jnp.where(draws[2:] < 0.5, -1.0, 1.0)[None, None, :]
    shifted = jnp.clip(best + shift, jnp.maximum(x - epsilon, 0.0), jnp.minimum(x + epsilon, 1.0))
    return jnp.where(inside[:, :, None], shifted, best)


def _l2_start(x: Pixels, key: Key[Array, ""], *, epsilon: OneRadius) -> Pixels:
    """Returns x plus a 5 x 5 grid of pyramid pairs with random signs, of total length epsilon."""
    height, width, channels = x.shape
    side = max(min(height, width) // _TILES, 1)
    rows = jnp.arange(height) - (height - side * _TILES) // 2
    columns = jnp.arange(width) - (width - side * _TILES) // 2
    in_grid = between(rows, side * _TILES)[:, None] & between(columns, side * _TILES)[None, :]

    draws = jax.random.bernoulli(key, shape=(_TILES, _TILES, channels + 1))
    tile = jnp.clip(rows // side, 0, _TILES - 1), jnp.clip(columns // side, 0, _TILES - 1)
    of_pixel = draws[tile[0][:, None], tile[1][None, :]]
    patterns = [
        _pyramids(rows % side, columns % side, jnp.int32(side), is_turned=turned)
        for turned in (False, True)
    ]
    pattern = jnp.where(of_pixel[:, :, -1], patterns[1], patterns[0])
    signs = jnp.where(of_pixel[:, :, :-1], 1.0, -1.0)
    offset = jnp.where(in_grid[:, :, None], pattern[:, :, None] * signs, 0.0)
    return _l2_image(x, offset, epsilon)


def _l2_query(
    x: Pixels, best: Pixels, key: Key[Array, ""], *, epsilon: OneRadius, side: Int[Array, ""]
) -> Pixels:
    """Moves the perturbation of a second window into a first, and adds a pyramid pair there.

    With v = best - x and windows W1 and W2, per channel i and a random sign rho:

        u        = rho eta + v_{W1,i} / ||v_{W1,i}||
        v_{W2,i} = 0,   v_{W1,i} = u / ||u|| sqrt(||v_{W1 u W2,i}||^2 + (epsilon^2 - ||v||^2) / c)
    """
    eta, rho, in_first, either = exchange(x, key, side, _pyramids)
    v = best - x
    u = rho * _unit(eta[:, :, None]) + _unit(jnp.where(in_first, v, 0.0))
    unused = jnp.maximum(epsilon**2 - jnp.sum(v**2), 0.0)
    available = jnp.sqrt(
        jnp.sum(jnp.where(either, v, 0.0) ** 2, axis=(0, 1), keepdims=True) + unused / x.shape[2]
    )
    moved = jnp.where(in_first, _unit(u) * available, jnp.where(either, 0.0, v))
    return _l2_image(x, moved, epsilon)


def _l2_image(x: Pixels, offset: Pixels, epsilon: OneRadius) -> Pixels:
    scaled = geometry.scaled_to(offset[None], epsilon, "l2")[0]
    return jnp.clip(x + scaled, 0.0, 1.0)


def _unit(values: Float[Array, "height width _"]) -> Float[Array, "height width _"]:
    """Scales every channel to length 1; zeros stay zeros."""
    return values / (jnp.sqrt(jnp.sum(values**2, axis=(0, 1), keepdims=True)) + 1e-12)


def _pyramids(
    rows: Int[Array, " height"],
    columns: Int[Array, " width"],
    side: Int[Array, ""],
    *,
    is_turned: bool,
) -> Float[Array, "height width"]:
    """Returns eta: a pyramid on one half of a square window, its negative on the other.

    A pyramid's value at Chebyshev distance d from its middle is the sum of 1 / k^2 for k from
    d + 1 to side // 2 + 1. Values outside the window are meaningless.

    Args:
      rows: a pixel's row in the window.
      columns: its column in the window.
      side: of the window.
      is_turned: whether the halves are left and right rather than upper and lower.
    """
    if is_turned:
        return _pyramids(columns, rows, side, is_turned=False).T
    half = side // 2
    is_upper = rows < half
    middle = jnp.where(is_upper, half // 2, half + (side - half) // 2)
    distance = jnp.maximum(jnp.abs(rows - middle)[:, None], jnp.abs(columns - half)[None, :])
    longest = len(rows) + len(columns)
    sums = jnp.asarray(np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, longest) ** 2)]), "f4")
    # At a corner of the lower half, rounding makes the distance exceed side / 2: the height is 0.
    height = jnp.maximum(sums[half + 1] - sums[jnp.clip(distance, 0, longest - 1)], 0.0)
    return jnp.where(is_upper[:, None], height, -height)


_STARTS = {"linf": _linf_start, "l2": _l2_start, "l1": square_l1.start}
_QUERIES = {"linf": _linf_query, "l2": _l2_query, "l1": square_l1.query}


def square(
    logits_fn: LogitsFn,
    images: GivenImages,
    labels: GivenLabels,
    key: GivenKey,
    *,
    epsilon: GivenRadius,
    norm: Norm = "linf",
    num_queries: int = 5000,
    p: float = 0.8,
    batch_size: int = 256,
    loop: Loop | None = None,
) -> Images:
    """Returns the images with the smallest margin that Square finds.

    Args:
      logits_fn: [0, 1] images, NHWC, to logits; any JAX function.
      images: x, shape `[images, height, width, channels]`, float32 in [0, 1].
      labels: y, shape `[images]`.
      key: a single key, or one key per image to make draws independent of the position in `images`.
      epsilon: radius of the ball, in units of the [0, 1] pixel scale, or one per image.
      norm: `linf`, `l2` or `l1`.
      num_queries: forward passes per image, after that of the start.
      p: fraction of the pixels that the first windows cover.
      batch_size: how many images to attack at a time.
      loop: see `bat_jax.attacks.engine.Engine`.

    Raises:
      UserError: images, labels or logits that are not as described, or a number out of range.
    """
    checks.whole("num_queries", num_queries, 0)
    share = checks.number(
        "p", p, "a number above 0 and at most 1, such as 0.8", lambda one: 0 < one <= 1
    )
    return single.run(
        lambda radius: Square(radius, norm, num_queries, share),
        logits_fn,
        images,
        labels,
        key,
        epsilon=epsilon,
        norm=norm,
        batch_size=batch_size,
        loop=loop,
    )
