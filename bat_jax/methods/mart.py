"""MART: misclassification-aware adversarial training."""

from jaxtyping import Array, Float

from bat_jax import losses
from bat_jax.fields import Real
from bat_jax.methods.base import Batch, Method, Metrics, mean


class Mart(Method):
    """Minimises a boosted cross-entropy plus a divergence that counts more for unsure images."""

    name = "mart"
    title = "MART"
    reference = "Wang et al., Improving Adversarial Robustness Requires Revisiting Misclassified \
Examples, ICLR 2020"
    # The factor of the divergence.
    fields = {"beta": Real(5.0, low=0)}
    clean = "trained"

    def loss(self, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        """Returns the mean of `losses.mart`."""
        assert batch.clean_logits is not None
        beta = self.settings["beta"]
        return mean(losses.mart(batch.clean_logits, batch.logits, batch.labels, beta=beta)), {}
