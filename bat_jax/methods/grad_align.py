"""GradAlign: one-step adversarial training whose input gradients stay aligned."""

import jax
from jaxtyping import Array, Bool, Float, Int, Key

from bat_jax import losses
from bat_jax.attacks import geometry
from bat_jax.attacks.classifier import Images, LogitsFn
from bat_jax.fields import Real
from bat_jax.methods.base import Batch, Method, Metrics
from bat_jax.parallel import AXIS


class GradAlign(Method):
    """Minimises CE(z(x'), y) + lam (1 - mean cos(g(x), g(x + U(-epsilon, epsilon)))).

    g is the gradient of the cross-entropy with respect to the image. The attack is FGSM: one step
    of epsilon without a random start (`config.attack`).
    """

    name = "grad_align"
    title = "GradAlign"
    reference = "Andriushchenko & Flammarion, arXiv:2007.02617"
    # The factor of 1 minus the mean cosine: 0.2 for epsilon 8/255 and 2 for 16/255, or
    # 0.02 * 10^(255 epsilon / 8) in the authors' code.
    fields = {"lam": Real(0.2, low=0)}

    def extras(
        self,
        logits_fn: LogitsFn,
        images: Images,
        labels: Int[Array, " batch"],
        image_keys: Key[Array, " batch"],
        *,
        epsilon: float | Float[Array, ""],
    ) -> dict[str, Float[Array, " batch"] | Bool[Array, " batch"]]:
        """Returns the cosine of both gradients for each image, and where it is defined."""
        moved = geometry.uniform(image_keys, images, epsilon)
        cosine, is_defined = losses.gradient_alignment(logits_fn, images, labels, moved)
        return {"cosine": cosine, "is_defined": is_defined.astype(cosine.dtype)}

    def loss(self, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        """Returns the loss and the mean cosine, which falls to 0 in a collapse."""
        value, _ = super().loss(batch)
        alignment = losses.weighted_mean(
            batch.extras["cosine"], batch.extras["is_defined"], axis_name=AXIS
        )
        total = value + self.settings["lam"] * (1.0 - alignment)
        return total, {"alignment": jax.lax.stop_gradient(alignment)}

    def forward_passes(self, num_steps: int) -> int:
        """Adds the cost of two input gradients, and of the backward pass through one of them."""
        return super().forward_passes(num_steps) + 8
