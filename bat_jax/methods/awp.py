"""Adversarial weight perturbation (AWP), an option of every method.

Source: Wu et al., Adversarial Weight Perturbation Helps Robust Generalization, arXiv:2004.05884.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from bat_jax.methods.base import Gradient, Method, Variables


def perturbation(params: Any, gradients: Any) -> Any:
    """Returns v, the direction that raises the loss, scaled to the norm of each tensor.

        v_W = ||W||_F g_W / ||g_W||_F   for each W of 2 or more dimensions,  0 elsewhere

    So kernels of convolutions and dense layers are perturbed; biases, batch norm, and tensors whose
    gradient is 0, are not.

    Args:
      params: w, a tree of arrays.
      gradients: g, the gradient of the loss at w, a tree like `params`.

    References:
      Wu et al., Adversarial Weight Perturbation Helps Robust Generalization, arXiv:2004.05884
    """

    def of_tensor(weight: Float[Array, "..."], gradient: Float[Array, "..."]) -> Array:
        if weight.ndim < 2:
            return jnp.zeros_like(weight)
        # Squares of small gradients underflow in float32: first scale the largest entry to 1.
        largest = jnp.max(jnp.abs(gradient), initial=0.0)
        scaled = gradient / jnp.where(largest > 0, largest, 1.0)
        return scaled * (optax.tree.norm(weight) / jnp.maximum(optax.tree.norm(scaled), 1.0))

    return jax.tree.map(of_tensor, params, gradients)


def gradient(
    method: Method,
    value_and_grad: Callable[[Variables], Gradient],
    variables: Variables,
    *,
    epoch: Float[Array, ""],
    gamma: float,
    start_epoch: float,
) -> Gradient:
    """Returns the method's gradient at the perturbed parameters w + gamma v.

    v maximises the method's own loss to first order. The gradient and weight decay are those at
    w + gamma v, but the update applies to w:

        m <- mu m + grad L(w + gamma v) + wd (w + gamma v)          w <- w - lr m

    The pass that finds v leaves no trace: batch statistics, metrics and memories come from the pass
    at w + gamma v.

    Args:
      method: the method whose gradient is returned.
      value_and_grad: as for `Method.gradient`.
      variables: the model's variables, with w in `params`.
      epoch: epochs completed before this step.
      gamma: size of the perturbation relative to the norm of each tensor; 0 is the plain method.
      start_epoch: the epoch from which parameters are perturbed.
    """
    if gamma == 0:
        return method.gradient(value_and_grad, variables, epoch=epoch)

    def ascended(params: Any) -> Any:
        found = method.gradient(value_and_grad, variables, epoch=epoch)
        direction = perturbation(params, found.params)
        return jax.tree.map(lambda weight, v: weight + gamma * v, params, direction)

    params = variables["params"]
    if start_epoch > 0:
        # The pass that finds v is skipped in the epochs before `start_epoch`.
        perturbed = jax.lax.cond(epoch >= start_epoch, ascended, lambda same: same, params)
    else:
        perturbed = ascended(params)
    found = method.gradient(value_and_grad, {**variables, "params": perturbed}, epoch=epoch)
    return found if found.decayed is not None else found._replace(decayed=perturbed)
