"""Attacks on randomised models: the loss and its gradient are means over draws of the model.

Source: Athalye, Engstrom, Ilyas & Kwok, Synthesizing Robust Adversarial Examples, arXiv:1707.07397
(expectation over transformation).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bat_jax.attacks.auto_pgd import Apgd
from bat_jax.attacks.auto_pgd_l1 import ApgdL1
from bat_jax.attacks.classifier import Images, RandomLogitsFn
from bat_jax.attacks.draws import Purpose, folded
from bat_jax.attacks.geometry import over_pixels
from bat_jax.attacks.iterate import Evaluation, evaluate
from bat_jax.attacks.protocol import Problem
from bat_jax.attacks.wrapped import Wrapped


class ExpectationState(NamedTuple):
    """The state of an attack on a randomised model.

    Attributes:
      inner: the state of the attack on the mean loss, since its last start.
      adversarial: the iterate of all starts misclassified in the most draws; of several, that with
        the largest mean loss.
      found: whether it is misclassified in half of the draws or more.
      flat: whether the first mean gradient was zero in every pixel.
      done: always false: an iterate that a few draws misclassify is no reason to stop.
      wrong: in how many draws `adversarial` is misclassified.
      loss: its mean loss.
    """

    inner: Any
    adversarial: Images
    found: Bool[Array, " batch"]
    flat: Bool[Array, " batch"]
    done: Bool[Array, " batch"]
    wrong: Int[Array, " batch"]
    loss: Float[Array, " batch"]


@dataclasses.dataclass(frozen=True)
class Expectation(Wrapped[Apgd | ApgdL1]):
    """An attack whose iterates are evaluated in several draws of the model.

    With the key k of an image and of the attack, draw j at iterate i, counted over all starts, uses
    the key of (k, EXPECTATION, i, j); images share no draws. The first start uses k, start s the
    key of (k, START, s). All starts run, because a few draws may misclassify an iterate by chance.

    Attributes:
      attack: the attack on the mean loss.
      draws: evaluations per iterate.
      starts: how often the attack starts.
    """

    draws: int
    starts: int = 1

    @property
    def num_steps(self) -> int:
        """How often `step` is called."""
        return self.starts * self.attack.num_steps

    def begin(self, problem: Problem) -> ExpectationState:
        """Returns the state of the attack before any evaluation."""
        inner = self.attack.begin(problem)
        no = jnp.zeros_like(inner.found)
        wrong = jnp.full(len(no), -1)
        loss = jnp.full(len(no), -jnp.inf)
        return ExpectationState(inner, problem.images, no, no, no, wrong, loss)

    def step(
        self,
        logits_fn: RandomLogitsFn,
        problem: Problem,
        number: Int[Array, ""],
        state: ExpectationState,
    ) -> ExpectationState:
        """Evaluates the iterate x_number in all draws, then moves to the next."""
        start, of_start = jnp.divmod(number, self.attack.num_steps)
        inner = jax.lax.cond(
            (start > 0) & (of_start == 0),
            lambda: self._restarted(problem, start),
            lambda: state.inner,
        )
        x = inner.x
        keys = folded(folded(problem.keys, int(Purpose.EXPECTATION)), number)

        def draw(sums: Any, index: Int[Array, ""]) -> tuple[Any, None]:
            drawn = folded(keys, index)
            gradient, loss, is_correct = evaluate(
                self.attack.loss, lambda images: logits_fn(images, drawn), problem, x
            )
            return jax.tree.map(jnp.add, sums, (gradient, loss, (~is_correct).astype(int))), None

        nothing = (jnp.zeros_like(x), jnp.zeros(len(x), x.dtype), jnp.zeros(len(x), int))
        (gradient, loss, wrong), _ = jax.lax.scan(draw, nothing, jnp.arange(self.draws))
        loss = loss / self.draws
        is_worst = (wrong > state.wrong) | ((wrong == state.wrong) & (loss > state.loss))
        most_wrong = jnp.where(is_worst, wrong, state.wrong)
        mean = Evaluation(gradient / self.draws, loss, 2 * wrong < self.draws)
        inner = self.attack.move(mean, problem, of_start, inner)
        return ExpectationState(
            inner=inner,
            adversarial=jnp.where(over_pixels(is_worst), x, state.adversarial),
            found=2 * most_wrong >= self.draws,
            flat=inner.flat,
            done=state.done,
            wrong=most_wrong,
            loss=jnp.where(is_worst, loss, state.loss),
        )

    def _restarted(self, problem: Problem, start: Int[Array, ""]) -> Any:
        """Returns the state of the inner attack at the beginning of a start after the first."""
        keys = folded(folded(problem.keys, int(Purpose.START)), start)
        return self.attack.begin(problem._replace(keys=keys))
