"""One evaluation of an iterate: the loss, its gradient and whether the model is right there."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bat_jax.attacks import inner_losses
from bat_jax.attacks.classifier import Images, LogitsFn, correct
from bat_jax.attacks.engine import Problem, Purpose

Loss = Literal["cross_entropy", "dlr", "targeted_dlr"]

_LOSSES = {
    "cross_entropy": inner_losses.cross_entropy,
    "dlr": inner_losses.dlr,
    "targeted_dlr": inner_losses.targeted_dlr,
}
PURPOSES = {
    "cross_entropy": Purpose.APGD_CROSS_ENTROPY,
    "dlr": Purpose.APGD_DLR,
    "targeted_dlr": Purpose.APGD_TARGETED,
}
MIN_CLASSES = {"cross_entropy": 2, "dlr": 3, "targeted_dlr": 4}


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
