"""What a method of training is: one class that owns its loss, its attack, its fields and its name.

The trainer is the same for all of them. It forwards a batch, asks the method for the loss, and
updates the model; a method overrides what it does differently.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Int32

from bat_jax import losses
from bat_jax.attacks.inner_losses import Loss
from bat_jax.fields import Schema
from bat_jax.parallel import AXIS

Metrics = dict[str, Float[Array, ""]]
Variables = dict[str, Any]
Clean = Literal["trained", "read"]
SelectBy = Literal["pgd", "clean"]

# The metrics of a histogram of weights.
WEIGHT_BINS = tuple(f"weight_from_{tenth / 10}" for tenth in range(10))


class Batch(NamedTuple):
    """What a step knows of one device's share of a batch when it asks for the loss.

    Attributes:
      labels: class indices.
      logits: of the images trained on: adversarial, or clean for a method without an attack.
      features: penultimate features of the same images.
      clean_logits: of the clean images, where the method's `clean` asks for them, else None.
      robust_steps: kappa, the number of attack steps that each image withstood.
      memorization: mem(i), NaN where unknown.
      epoch: epochs completed before this step, with their fraction.
      targets: class probabilities in place of the labels, where the method has soft targets.
      memory: the rows of the method's memory that belong to these images, by name.
    """

    labels: Int[Array, " batch"]
    logits: Float[Array, "batch classes"]
    features: Float[Array, "batch features"]
    clean_logits: Float[Array, "batch classes"] | None
    robust_steps: Int[Array, " batch"]
    memorization: Float[Array, " batch"]
    epoch: Float[Array, ""]
    targets: Float[Array, "batch classes"] | None = None
    memory: Mapping[str, Any] = {}


class Setup(NamedTuple):
    """What a method knows of the run that it is made for.

    Attributes:
      num_steps: of the training attack, K.
      num_classes: of the data set.
      threshold: memorization above which an example is atypical.
      first_decay: epoch of the first decay of the learning rate; half the training where the
        schedule has no steps.
    """

    num_steps: int
    num_classes: int = 0
    threshold: float = 0.15
    first_decay: float = 0.0


class Attack(NamedTuple):
    """The inner maximisation of adversarial training.

    Attributes:
      loss: `cross_entropy`, `margin`, `kl`, or any function of logits and labels (of logits and
        targets, where the method has soft ones) that gives a loss per image.
      gaussian_start: if above 0, the attack starts from x + gaussian_start * N(0, 1) instead of a
        uniform draw from the ball.
    """

    loss: Loss = "cross_entropy"
    gaussian_start: float = 0.0


@runtime_checkable
class Memory(Protocol):
    """Arrays with a row for every training example, part of the train state.

    A pytree, replicated over the devices. After each step it is updated with what the step saw.
    """

    def observed(self, batch: Batch) -> Any:
        """Returns what to remember of one device's share: arrays with the examples first."""

    def after(self, rows: Int32[Array, " batch"], observed: Any) -> "Memory":
        """Returns the memory after a global batch of these rows, each of them there once."""


class Gradient(NamedTuple):
    """A loss over the global batch and its gradient.

    Attributes:
      loss: its value.
      aux: what else the loss returned.
      variables: the variables with the batch statistics that the forward pass left.
      params: the gradient with respect to the parameters, averaged over the devices.
    """

    loss: Float[Array, ""]
    aux: Any
    variables: Variables
    params: Any


