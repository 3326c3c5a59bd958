"""The moving average of parameters that is evaluated in their place."""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from bat_jax.training.state import Variables


def is_on(config: ConfigDict) -> bool:
    """Returns whether `config.train` keeps an average."""
    return config.ema > 0


def updated(
    average: Variables, variables: Variables, step: Int[Array, ""], config: ConfigDict
) -> Variables:
    """Returns the average after a step, average <- d average + (1 - d) variables.

    d is `config.ema`, or min(ema, (1 + t) / (10 + t)) at step t with `ema_warmup`, as the robust
    models of Gowal et al. average (arXiv:2010.03593).

    Args:
      average: the average before the step.
      variables: the model's after the step.
      step: t, the number of steps before this one.
      config: `config.train`.
    """
    new: dict[str, Any] = optax.incremental_update(variables, average, 1.0 - _decay(step, config))
    if config.ema_statistics == "live":
        new = {**variables, "params": new["params"]}
    return new


def _decay(step: Int[Array, ""], config: ConfigDict) -> float | Float[Array, ""]:
    if not config.ema_warmup:
        decay: float = config.ema
        return decay
    t = step.astype(jnp.float32)
    return jnp.minimum(config.ema, (1.0 + t) / (10.0 + t))
