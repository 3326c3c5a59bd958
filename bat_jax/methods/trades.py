"""TRADES: clean accuracy, and predictions that an attack does not change."""

from jaxtyping import Array, Float

from bat_jax import losses
from bat_jax.fields import Real
from bat_jax.methods.base import Attack, Batch, Method, Metrics, mean


class Trades(Method):
    """Minimises CE(z(x), y) + beta KL(p(x) || p(x')); the attack maximises the divergence."""

    name = "trades"
    title = "TRADES"
    reference = "Zhang et al., arXiv:1901.08573"
    # The factor of the divergence.
    fields = {"beta": Real(6.0, low=0)}
    attack = Attack("kl", gaussian_start=0.001)
    clean = "trained"
    takes_targets = True

    def loss(self, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        """Returns the mean of `losses.trades`."""
        assert batch.clean_logits is not None
        values = losses.trades(
            batch.clean_logits,
            batch.logits,
            batch.labels,
            beta=self.settings["beta"],
            targets=batch.targets,
        )
        return mean(values), {}
