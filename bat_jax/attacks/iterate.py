"""Attacks that evaluate an iterate, its loss, gradient and verdict, and then move on from it."""

import abc
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bat_jax.attacks import inner_losses
from bat_jax.attacks.classifier import Images, LogitsFn, correct
from bat_jax.attacks.draws import Purpose
from bat_jax.attacks.protocol import Problem

Loss = Literal["cross_entropy", "dlr", "targeted_dlr"]

_LOSSES = {
    "cross_entropy": inner_losses.cross_entropy,
    "dlr": inner_losses.dlr,
    "targeted_dlr": inner_losses.targeted_dlr,
}
_PURPOSES = {
    "cross_entropy": Purpose.APGD_CROSS_ENTROPY,
    "dlr": Purpose.APGD_DLR,
    "targeted_dlr": Purpose.APGD_TARGETED,
}
_MIN_CLASSES = {"cross_entropy": 2, "dlr": 3, "targeted_dlr": 4}


class Evaluation(NamedTuple):
    """What the model shows at x.

    Attributes:
      gradient: of the loss at x, zero in pixels where it is not finite.
      loss: the loss to maximise.
      is_correct: whether x is classified correctly.
    """

    gradient: Images
    loss: Float[Array, " batch"]
    is_correct: Bool[Array, " batch"]


def evaluate(loss: Loss, logits_fn: LogitsFn, problem: Problem, x: Images) -> Evaluation:
    """Evaluates the model and the gradient of a loss at x."""

    def objective(x: Images) -> tuple[Float[Array, ""], tuple[Array, Array]]:
        logits = logits_fn(x)
        values = _LOSSES[loss](logits, problem.labels, problem.targets)
        return jnp.sum(values), (values, correct(logits, problem.labels))

    gradient, (values, is_correct) = jax.grad(objective, has_aux=True)(x)
    # The model may be finite elsewhere: leave non-finite pixels in place, move the others.
    return Evaluation(jnp.where(jnp.isfinite(gradient), gradient, 0.0), values, is_correct)


class Ascent(abc.ABC):
    """An attack that ascends a loss; `step` evaluates an iterate, `move` is up to the attack.

    Attributes:
      loss: the loss to maximise.
    """

    loss: Loss

    @property
    def purpose(self) -> Purpose:
        """The purpose of the random draws."""
        return _PURPOSES[self.loss]

    @property
    def min_classes(self) -> int:
        """The number of classes that the denominator of a DLR loss needs."""
        return _MIN_CLASSES[self.loss]

    def step(
        self, logits_fn: LogitsFn, problem: Problem, number: Int[Array, ""], state: Any
    ) -> Any:
        """Evaluates the iterate x_number, then moves to the next."""
        return self.move(evaluate(self.loss, logits_fn, problem, state.x), problem, number, state)

    @abc.abstractmethod
    def move(
        self, evaluation: Evaluation, problem: Problem, number: Int[Array, ""], state: Any
    ) -> Any:
        """Moves on from x_number, given what an evaluation of it has shown."""
