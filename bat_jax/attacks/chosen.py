"""Attacks that must reach chosen classes: being classified as any other is no success."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bat_jax import losses
from bat_jax.attacks.classifier import Labels, Logits
from bat_jax.attacks.protocol import Attack, Problem
from bat_jax.attacks.wrapped import Wrapped
from bat_jax.errors import UserError


def grouped(logits: Logits, labels: Labels, classes: tuple[int, ...]) -> Logits:
    """Returns logits that only a chosen class can win against the label.

    With T the chosen classes without the label y,

        z'_y = max_{k not in T} z_k,   z'_t = z_t for t in T,   z'_k = min_j z_j otherwise,

    so that the margin z'_y - max_{k != y} z'_k is below 0 just where the model predicts a class of
    T. If all classes are chosen, the logits stay as they are.

    Args:
      logits: z, shape `[batch, classes]`.
      labels: y.
      classes: the chosen classes.
    """
    own = losses.is_class(logits, labels)
    is_goal = _is_chosen(classes, logits.shape[1])[None, :] & ~own
    strongest_other = jnp.max(jnp.where(is_goal, -jnp.inf, logits), axis=1, keepdims=True)
    # Nothing is gained by changing the others.
    least = jax.lax.stop_gradient(jnp.min(logits, axis=1, keepdims=True))
    return jnp.where(is_goal, logits, jnp.where(own, strongest_other, least))


def reached(
    logits: Float[np.ndarray, "images classes"],
    labels: Int[np.ndarray, " images"],
    classes: tuple[int, ...],
) -> Bool[np.ndarray, " images"]:
    """Returns which images are classified as a chosen class other than their label."""
    predicted = logits.argmax(axis=1)
    return np.isin(predicted, classes) & (predicted != labels)


def strongest(
    logits: Float[np.ndarray, "images classes"],
    labels: Int[np.ndarray, " images"],
    classes: tuple[int, ...],
    count: int,
) -> Int[np.ndarray, "images targets"]:
    """Returns the chosen classes other than the label, by descending logit, at most `count`.

    An image that has fewer of them than others, because its label is among the chosen, repeats the
    first.
    """
    is_goal = np.tile(_is_chosen(classes, logits.shape[1]), (len(logits), 1))
    is_goal[np.arange(len(labels)), labels] = False
    ranked = np.where(np.isnan(logits), -np.inf, logits)
    order = np.lexsort((-ranked, ~is_goal), axis=1)[:, : min(count, int(is_goal.sum(1).max()))]
    has_one = np.take_along_axis(is_goal, order, axis=1)
    return np.where(has_one, order, order[:, :1]).astype(np.int32)


def given(target_classes: Sequence[int]) -> tuple[int, ...]:
    """Returns the classes that a caller names.

    Raises:
      UserError: they are no sequence.
    """
    try:
        return tuple(_of_array(one) for one in target_classes)
    except TypeError:
        raise UserError(
            f"target_classes: {target_classes!r}; expected several classes, such as (3, 5)"
        ) from None


def _of_array(one: Any) -> Any:
    return np.asarray(one).tolist() if isinstance(one, np.generic | np.ndarray | Array) else one


def check(
    classes: tuple[int, ...],
    labels: Int[np.ndarray, " images"],
    num_classes: int,
    attacks: Sequence[str] = (),
) -> None:
    """Checks chosen classes.

    Raises:
      UserError: none, one twice, or one without a logit; an image whose label is the only one; or
        an attack that cannot choose.
    """
    is_known = all(isinstance(one, int | np.integer) and 0 <= one < num_classes for one in classes)
    if not classes or not is_known or len(set(classes)) < len(classes):
        raise UserError(
            f"target_classes: {', '.join(map(repr, classes)) or 'none'}; expected some of 0 to"
            f" {num_classes - 1}, each once"
        )
    is_only = labels == classes[0]
    if len(classes) == 1 and is_only.any():
        raise UserError(
            f"target_classes: {classes[0]} is the label of image {int(np.argmax(is_only))}, which"
            " has no other class to reach: leave out images of that class"
        )
    # It moves towards the nearest boundary of any class.
    if "fab" in attacks:
        raise UserError("attacks: fab has no target; expected others with target_classes: fab-t")


def _is_chosen(classes: tuple[int, ...], num_classes: int) -> Bool[np.ndarray, " classes"]:
    is_chosen = np.zeros(num_classes, bool)
    is_chosen[list(classes)] = True
    return is_chosen


@dataclasses.dataclass(frozen=True)
class Reaching(Wrapped[Attack]):
    """An attack that succeeds only with a chosen class.

    Attributes:
      attack: the attack, which sees `grouped` logits.
      classes: the chosen classes.
    """

    classes: tuple[int, ...]

    def begin(self, problem: Problem) -> Any:
        """Returns the state of the attack before any evaluation."""
        return self.attack.begin(problem)

    def step(self, logits_fn: Any, problem: Problem, number: Int[Array, ""], state: Any) -> Any:
        """Returns the next state of the attack on grouped logits."""

        def of_classes(*inputs: Any) -> Logits:
            return grouped(logits_fn(*inputs), problem.labels, self.classes)

        return self.attack.step(of_classes, problem, number, state)
