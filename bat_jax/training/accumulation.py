"""Exact gradients of a batch too large for the device, by gradient accumulation.

A loss with weights and similarities across a batch is not a sum of losses over its parts. So all
parts are forwarded first, the loss is differentiated with respect to their outputs, and each part
is forwarded again to backpropagate its cotangents. This is exactly the chain rule, at the cost of
one more forward pass. (Gao et al., arXiv:2101.06983, do the same for contrastive losses.)

Batch norm normalises each part by the part's own statistics and updates the running statistics
once, by their mean over the parts. Results therefore equal those of the large batch only for models
without batch norm.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bat_jax.methods import Gradient
from bat_jax.training.state import Variables


def split(tree: Any, parts: int) -> Any:
    """Reshapes arrays from `[batch, ...]` to `[parts, batch / parts, ...]`."""
    return jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), tree)


def merge(tree: Any) -> Any:
    """Inverts `split`."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def mapped(function: Callable[[Any], Any], batch: Any, *, parts: int) -> Any:
    """Applies a function part by part; it must treat each example independently."""
    if parts == 1:
        return function(batch)
    return merge(jax.lax.map(function, split(batch, parts)))


def averaged(function: Callable[[Any], Any], batch: Any, *, parts: int) -> Any:
    """Returns the mean of a function's results over the parts."""
    if parts == 1:
        return function(batch)
    found = jax.lax.map(function, split(batch, parts))
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), found)


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
      forward: maps variables and a part of the batch to the outputs, arrays with a leading example
        axis, and the variables with new statistics.
      loss: maps the outputs of the whole batch to `(value, aux)`.
      variables: the model's variables; the gradient is with respect to `params`.
      batch: arrays with a leading example axis.
      parts: the number of parts, of equal size.

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
