"""The learning rate by step, and warm-ups."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from bat_jax.fields import LARGEST_INTEGER


def learning_rate(config: ConfigDict, *, steps_per_epoch: int, total_steps: int) -> optax.Schedule:
    """Returns the learning rate by step, from `config.train`.

    `one_cycle` begins at 0: its first step updates batch statistics and momentum, but no weights.
    Boundaries of `piecewise` that round to the same step all apply. A warm-up of w steps multiplies
    the rate by min(1, (step + 1) / w).
    """
    rate = _schedule(config, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    warmup_steps = config.schedule.warmup_epochs * steps_per_epoch

    def of_step(step: Any) -> Any:
        # Optax's schedules mix integers and floats.
        with jax.numpy_dtype_promotion("standard"):
            # Without a warm-up, the rate is not multiplied by 1, so that it keeps its type.
            return rate(step) * warmth(step, warmup_steps) if warmup_steps else rate(step)

    return of_step


def warmth(step: Any, warmup_steps: float) -> Any:
    """Returns the factor min(1, (step + 1) / warmup_steps) of a linear warm-up.

    It begins above 0, so that the first step counts, and never exceeds 1.
    """
    return jnp.minimum(1.0, jnp.asarray(step + 1, jnp.float32) / warmup_steps)


def first_decay(config: ConfigDict, epochs: float) -> float:
    """Returns the epoch of the first learning rate decay, from `config.train`.

    Schedules without discrete decays return `epochs / 2`.
    """
    if config.schedule.name == "piecewise" and config.schedule.boundaries:
        return min(config.schedule.boundaries)
    return epochs / 2


def _schedule(config: ConfigDict, *, steps_per_epoch: int, total_steps: int) -> optax.Schedule:
    peak, settings = config.optimizer.learning_rate, config.schedule
    if settings.name == "cosine":
        return optax.cosine_decay_schedule(peak, total_steps)
    if settings.name == "one_cycle":
        rise = max(1, round(settings.rise * total_steps))
        return optax.join_schedules(
            [
                optax.linear_schedule(0.0, peak, rise),
                optax.linear_schedule(peak, 0.0, max(1, total_steps - rise)),
            ],
            [rise],
        )
    factors: dict[int, float] = {}
    for epoch in settings.boundaries:
        step = round(epoch * steps_per_epoch)
        # Later steps overflow an int32 and are never reached.
        if step <= LARGEST_INTEGER:
            factors[step] = factors.get(step, 1.0) * settings.factor
    return optax.piecewise_constant_schedule(peak, factors)
