"""An attack around another one, whose settings it keeps."""

import dataclasses
from typing import Generic, TypeVar

from bat_jax.attacks.draws import Purpose
from bat_jax.attacks.geometry import Norm
from bat_jax.attacks.protocol import Attack

Inner = TypeVar("Inner", bound=Attack)


@dataclasses.dataclass(frozen=True)
class Wrapped(Generic[Inner]):
    """The settings of an attack that changes how another one sees the model.

    Attributes:
      attack: the other attack.
    """

    attack: Inner

    @property
    def epsilon(self) -> float:
        """Radius of the ball."""
        return self.attack.epsilon

    @property
    def norm(self) -> Norm:
        """The norm of the ball."""
        return self.attack.norm

    @property
    def purpose(self) -> Purpose:
        """The purpose of the random draws."""
        return self.attack.purpose

    @property
    def min_classes(self) -> int:
        """How many classes the loss needs."""
        return self.attack.min_classes

    @property
    def num_steps(self) -> int:
        """How often `step` is called."""
        return self.attack.num_steps

    @property
    def segment(self) -> int:
        """The number of steps between checks for images that are done."""
        return self.attack.segment
