"""The train state, and the schedule of its learning rate."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32, UInt32
from ml_collections import ConfigDict

from bat_jax import keys
from bat_jax.fields import LARGEST_INTEGER
from bat_jax.methods import Memory
from bat_jax.models import Classifier

Variables = dict[str, Any]


class TrainState(flax.struct.PyTreeNode):
    """Everything that changes during training.

    Attributes:
      step: the number of updates so far.
      variables: the model's `params` and, if any, `batch_stats`.
      opt_state: the state of the optax optimizer.
      ema: the moving average of `variables`, or None.
      memory: the method's memories by name, arrays with one row per training example.
    """

    step: Int32[Array, ""]
    variables: Variables
    opt_state: optax.OptState
    ema: Variables | None
    memory: dict[str, Memory]

    @property
    def evaluated(self) -> Variables:
        """The variables for evaluation: the moving average if there is one."""
        return self.variables if self.ema is None else self.ema


def create(
    model: Classifier,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    *,
    seed: keys.Seed,
    ema: bool,
    memory: dict[str, Memory],
) -> TrainState:
    """Returns the state of step 0, a function of the seed.

    Args:
      model: from `bat_jax.models.create`.
      optimizer: the optimizer of the parameters.
      image_shape: height, width, channels.
      seed: determines the initialisation.
      ema: whether to keep a moving average.
      memory: the initial memories of the training examples.
    """
    key = keys.derive(seed, keys.Purpose.INITIALIZATION)
    variables = dict(model.init(key, jnp.zeros((1, *image_shape))))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        opt_state=optimizer.init(variables["params"]),
        # A copy: the step donates its state, and a buffer can be donated only once.
        ema=jax.tree.map(jnp.copy, variables) if ema else None,
        memory=memory,
    )


def schedule(config: ConfigDict, *, steps_per_epoch: int, total_steps: int) -> optax.Schedule:
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


def first_decay(config: ConfigDict, epochs: float) -> float:
    """Returns the epoch of the first learning rate decay, from `config.train`.

    Schedules without discrete decays return `epochs / 2`.
    """
    if config.schedule.name == "piecewise" and config.schedule.boundaries:
        return min(config.schedule.boundaries)
    return epochs / 2


@jax.jit
def fingerprint(state: TrainState) -> UInt32[Array, ""]:
    """Returns a checksum over every bit of the state, to detect damaged copies."""

    def of_leaf(leaf: Array) -> UInt32[Array, ""]:
        words = leaf.astype(jnp.uint32) if leaf.dtype == jnp.bool_ else leaf
        bits = jax.lax.bitcast_convert_type(words, jnp.uint32).reshape(-1)
        places = jnp.arange(bits.size, dtype=jnp.uint32)
        # Odd factors detect every single-bit change; the positions detect exchanged values.
        return jnp.sum((bits + places) * (places * 2 + 1), dtype=jnp.uint32)

    total = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(state):
        total = total * 31 + of_leaf(leaf)
    return total


def number_of_parameters(variables: Variables) -> int:
    """Returns the number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
