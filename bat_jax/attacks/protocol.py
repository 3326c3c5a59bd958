"""What an attack is given, what it provides, and what it finds.

An attack consists of two functions of a batch: `begin` returns a state without evaluating the
model, `step` evaluates the model and updates the state. All state is per image.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from bat_jax.attacks.classifier import HostImages, Images
from bat_jax.attacks.draws import Purpose
from bat_jax.attacks.geometry import Norm


class Problem(NamedTuple):
    """The constant inputs of an attack.

    Attributes:
      images: x in [0, 1].
      labels: y.
      targets: the target class, for targeted attacks; else ignored.
      keys: one key per image, for this attack and this target.
      scale: the radius of every image's ball, in units of the attack's epsilon; None for 1.
    """

    images: Images
    labels: Int[Array, " batch"]
    targets: Int[Array, " batch"]
    keys: Key[Array, " batch"]
    scale: Float[Array, " batch"] | None = None

    def radius(self, epsilon: float | Float[Array, ""]) -> float | Float[Array, "..."]:
        """Returns the radius of the balls: epsilon, or one per image."""
        return epsilon if self.scale is None else epsilon * self.scale


@runtime_checkable
class State(Protocol):
    """The engine's view of an attack's state, a NamedTuple of arrays with leading image axis."""

    @property
    def adversarial(self) -> Images:
        """A misclassified image, else the best so far; always within the constraint."""

    @property
    def found(self) -> Bool[Array, " batch"]:
        """Whether `adversarial` is misclassified."""

    @property
    def done(self) -> Bool[Array, " batch"]:
        """Whether the attack has ended for the image: `found`, or another reason."""

    @property
    def flat(self) -> Bool[Array, " batch"]:
        """Whether the first gradient was zero in every pixel."""


@runtime_checkable
class Attack(Protocol):
    """An iterative attack; hashable, because its fields are compile-time constants."""

    @property
    def epsilon(self) -> float:
        """Radius of the ball."""

    @property
    def norm(self) -> Norm:
        """The norm of the ball."""

    @property
    def purpose(self) -> Purpose:
        """The purpose of the random draws."""

    @property
    def min_classes(self) -> int:
        """How many classes the loss needs."""

    @property
    def num_steps(self) -> int:
        """How often `step` is called."""

    @property
    def segment(self) -> int:
        """The number of steps between checks for images that are done."""

    def begin(self, problem: Problem) -> Any:
        """Returns the initial state, without evaluating the model."""

    def step(self, logits_fn: Any, problem: Problem, number: Int[Array, ""], state: Any) -> Any:
        """Returns the next state; `number` counts from 0.

        `logits_fn` takes images and, in an engine with a `key_impl`, one key per image.
        """


class Outcome(NamedTuple):
    """The per-image results of an attack.

    Attributes:
      adversarial: x', misclassified where `found`, else the attack's best.
      found: whether the attack found a misclassified image within the constraint.
      flat: whether an initial gradient was zero in every pixel.
    """

    adversarial: HostImages
    found: Bool[np.ndarray, " batch"]
    flat: Bool[np.ndarray, " batch"]
