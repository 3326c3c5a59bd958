"""The train state, its creation and its checksum."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32, UInt32

from bat_jax import keys
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


@jax.jit
def fingerprint(state: TrainState) -> UInt32[Array, ""]:
    """Returns a checksum over every bit of the state, to detect damaged copies."""

    def of_leaf(leaf: Array) -> UInt32[Array, ""]:
        words = leaf.astype(jnp.uint32) if leaf.dtype == jnp.bool_ else leaf
        width = min(words.dtype.itemsize, 4)  # 64 bits are two words.
        words = jax.lax.bitcast_convert_type(words, jnp.dtype(f"uint{8 * width}"))
        bits = words.astype(jnp.uint32).reshape(-1)
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
