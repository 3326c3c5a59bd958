"""The methods: which attack each trains against and which loss it minimises.

They differ here and in their configs only; the trainer is one. A method is a function of what the
step has computed (`Batch`) to a loss over the global batch and a few metrics of its own.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from bat_jax import losses
from bat_jax.attacks.inner_losses import Loss
from bat_jax.parallel import AXIS

Metrics = dict[str, Float[Array, ""]]

# The histogram of BAT's weights: the share of images in each tenth of [0, 1], 1 in the last.
WEIGHT_BINS = tuple(f"weight_from_{tenth / 10}" for tenth in range(10))


class Batch(NamedTuple):
    """What a step knows when it comes to the loss.

    Attributes:
      labels: class indices.
      logits: of the images trained on: adversarial, or clean for `standard`.
      features: penultimate ones of the same images.
      clean_logits: of the clean images, where the method's `clean` asks for them, else None.
      robust_steps: kappa, the number of attack steps each image withstood.
      memorization: mem(i), NaN where unknown.
      epoch: how many epochs lie behind this step, with their fraction.
    """

    labels: Int[Array, "batch"]
    logits: Float[Array, "batch classes"]
    features: Float[Array, "batch features"]
    clean_logits: Float[Array, "batch classes"] | None
    robust_steps: Int[Array, "batch"]
    memorization: Float[Array, "batch"]
    epoch: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Objective:
    """A method of training.

    Attributes:
      loss: from a batch to the loss over the global batch and metrics.
      attack_loss: what the attack maximises; None trains on clean images.
      gaussian_start: the attack's start, if not a uniform one.
      clean: whether clean images are forwarded too: `trained`, with gradient and batch statistics;
        `read`, their logits alone, in evaluation mode; or None.
    """

    loss: Callable[[Batch], tuple[Float[Array, ""], Metrics]]
    attack_loss: Loss | None = "cross_entropy"
    gaussian_start: float = 0.0
    clean: Literal["trained", "read"] | None = None

    def forward_passes(self, num_steps: int) -> int:
        """Returns the cost of a step in forward passes of the batch; a backward pass counts 2.

        An attack step differentiates with respect to the images alone: forward, and as much again.
        """
        attack = 0 if self.attack_loss is None else 2 * num_steps
        reference = 1 if self.attack_loss == "kl" else 0
        clean = {"trained": 3, "read": 1, None: 0}[self.clean]
        return attack + reference + clean + 3


def create(
    config: ConfigDict, *, num_steps: int, threshold: float, first_decay: float
) -> Objective:
    """Returns the objective that a config names.

    Args:
      config: `config.objective`; its name is a key of `OBJECTIVES`.
      num_steps: of the training attack, K.
      threshold: memorization above which an example is atypical.
      first_decay: the epoch at which weights begin to apply unless the config names one.
    """
    return OBJECTIVES[config.name](config, num_steps, threshold, first_decay)


def _mean(values: Float[Array, "batch"]) -> Float[Array, ""]:
    return losses.weighted_mean(values, jnp.ones_like(values), axis_name=AXIS)


def _cross_entropy(batch: Batch) -> Float[Array, "batch"]:
    return optax.softmax_cross_entropy_with_integer_labels(batch.logits, batch.labels)


def _pgd_at(*_: object) -> Objective:
    return Objective(lambda batch: (_mean(_cross_entropy(batch)), {}))


def _standard(*_: object) -> Objective:
    return Objective(lambda batch: (_mean(_cross_entropy(batch)), {}), attack_loss=None)


def _trades(config: ConfigDict, *_: object) -> Objective:
    def loss(batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        assert batch.clean_logits is not None
        values = losses.trades(
            batch.clean_logits, batch.logits, batch.labels, beta=config.trades.beta
        )
        return _mean(values), {}

    return Objective(loss, attack_loss="kl", gaussian_start=0.001, clean="trained")


def _mart(config: ConfigDict, *_: object) -> Objective:
    def loss(batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        assert batch.clean_logits is not None
        values = losses.mart(batch.clean_logits, batch.logits, batch.labels, beta=config.mart.beta)
        return _mean(values), {}

    return Objective(loss, clean="trained")


def _gairat(config: ConfigDict, num_steps: int, _: float, first_decay: float) -> Objective:
    settings = config.gairat
    start = first_decay if settings.start_epoch is None else settings.start_epoch

    def loss(batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        weights = losses.gairat_weights(
            batch.robust_steps, num_steps=max(num_steps, 1), lam=settings.lam, axis_name=AXIS
        )
        weights = _from(start, batch.epoch, weights)
        return (
            losses.weighted_mean(_cross_entropy(batch), weights, axis_name=AXIS),
            {"robust_steps": _mean(batch.robust_steps.astype(jnp.float32))},
        )

    return Objective(loss)


def _bat(config: ConfigDict, _: int, threshold: float, first_decay: float) -> Objective:
    settings = config.bat
    start = first_decay if settings.start_epoch is None else settings.start_epoch

    def loss(batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        weights = losses.bat_weights(
            batch.logits,
            batch.labels,
            alpha=settings.alpha,
            gate=settings.gate,
            memorization=batch.memorization,
            threshold=threshold,
            confidence_logits=batch.clean_logits,
        )
        weights = _from(start, batch.epoch, weights)
        total = losses.reweighted(
            _cross_entropy(batch), weights, normalize=settings.normalize, axis_name=AXIS
        )
        metrics = {
            "weight": _mean(weights),
            "weighted_down": _mean((weights < 1).astype(jnp.float32)),
            **_histogram(weights),
        }
        # Left out rather than multiplied by 0: then it is PGD-AT to the last bit.
        if settings.beta_dl > 0:
            discrimination = losses.discrimination(
                batch.features,
                batch.labels,
                temperature=settings.temperature,
                similarity=settings.similarity,
                denominator=settings.denominator,
                pooling=settings.pooling,
                axis_name=AXIS,
            )
            total += settings.beta_dl * discrimination
            metrics["discrimination"] = jax.lax.stop_gradient(discrimination)
        return total, metrics

    return Objective(loss, clean="read" if settings.confidence == "clean" else None)


def _histogram(weights: Float[Array, "batch"]) -> Metrics:
    """Returns the share of the global batch's weights in every bin."""
    count = len(WEIGHT_BINS)
    bins = jnp.minimum(jnp.floor(weights * count).astype(jnp.int32), count - 1)
    shares = jax.lax.pmean(jnp.mean(jax.nn.one_hot(bins, count), axis=0), AXIS)
    return dict(zip(WEIGHT_BINS, shares, strict=True))


def _from(
    start: float, epoch: Float[Array, ""], weights: Float[Array, "batch"]
) -> Float[Array, "batch"]:
    """Returns the weights once the epoch has come, and 1 before."""
    has_started: Bool[Array, ""] = epoch >= start
    return jnp.where(has_started, weights, 1.0)


OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "standard": _standard,
    "pgd_at": _pgd_at,
    "trades": _trades,
    "mart": _mart,
    "gairat": _gairat,
    "bat": _bat,
}
