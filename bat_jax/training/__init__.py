"""The trainer: state, step, loop and checkpoints."""

from bat_jax.training.loop import NonFiniteError
from bat_jax.training.trouble import CheckpointError

__all__ = ["CheckpointError", "NonFiniteError"]
