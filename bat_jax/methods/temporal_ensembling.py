"""Temporal ensembling (TE): predictions are kept close to their own running average."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from bat_jax import losses
from bat_jax.fields import Choice, Real
from bat_jax.methods.base import Attack, Batch, Method, Metrics, Setup, Visit, cross_entropy, mean


class Predictions(flax.struct.PyTreeNode):
    """The running average of each example's class probabilities, 0 before its first visit.

    Attributes:
      average: E, shape `[examples, classes]`.
    """

    average: Any  # JAX rebuilds it around shapes and NumPy arrays too.

    def observed(self, batch: Batch) -> Float[Array, "batch classes"]:
        """Returns the averages of a batch, this visit included."""
        return batch.before.average

    def after(
        self, rows: Int32[Array, " batch"], observed: Float[Array, "batch classes"]
    ) -> "Predictions":
        """Returns the averages after a batch of these rows."""
        return self.replace(average=self.average.at[rows].set(observed))


class Remembered(NamedTuple):
    """The values that the attack and the loss use for each image.

    Attributes:
      average: E_i, this visit included.
      target: t_i.
      weight: w, the same for all.
      logits: z(x_i) in evaluation mode.
    """

    average: Float[Array, "batch classes"]
    target: Float[Array, "batch classes"]
    weight: Float[Array, " batch"]
    logits: Float[Array, "batch classes"]


class TemporalEnsembling(Method):
    """Adds w R to the loss of PGD-AT or TRADES, and to what its attack maximises.

        E_i <- m E_i + (1 - m) p(x_i),   t_i = E_i / sum_k E_ik,   R_i(q) = mean_k (q_ik - t_ik)^2

    The average E_i is updated at each visit of example i, before its attack. The loss has R(p(x'))
    for PGD-AT and R(p(x)) for TRADES; the attack maximises R(p(x')) for both. See docs/method.md,
    section 8.
    """

    name = "te"
    title = "temporal ensembling"
    reference = "Dong et al., Exploring Memorization in Adversarial Training, arXiv:2106.01606"
    takes_targets = True
    fields = {
        # The method that it regularises.
        "base": Choice("pgd_at", ("pgd_at", "trades")),
        # The weight of the divergence, for the base trades.
        "beta": Real(6.0, low=0),
        # The largest w.
        "weight": Real(300.0, low=0),
        # R_i is the mean over classes, or the sum: ||q_i - t_i||^2, which does not shrink with
        # their number.
        "over_classes": Choice("mean", ("mean", "sum")),
        # m of the running average.
        "momentum": Real(0.9, low=0, below=1),
        # Epoch from which averages are kept and w applies.
        "start_epoch": Real(89.0, low=0),
        # Epochs in which w rises to its largest value.
        "ramp_epochs": Real(60.0, low=0),
    }

    def __init__(self, settings: Mapping[str, Any], setup: Setup) -> None:
        """Chooses the attack and the forward passes of the base."""
        super().__init__(settings, setup)
        is_trades = settings["base"] == "trades"
        self.attack = Attack(self._attacked, gaussian_start=0.001 if is_trades else 0.0)
        self.clean = "trained" if is_trades else None

    def memory(self, examples: int) -> dict[str, Any]:
        """Returns the averages of all examples, which start at 0."""
        return {"predictions": Predictions(jnp.zeros((examples, self.setup.num_classes)))}

    def before(self, visit: Visit) -> Remembered:
        """Returns the averages with this visit, and the weight of the regulariser."""
        momentum, old = self.settings["momentum"], visit.memory["predictions"].average
        new = momentum * old + (1 - momentum) * jax.nn.softmax(visit.logits)
        average = jnp.where(visit.epoch >= self.settings["start_epoch"], new, old)
        return Remembered(
            average=average,
            target=losses.temporal_target(average),
            weight=jnp.full(visit.labels.shape, self.weight(visit.epoch)),
            logits=visit.logits,
        )

    def weight(self, epoch: Float[Array, ""]) -> Float[Array, ""]:
        """Returns w: 0 before the start, then weight * exp(-5 (1 - r)^2).

        r rises from 0 to 1 over `ramp_epochs`. w is constant within an epoch.

        Args:
          epoch: epochs completed, with their fraction.
        """
        start, length = self.settings["start_epoch"], self.settings["ramp_epochs"]
        done = jnp.floor(epoch) - start
        risen = jnp.clip(done / length, 0.0, 1.0) if length else jnp.ones(())
        ramped = self.settings["weight"] * jnp.exp(-5.0 * (1.0 - risen) ** 2)
        return jnp.where(epoch >= start, ramped, 0.0)

    def loss(self, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        """Returns the loss, and the weight and the mean of the regulariser."""
        remembered: Remembered = batch.before
        if self.settings["base"] == "pgd_at":
            regularised, fit = batch.logits, cross_entropy(batch)
        else:
            assert batch.clean_logits is not None
            regularised = batch.clean_logits
            fit = cross_entropy(batch._replace(logits=batch.clean_logits))
            divergence = losses.kl_divergence(batch.clean_logits, batch.logits)
            fit += self.settings["beta"] * divergence
        distance = self._distance(regularised, remembered)
        metrics = {"te_weight": mean(remembered.weight), "te_distance": mean(distance)}
        return mean(fit + remembered.weight * distance), jax.lax.stop_gradient(metrics)

    def _attacked(
        self, logits: Float[Array, "batch classes"], labels: Array, remembered: Remembered
    ) -> Float[Array, " batch"]:
        """Returns the loss that the attack maximises; labels may be class probabilities."""
        if self.settings["base"] == "trades":
            divergence = losses.kl_divergence(remembered.logits, logits)
            value = self.settings["beta"] * divergence
        else:
            value = losses.cross_entropy(logits, labels)
        return value + remembered.weight * self._distance(logits, remembered)

    def _distance(
        self, logits: Float[Array, "batch classes"], remembered: Remembered
    ) -> Float[Array, " batch"]:
        """Returns R_i."""
        found = losses.temporal_ensembling(jax.nn.softmax(logits), remembered.target)
        return found * (logits.shape[-1] if self.settings["over_classes"] == "sum" else 1)
