"""The one-step attacks of fast adversarial training, with the noise given.

Training runs the same attacks as PGD with one step (`config.attack`), which draws the noise.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from bat_jax.attacks import inner_losses
from bat_jax.attacks.classifier import Images, Labels, LogitsFn


def fgsm(
    logits_fn: LogitsFn,
    images: Images,
    labels: Labels,
    noise: Images,
    *,
    epsilon: float,
    step_size: float,
    clip: bool,
) -> Images:
    """Returns FGSM from a noisy start: FGSM-RS with `clip`, N-FGSM without.

        x_0 = clip(x + noise, 0, 1),   d = x_0 - x + step_size * sign(grad_x_0 CE)
        FGSM-RS:  x' = clip(x + clip(d, -epsilon, epsilon), 0, 1)
        N-FGSM:   x' = clip(x + d, 0, 1)

    Args:
      logits_fn: [0, 1] images, NHWC, to logits `[batch, classes]`.
      images: x, shape `[batch, height, width, channels]`, in [0, 1].
      labels: class indices, shape `[batch]`.
      noise: uniform on [-epsilon, epsilon] for FGSM-RS and on [-k epsilon, k epsilon], k = 2, for
        N-FGSM; the shape of the images.
      epsilon: the largest change of a pixel, with `clip`.
      step_size: 1.25 epsilon for FGSM-RS and epsilon for N-FGSM, as published.
      clip: whether to keep the perturbation within epsilon.

    References:
      Wong et al., Fast is better than free, arXiv:2001.03994 (FGSM-RS); de Jorge et al., Make Some
      Noise, arXiv:2202.01181 (N-FGSM)
    """
    start = jnp.clip(images + noise, 0.0, 1.0)

    def loss(x: Images) -> Float[jax.Array, ""]:
        return jnp.sum(inner_losses.cross_entropy(logits_fn(x), labels, labels))

    perturbation = start - images + step_size * jnp.sign(jax.grad(loss)(start))
    if clip:
        perturbation = jnp.clip(perturbation, -epsilon, epsilon)
    return jnp.clip(images + perturbation, 0.0, 1.0)
