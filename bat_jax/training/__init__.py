"""The trainer: state, step, loop and checkpoints."""

from bat_jax.training.checkpoints import CheckpointError
from bat_jax.training.loop import NonFiniteError

__all__ = ["CheckpointError", "NonFiniteError"]
