"""The averages of parameters that are evaluated in their place."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from bat_jax.training.state import Variables


def is_on(config: ConfigDict) -> bool:
    """Returns whether `config.train` keeps an average."""
    return config.ema > 0 or config.swa_start_epoch is not None


def updated(
    average: Variables,
    variables: Variables,
    step: Int[Array, ""],
    config: ConfigDict,
    *,
    steps_per_epoch: int,
) -> Variables:
    """Returns the average after a step, average <- d average + (1 - d) variables.

    d is `config.ema`, or with `ema_warmup` min(ema, (1 + t) / (10 + t)) at step t, as for the
    robust models of Gowal et al. (arXiv:2010.03593). With `swa_start_epoch`, d is 0 before that
    epoch; from then on it is n / (n + 1) at the end of the n-th epoch, counted from 0, and 1 in
    between: stochastic weight averaging (Izmailov et al., arXiv:1803.05407).

    Args:
      average: the average before the step.
      variables: the model's variables after the step.
      step: t, the number of steps before this one.
      config: `config.train`.
      steps_per_epoch: the number of steps between averages of `swa_start_epoch`.
    """
    if config.swa_start_epoch is None:
        share = 1.0 - _decay(step, config)
    else:
        share = _equal_share(step, config.swa_start_epoch, steps_per_epoch)
    new: dict[str, Any] = optax.incremental_update(variables, average, share)
    if config.ema_statistics == "live":
        new = {**variables, "params": new["params"]}
    return new


def batch_statistics(
    trained: Callable[[Variables, Any], tuple[Any, Variables]],
    variables: Variables,
    images: Float[Array, "batch height width channels"],
) -> Any:
    """Returns the batch's own statistics, for a model that keeps moving averages of them.

    The model's moving averages become (1 - m) b if they start at 0, and m + (1 - m) b if they start
    at 1; these two values determine both the momentum m and the batch's statistics b.

    Args:
      trained: maps variables and images to outputs and the variables with new statistics.
      variables: the model's variables.
      images: a batch.
    """

    def moved(value: float) -> Any:
        filled = jax.tree.map(lambda leaf: jnp.full_like(leaf, value), variables["batch_stats"])
        return trained({**variables, "batch_stats": filled}, images)[1]["batch_stats"]

    def of_batch(from_zero: Array, from_one: Array) -> Array:
        # m is the same for all channels; the smallest statistic gives its least rounded value.
        best = jnp.argmin(jnp.abs(from_zero))
        return from_zero / (1.0 - (from_one - from_zero).ravel()[best])

    return jax.tree.map(of_batch, moved(0.0), moved(1.0))


def _decay(step: Int[Array, ""], config: ConfigDict) -> float | Float[Array, ""]:
    if not config.ema_warmup:
        decay: float = config.ema
        return decay
    t = step.astype(jnp.float32)
    return jnp.minimum(config.ema, (1.0 + t) / (10.0 + t))


def _equal_share(step: Int[Array, ""], start: int, steps_per_epoch: int) -> Float[Array, ""]:
    """Returns the share of the parameters after a step in an equal average of epochs."""
    number = step // steps_per_epoch - start
    is_end = (step + 1) % steps_per_epoch == 0
    averaged = jnp.maximum(number, 0).astype(jnp.float32)
    share = jnp.where(is_end, 1.0 / (averaged + 1.0), 0.0)
    # Until the first of these epochs ends, there is nothing to average.
    return jnp.where(number <= 0, 1.0, share)