class Method:
    """A method of training, and the base class of all: adversarial training with weights of 1.

        minimise over theta  sum_i w_i L(x'_i, y_i) / sum_i w_i,   x' = attack(x)

    A subclass is found by its name or as `package.module:Class` (`config.objective.name`).

    Attributes:
      name: the method's name, and that of its section in `config.objective`.
      title: what reports call it.
      reference: where it is from.
      fields: its section of the config: the default and the legal values of each field.
      attack: what the attack maximises and where it starts; None trains on clean images.
      clean: whether clean images are forwarded too: `trained`, with gradient and batch statistics;
        `read`, their logits alone, in evaluation mode; or None.
      select_by: the validation accuracy that should choose the best checkpoint, `pgd` or `clean`.
      settings: the values of its fields.
      setup: what it knows of the run.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    fields: ClassVar[Schema] = {}
    attack: Attack | None = Attack()
    clean: Clean | None = None
    select_by: ClassVar[SelectBy] = "pgd"

    def __init__(self, settings: Mapping[str, Any], setup: Setup) -> None:
        """Takes the values of the method's fields and what it knows of the run."""
        self.settings, self.setup = settings, setup

    @property
    def begins(self) -> float | None:
        """The epoch from which `weights` apply; None for a method that has no start.

        By default the field `start_epoch`, where the method has one, and where that is not set the
        first decay of the learning rate.
        """
        if "start_epoch" not in self.fields:
            return None
        start = self.settings["start_epoch"]
        return self.setup.first_decay if start is None else start

    @property
    def is_weighted(self) -> bool:
        """Whether images have weights of the method's own."""
        return type(self).weights is not Method.weights

    @property
    def estimates_for(self) -> str | None:
        """What the method needs memorization estimates for, as `the gate 'memorized'`; or None."""
        return None

    def memory(self, examples: int) -> dict[str, Memory]:
        """Returns what to remember of every training example, by name, before training."""
        del examples
        return {}

    def targets(self, labels: Int[Array, " batch"]) -> Float[Array, "batch classes"] | None:
        """Returns soft targets for the attack and the loss; None keeps the labels."""
        del labels
        return None

    def weights(self, batch: Batch) -> Float[Array, " batch"]:
        """Returns the weight of each image, whether or not weights apply yet."""
        return jnp.ones(batch.labels.shape)

    def loss(self, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        """Returns the loss over the global batch, and metrics of the method's own."""
        return losses.weighted_mean(cross_entropy(batch), self.applied(batch), axis_name=AXIS), {}

    def gradient(
        self,
        value_and_grad: Callable[[Variables], Gradient],
        variables: Variables,
        *,
        epoch: Float[Array, ""],
    ) -> Gradient:
        """Returns the gradient that updates the parameters.

        By default that of the loss at the parameters. A method of two passes calls `value_and_grad`
        at other variables too; the update applies to the parameters as they were.

        Args:
          value_and_grad: from variables to the loss of the batch and its gradient. It may be
            called any number of times.
          variables: the model's.
          epoch: epochs completed before this step.
        """
        del epoch
        return value_and_grad(variables)

    def forward_passes(self, num_steps: int) -> int:
        """Returns the cost of a step in forward passes of the batch; a backward pass counts 2.

        An attack step differentiates with respect to the images alone: forward, and as much again.
        """
        attack = 0 if self.attack is None else 2 * num_steps + (self.attack.loss == "kl")
        clean = {"trained": 3, "read": 1, None: 0}[self.clean]
        return attack + clean + 3

    def applied(self, batch: Batch) -> Float[Array, " batch"]:
        """Returns the weights once their epoch has come, and 1 before."""
        weights, start = self.weights(batch), self.begins
        return weights if start is None else jnp.where(batch.epoch >= start, weights, 1.0)


def cross_entropy(batch: Batch) -> Float[Array, " batch"]:
    """Returns the cross-entropy of the images trained on, with soft targets where there are any."""
    if batch.targets is not None:
        return optax.softmax_cross_entropy(batch.logits, batch.targets)
    return optax.softmax_cross_entropy_with_integer_labels(batch.logits, batch.labels)


def mean(values: Float[Array, " batch"]) -> Float[Array, ""]:
    """Returns the mean over the global batch."""
    return losses.weighted_mean(values, jnp.ones_like(values), axis_name=AXIS)


def weight_metrics(weights: Float[Array, " batch"]) -> Metrics:
    """Returns the mean weight of the global batch, the share below 1, and the histogram.

    The histogram is the share of images in each tenth of [0, 1], by the names `WEIGHT_BINS`; a
    weight of 1 or more belongs to the last.
    """
    count = len(WEIGHT_BINS)
    bins = jnp.minimum(jnp.floor(weights * count).astype(jnp.int32), count - 1)
    shares = jax.lax.pmean(jnp.mean(jax.nn.one_hot(bins, count), axis=0), AXIS)
    return {
        "weight": mean(weights),
        "weighted_down": mean((weights < 1).astype(jnp.float32)),
        **dict(zip(WEIGHT_BINS, shares, strict=True)),
    }
