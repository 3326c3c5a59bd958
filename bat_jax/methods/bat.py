"""Benign Adversarial Training: harmful atypical images are weighted down, benign ones kept."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
from jaxtyping import Array, Float

from bat_jax import losses
from bat_jax.fields import Choice, Real
from bat_jax.methods.base import (
    Batch,
    Method,
    Metrics,
    Setup,
    cross_entropy,
    weight_metrics,
)
from bat_jax.parallel import AXIS


class Bat(Method):
    """Minimises a reweighted cross-entropy plus beta_dl times the discrimination loss.

    The forms of the weight and of the discrimination loss are reconstructed: docs/method.md,
    sections 4 and 5.
    """

    name = "bat"
    title = "BAT (its weight and discrimination loss are reconstructed)"
    reference = "Xu et al., arXiv:2106.04794"
    takes_targets = True
    fields = {
        # How strongly confidence in a wrong class lowers the weight (section 4 of docs/method.md).
        "alpha": Real(1.0, low=0),
        # The images whose weights are lowered: those misclassified under attack, all, or those that
        # the file memorization.estimates calls memorized.
        "gate": Choice("misclassified", ("misclassified", "all", "memorized")),
        # The images whose confidence in a wrong class is used.
        "confidence": Choice("adversarial", ("adversarial", "clean")),
        # Divide the weighted losses of a batch by the sum of their weights, or, with none, by their
        # number.
        "normalize": Choice("sum", ("sum", "none")),
        # As for gairat; affects the weight only.
        "start_epoch": Real(None, low=0),
        # The factor of the discrimination loss (section 5).
        "beta_dl": Real(0.2, low=0),
        # tau of the similarities.
        "temperature": Real(0.1, above=0),
        # The similarity of features.
        "similarity": Choice("cosine", ("cosine", "dot")),
        # The images in the denominator: all others, or those of other classes.
        "denominator": Choice("all", ("all", "negatives")),
        # Whether positives are summed within the logarithm, or averaged outside of it.
        "pooling": Choice("sum", ("sum", "mean")),
    }

    def __init__(self, settings: Mapping[str, Any], setup: Setup) -> None:
        """Requests clean logits if the confidence is that on clean images."""
        super().__init__(settings, setup)
        self.clean: Literal["read"] | None = "read" if settings["confidence"] == "clean" else None

    @property
    def estimates_for(self) -> str | None:
        """The gate `memorized` needs estimates."""
        return "the gate 'memorized'" if self.settings["gate"] == "memorized" else None

    @property
    def needs_features(self) -> bool:
        """The discrimination loss compares features."""
        return bool(self.settings["beta_dl"] > 0)

    def weights(self, batch: Batch) -> Float[Array, " batch"]:
        """Returns `losses.bat_weights`."""
        return losses.bat_weights(
            batch.logits,
            batch.labels,
            alpha=self.settings["alpha"],
            gate=self.settings["gate"],
            memorization=batch.memorization,
            threshold=self.setup.threshold,
            confidence_logits=batch.clean_logits,
        )

    def loss(self, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        """Returns the loss and the distribution of the weights."""
        settings, weights = self.settings, self.applied(batch)
        total = losses.reweighted(
            cross_entropy(batch), weights, normalize=settings["normalize"], axis_name=AXIS
        )
        metrics = weight_metrics(weights)
        # Skipped rather than multiplied by 0, so that the loss equals PGD-AT's bit for bit.
        if settings["beta_dl"] > 0:
            assert batch.features is not None  # Checked before training.
            discrimination = losses.discrimination(
                batch.features,
                batch.labels,
                temperature=settings["temperature"],
                similarity=settings["similarity"],
                denominator=settings["denominator"],
                pooling=settings["pooling"],
                axis_name=AXIS,
            )
            total += settings["beta_dl"] * discrimination
            metrics["discrimination"] = jax.lax.stop_gradient(discrimination)
        return total, metrics
