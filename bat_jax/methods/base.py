"""The base class of training methods, which own their loss, attack, config fields and name.

All methods share one trainer, which forwards a batch, calls the method's loss and updates the
model; a method overrides only the parts that differ.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32, Key

from bat_jax import losses
from bat_jax.attacks.classifier import Images, LogitsFn
from bat_jax.attacks.inner_losses import Loss
from bat_jax.errors import UserError
from bat_jax.fields import Schema
from bat_jax.parallel import AXIS

Metrics = dict[str, Float[Array, ""]]
"""A method's own metrics by name, for the records of a run."""
Variables = dict[str, Any]
Clean = Literal["trained", "read"]
SelectBy = Literal["pgd", "clean"]

WEIGHT_BINS = tuple(f"weight_from_{tenth / 10}" for tenth in range(10))
"""Metric names of the weight histogram."""


class Batch(NamedTuple):
    """The inputs of the loss: one device's share of a batch.

    Attributes:
      labels: class indices.
      logits: logits of the training images: adversarial, or clean for a method without an attack.
      features: penultimate features of the same images; None for a model without features.
      clean_logits: logits of the clean images, or None if the method's `clean` is None.
      robust_steps: kappa, the number of attack steps that each image withstood.
      memorization: mem(i), NaN where unknown.
      epoch: epochs completed before this step, including the fraction.
      targets: class probabilities that replace the labels, if the method has soft targets.
      memory: the rows of the method's memory for these images, by name.
      before: what the method's `before` returned.
      extras: what the method's `extras` returned.
    """

    labels: Int[Array, " batch"]
    logits: Float[Array, "batch classes"]
    features: Float[Array, "batch features"] | None
    clean_logits: Float[Array, "batch classes"] | None
    robust_steps: Int[Array, " batch"]
    memorization: Float[Array, " batch"]
    epoch: Float[Array, ""]
    targets: Float[Array, "batch classes"] | None = None
    memory: Mapping[str, Any] = {}
    before: Any = None
    extras: Mapping[str, Any] = {}


class Visit(NamedTuple):
    """Images before their attack: one device's share of a batch.

    Attributes:
      labels: class indices.
      logits: logits of the clean images, with the parameters and the batch norm that the attack
        sees.
      memory: the rows of the method's memory for these images, by name.
      epoch: epochs completed before this step, including the fraction.
    """

    labels: Int[Array, " batch"]
    logits: Float[Array, "batch classes"]
    memory: Mapping[str, Any]
    epoch: Float[Array, ""]


class Setup(NamedTuple):
    """The properties of a run that a method may depend on.

    Attributes:
      num_steps: K, the number of steps of the training attack.
      num_classes: the number of classes of the data set.
      threshold: memorization above which an example is atypical.
      first_decay: epoch of the first learning rate decay; half the training for schedules without
        discrete decays.
      epsilon: the radius of the training attack.
    """

    num_steps: int
    num_classes: int = 0
    threshold: float = 0.15
    first_decay: float = 0.0
    epsilon: float = 0.0


class Attack(NamedTuple):
    """The inner maximisation of adversarial training.

    Attributes:
      loss: `cross_entropy`, `margin`, `kl`, or any function from logits and labels (or soft
        targets, if the method has them) to a loss per image. If the method overrides `before`, the
        function takes the result of `before` for these images as a third argument.
      gaussian_start: if above 0, the attack starts from x + gaussian_start * N(0, 1) instead of a
        uniform draw from the ball.
    """

    loss: Loss = "cross_entropy"
    gaussian_start: float = 0.0


@runtime_checkable
class Memory(Protocol):
    """Arrays with one row per training example, stored in the train state.

    A pytree, replicated over the devices and updated after each step.
    """

    def observed(self, batch: Batch) -> Any:
        """Returns the values to store for one device's share, arrays with leading example axis."""

    def after(self, rows: Int32[Array, " batch"], observed: Any) -> "Memory":
        """Returns the memory updated with a global batch of distinct rows."""


