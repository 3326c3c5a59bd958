"""The training history of every example: its losses, and how often it was forgotten.

An example is forgotten if it is classified correctly at one presentation and wrongly at the next
(Toneva et al., An Empirical Study of Example Forgetting during Deep Neural Network Learning,
arXiv:1812.05159). The training step computes both anyway, so that they cost nothing.
"""

from typing import Protocol, runtime_checkable

import flax.struct
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Int32

from bat_jax.attacks.classifier import correct


@runtime_checkable
class Classified(Protocol):
    """Images with their labels and what a model made of them."""

    @property
    def labels(self) -> Int[Array, " batch"]:
        """Class indices."""

    @property
    def logits(self) -> Float[Array, "batch classes"]:
        """Of the images as they are trained on."""


class History(flax.struct.PyTreeNode):
    """A row for each row of the training split; the same on every device.

    Attributes:
      presented: how often the example was trained on.
      loss_sum: sum of its cross-entropy (nats) over these presentations, before each update, on the
        image that was trained on: augmented and, except for `standard`, adversarial.
      forgotten: how often a correct classification was followed by a wrong one.
      is_correct: whether the last classification was correct.
    """

    presented: Int32[Array, " examples"]
    loss_sum: Float[Array, " examples"]
    forgotten: Int32[Array, " examples"]
    is_correct: Bool[Array, " examples"]

    @property
    def ever_correct(self) -> Bool[Array, " examples"]:
        """Whether the example was ever classified correctly: it still is, or it was forgotten."""
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
        """Returns the history after a batch of these rows, which must be distinct."""
        losses, is_correct = observed
        is_forgotten = self.is_correct[rows] & ~is_correct
        return History(
            presented=self.presented.at[rows].add(1),
            loss_sum=self.loss_sum.at[rows].add(losses),
            forgotten=self.forgotten.at[rows].add(is_forgotten.astype(jnp.int32)),
            is_correct=self.is_correct.at[rows].set(is_correct),
        )


def create(examples: int) -> History:
    """Returns the history before training."""
    return History(
        presented=jnp.zeros(examples, jnp.int32),
        loss_sum=jnp.zeros(examples),
        forgotten=jnp.zeros(examples, jnp.int32),
        is_correct=jnp.zeros(examples, bool),
    )
