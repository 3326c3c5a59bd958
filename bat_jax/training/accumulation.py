"""Gradients of a batch that does not fit the device at once, as of one that does.

A loss over a batch, with weights and similarities among all of its examples, is not a sum of losses
of its parts. So the parts are forwarded first, the loss is differentiated with respect to what came
out of all of them, and each part is forwarded again to carry its share of that back: exactly the
chain rule, for one more forward pass. (Gao et al., arXiv:2101.06983, do so for contrastive losses.)

Batch norm normalises each part by the part's own statistics, as in a small batch, and moves its
running statistics once, by their mean over the parts: a model with it is not trained quite
as by the large batch, one without it is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bat_jax.methods import Gradient
from bat_jax.training.state import Variables


def split(tree: Any, parts: int) -> Any:
    """Returns arrays `[parts, batch / parts, ...]` for those of `[batch, ...]`."""
    return jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), tree)


def merge(tree: Any) -> Any:
    """Returns what was split in one piece."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def mapped(function: Callable[[Any], Any], batch: Any, *, parts: int) -> Any:
    """Returns a function of a batch that treats each example on its own, computed part by part."""
    if parts == 1:
        return function(batch)
    return merge(jax.lax.map(function, split(batch, parts)))


def value_and_grad(
    forward: Callable[[Variables, Any], tuple[Any, Variables]],
    loss: Callable[[Any], Any],
    variables: Variables,
    batch: Any,
    *,
    parts: int,
) -> Gradient:
    """Returns the loss of a batch and its gradient, computed part by part.

    Args:
      forward: from variables and a part of the batch to the outputs, arrays with the examples
        first, and the variables with new statistics.
      loss: from the outputs of the whole batch to `(value, aux)`.
      variables: the model's; the gradient is with respect to its `params`.
      batch: arrays with the examples first.
      parts: how many, of equal size.

    Returns:
      The gradient on this device, and the variables with their new statistics.
    """
    params = variables["params"]
    if parts == 1:

        def whole(params: Any) -> Any:
            outputs, updated = forward({**variables, "params": params}, batch)
            value, aux = loss(outputs)
            return value, (aux, updated)

        (value, (aux, updated)), gradients = jax.value_and_grad(whole, has_aux=True)(params)
        return Gradient(value, aux, updated, gradients)

    pieces = split(batch, parts)
    outputs = jax.lax.map(lambda piece: forward(variables, piece)[0], pieces)
    (value, aux), cotangents = jax.value_and_grad(loss, has_aux=True)(merge(outputs))

    def add(sums: Any, piece_and_cotangent: Any) -> Any:
        piece, cotangent = piece_and_cotangent
        _, pull_back, updated = jax.vjp(
            lambda params: forward({**variables, "params": params}, piece), params, has_aux=True
        )
        (gradients,) = pull_back(cotangent)
        return jax.tree.map(jnp.add, sums, (gradients, _statistics(updated))), None

    zeros = jax.tree.map(jnp.zeros_like, (params, _statistics(variables)))
    (gradients, sums), _ = jax.lax.scan(add, zeros, (pieces, split(cotangents, parts)))
    updated = {**variables, **jax.tree.map(lambda total: total / parts, sums)}
    return Gradient(value, aux, updated, gradients)


def _statistics(variables: Variables) -> Variables:
    return {name: value for name, value in variables.items() if name != "params"}