class Gradient(NamedTuple):
    """A loss over the global batch and its gradient.

    Attributes:
      loss: the value of the loss.
      aux: the loss's auxiliary output.
      variables: the variables with the batch statistics updated by the forward pass.
      params: the gradient with respect to the parameters, averaged over the devices.
      decayed: the parameters that weight decay applies to; None for those that are updated.
    """

    loss: Float[Array, ""]
    aux: Any
    variables: Variables
    params: Any
    decayed: Any = None


class Method:
    """The base class of training methods; it trains on adversarial images with weights of 1.

        minimise over theta  sum_i w_i L(x'_i, y_i) / sum_i w_i,   x' = attack(x)

    A subclass is found by its name or as `package.module:Class` (`config.objective.name`).

    Attributes:
      name: the name of the method and of its section in `config.objective`.
      title: its name in reports.
      reference: the publication.
      fields: its config section: the default and the legal values of each field.
      attack: what the attack maximises and where it starts; None trains on clean images.
      clean: whether and how clean images are forwarded too: `trained`, with gradient and batch
        statistics; `read`, for logits only, in evaluation mode; or None.
      select_by: the validation accuracy that should choose the best checkpoint, `pgd` or `clean`.
      settings: the values of its fields.
      setup: the properties of the run.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    fields: ClassVar[Schema] = {}
    attack: Attack | None = Attack()
    clean: Clean | None = None
    select_by: ClassVar[SelectBy] = "pgd"

    def __init__(self, settings: Mapping[str, Any], setup: Setup) -> None:
        """Stores the values of the method's fields and the properties of the run."""
        self.settings = settings
        self.setup = setup

    @property
    def begins(self) -> float | None:
        """The epoch from which `weights` apply; None for a method without a start epoch.

        Defaults to the field `start_epoch` if the method has it, or the first learning rate decay
        if that field is None.
        """
        if "start_epoch" not in self.fields:
            return None
        start = self.settings["start_epoch"]
        return self.setup.first_decay if start is None else start

    @property
    def is_weighted(self) -> bool:
        """Whether the method overrides the image weights."""
        return type(self).weights is not Method.weights

    @property
    def has_extras(self) -> bool:
        """Whether the method computes outputs of its own in the forward pass."""
        return type(self).extras is not Method.extras

    @property
    def takes_targets(self) -> bool:
        """Whether the loss reads `batch.targets`, as label smoothing and CutMix need.

        Defaults to whether the method keeps the loss of this class.
        """
        return type(self).loss is Method.loss

    @property
    def needs_features(self) -> bool:
        """Whether the loss or the weights read `batch.features`, which not every model has."""
        return False

    @property
    def looks_before(self) -> bool:
        """Whether the method overrides `before`."""
        return type(self).before is not Method.before

    @property
    def estimates_for(self) -> str | None:
        """The part that needs memorization estimates, such as `the gate 'memorized'`; or None."""
        return None

    def memory(self, examples: int) -> dict[str, Memory]:
        """Returns the initial memories of the training examples, by name."""
        del examples
        return {}

    def before(self, visit: Visit) -> Any:
        """Returns values for the attack and the loss, computed from the images before the attack.

        They are a pytree of arrays with a leading example axis. For a method that overrides this,
        the trainer forwards the clean images first. No gradient flows through the values.
        """
        del visit
        return None

    def targets(self, labels: Int[Array, " batch"]) -> Float[Array, "batch classes"] | None:
        """Returns soft targets for the attack and the loss; None keeps the labels."""
        del labels
        return None

    def extras(
        self,
        logits_fn: LogitsFn,
        images: Images,
        labels: Int[Array, " batch"],
        image_keys: Key[Array, " batch"],
        *,
        epsilon: float | Float[Array, ""],
    ) -> dict[str, Any]:
        """Returns further outputs for the loss, floats with a leading example axis, by name.

        The loss is differentiated through them. They are computed with the batch's statistics,
        which leave the running ones as they are.

        Args:
          logits_fn: images to logits, at the parameters at which the gradient is taken.
          images: the clean images, augmented.
          labels: class indices.
          image_keys: a key for each image, which depends on its place in the global batch.
          epsilon: the radius of the attack in this step, which may warm up.
        """
        del logits_fn, images, labels, image_keys, epsilon
        return {}

    def weights(self, batch: Batch) -> Float[Array, " batch"]:
        """Returns the weight of each image, regardless of the start epoch."""
        return jnp.ones(batch.labels.shape)

    def loss(self, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        """Returns the loss over the global batch and the method's own metrics."""
        return losses.weighted_mean(cross_entropy(batch), self.applied(batch), axis_name=AXIS), {}

    def gradient(
        self,
        value_and_grad: Callable[[Variables], Gradient],
        variables: Variables,
        *,
        epoch: Float[Array, ""],
    ) -> Gradient:
        """Returns the gradient that updates the parameters.

        By default, the gradient of the loss at the parameters. A two-pass method also calls
        `value_and_grad` at other variables; the update still applies to the original parameters.

        Args:
          value_and_grad: maps variables to the batch's loss and gradient. It may be called any
            number of times.
          variables: the model's variables.
          epoch: epochs completed before this step.
        """
        del epoch
        return value_and_grad(variables)

    def forward_passes(self, num_steps: int) -> int:
        """Returns the cost of a step in forward passes of the batch; a backward pass counts as 2.

        AWP is counted by `bat_jax.methods.step_passes`.
        """
        clean = {"trained": 3, "read": 1, None: 0}[self.clean]
        return self.attack_passes(num_steps) + clean + 3

    def attack_passes(self, num_steps: int) -> int:
        """Returns the part of `forward_passes` that the attack, with its `before`, takes.

        An attack step differentiates with respect to the images only, which costs 2 in total.
        """
        attack = 0 if self.attack is None else 2 * num_steps + (self.attack.loss == "kl")
        return attack + self.looks_before

    def applied(self, batch: Batch) -> Float[Array, " batch"]:
        """Returns the weights from their start epoch on, and 1 before it.

        Raises:
          UserError: `weights` does not return a weight for each image.
        """
        weights, start = self.weights(batch), self.begins
        if getattr(weights, "shape", None) != batch.labels.shape:
            found = getattr(weights, "shape", type(weights).__name__)
            raise UserError(
                f"method {self.name}: weights() returns {found}; expected an array of shape"
                f" {batch.labels.shape}, a weight for each image"
            )
        return weights if start is None else jnp.where(batch.epoch >= start, weights, 1.0)


def cross_entropy(batch: Batch) -> Float[Array, " batch"]:
    """Returns the cross-entropy of the training images, against soft targets if present."""
    return losses.cross_entropy(
        batch.logits, batch.labels if batch.targets is None else batch.targets
    )


def mean(values: Float[Array, " batch"]) -> Float[Array, ""]:
    """Returns the mean over the global batch."""
    return losses.weighted_mean(values, jnp.ones_like(values), axis_name=AXIS)


def weight_metrics(weights: Float[Array, " batch"]) -> Metrics:
    """Returns the mean weight of the global batch, the share below 1, and the histogram.

    The histogram is the share of images in each tenth of [0, 1], named by `WEIGHT_BINS`; weights
    of 1 or more count in the last bin.
    """
    count = len(WEIGHT_BINS)
    bins = jnp.minimum(jnp.floor(weights * count).astype(jnp.int32), count - 1)
    shares = jax.lax.pmean(jnp.mean(jax.nn.one_hot(bins, count), axis=0), AXIS)
    return {
        "weight": mean(weights),
        "weighted_down": mean((weights < 1).astype(jnp.float32)),
        **dict(zip(WEIGHT_BINS, shares, strict=True)),
    }
