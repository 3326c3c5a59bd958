"""What training has seen of every example: its losses, and how often it was forgotten.

An example is forgotten where it is classified correctly when it is presented and wrongly when it is
presented next (Toneva et al., An Empirical Study of Example Forgetting during Deep Neural Network
Learning, arXiv:1812.05159). Both are by-products of the step, so that they cost nothing.
"""

from typing import Protocol

import flax.struct
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Int32

from bat_jax.attacks.classifier import correct


class Classified(Protocol):
    """Images with their labels and what a model made of them."""

    @property
    def labels(self) -> Int[Array, " batch"]:
        """Class indices."""

    @property
    def logits(self) -> Float[Array, "batch classes"]:
        """Of the images as they are trained on."""


class History(flax.struct.PyTreeNode):
    """Per training example, in the rows of the training split; the same on every device.

    Attributes:
      presented: how often it was trained on.
      loss_sum: of its cross-entropy (nats) at each of these, before the update, as it was trained
        on: augmented and, but for `standard`, adversarial.
      forgotten: how often it was right once and wrong the next time.
      is_correct: whether it was right the last time.
    """

    presented: Int32[Array, "examples"]
    loss_sum: Float[Array, "examples"]
    forgotten: Int32[Array, "examples"]
    is_correct: Bool[Array, "examples"]

    @property
    def ever_correct(self) -> Bool[Array, "examples"]:
        """Whether it was ever right: it still is, or it was forgotten."""
        return self.is_correct | (self.forgotten > 0)

    def observed(self, batch: Classified) -> tuple[Float[Array, " batch"], Bool[Array, " batch"]]:
        """Returns the cross-entropy of each image, and whether it is classified correctly."""
        losses = optax.softmax_cross_entropy_with_integer_labels(batch.logits, batch.labels)
        return losses, correct(batch.logits, batch.labels)

    def after(
        self,
        rows: Int32[Array, " batch"],
        observed: tuple[Float[Array, " batch"], Bool[Array, " batch"]],
    ) -> "History":
        """Returns the history after a batch of these rows, each of them there once."""
        losses, is_correct = observed
        is_forgotten = self.is_correct[rows] & ~is_correct
        return History(
            presented=self.presented.at[rows].add(1),
            loss_sum=self.loss_sum.at[rows].add(losses),
            forgotten=self.forgotten.at[rows].add(is_forgotten.astype(jnp.int32)),
            is_correct=self.is_correct.at[rows].set(is_correct),
        )


def create(examples: int) -> History:
    """Returns the history of so many examples before training."""
    return History(
        presented=jnp.zeros(examples, jnp.int32),
        loss_sum=jnp.zeros(examples),
        forgotten=jnp.zeros(examples, jnp.int32),
        is_correct=jnp.zeros(examples, bool),
    )
