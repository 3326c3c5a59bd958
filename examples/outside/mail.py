"""A published method from outside: MAIL, which weights images by their probabilistic margin.

    bat-jax --config=mail_page.py

Wang et al., Probabilistic Margins for Instance Reweighting in Adversarial Training,
arXiv:2106.07904. This is MAIL-AT; the weight multiplies the cross-entropy of adversarial images.
"""

import jax
import jax.numpy as jnp

from bat_jax import losses
from bat_jax.fields import Real
from bat_jax.methods import Batch, Method, cross_entropy, weight_metrics
from bat_jax.parallel import AXIS


def margin(logits, labels):
    """Returns max_{k != y} p_k - p_y, from -1 (surely right) to 1 (surely wrong)."""
    probabilities = jax.nn.softmax(logits)
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    wrong = jnp.max(jnp.where(is_label, 0.0, probabilities), axis=-1)
    return wrong - jnp.sum(jnp.where(is_label, probabilities, 0.0), axis=-1)


class Mail(Method):
    """Minimises mean_i w_i CE(z(x'_i), y_i) with w_i = 3 sigmoid(slope (margin_i + bias))."""

    name = "mail"
    title = "MAIL"
    reference = "Wang et al., arXiv:2106.07904"
    fields = {
        "slope": Real(10.0, low=0),
        "bias": Real(-0.5),
        # Epoch from which weights apply; by default the first learning rate decay, or half the
        # training for schedules without discrete decays.
        "start_epoch": Real(None, low=0),
    }

    def weights(self, batch: Batch):
        """Returns w_i, through which no gradient flows."""
        shifted = margin(batch.logits, batch.labels) + self.settings["bias"]
        return jax.lax.stop_gradient(3.0 * jax.nn.sigmoid(self.settings["slope"] * shifted))

    def loss(self, batch: Batch):
        """Returns the mean of the weighted losses, not divided by the sum of the weights."""
        weights = self.applied(batch)
        total = losses.reweighted(cross_entropy(batch), weights, normalize="none", axis_name=AXIS)
        return total, weight_metrics(weights)
