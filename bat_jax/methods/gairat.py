"""GAIRAT: images near the decision boundary count more."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from bat_jax import losses
from bat_jax.fields import Real
from bat_jax.methods.base import Batch, Method, Metrics, mean
from bat_jax.parallel import AXIS


class Gairat(Method):
    """Gives larger weights to images that withstood fewer attack steps."""

    name = "gairat"
    title = "GAIRAT"
    reference = "Zhang et al., arXiv:2010.01736"
    takes_targets = True
    fields = {
        # lambda of the weight (1 + tanh(lambda + 5 (1 - 2 kappa / K))) / 2.
        "lam": Real(-1.0),
        # Epoch from which weights apply; by default the first learning rate decay, or half the
        # training for schedules without discrete decays.
        "start_epoch": Real(None, low=0),
    }

    def weights(self, batch: Batch) -> Float[Array, " batch"]:
        """Returns `losses.gairat_weights`."""
        return losses.gairat_weights(
            batch.robust_steps,
            num_steps=max(self.setup.num_steps, 1),
            lam=self.settings["lam"],
            axis_name=AXIS,
        )

    def loss(self, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        """Returns the weighted cross-entropy, and the mean number of steps withstood."""
        value, _ = super().loss(batch)
        return value, {"robust_steps": mean(batch.robust_steps.astype(jnp.float32))}
