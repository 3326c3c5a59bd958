"""The trainer: state, step, loop, checkpoints and callbacks."""

from bat_jax.training.callbacks import Callback, Record
from bat_jax.training.loop import NonFiniteError
from bat_jax.training.trouble import CheckpointError

__all__ = ["Callback", "CheckpointError", "NonFiniteError", "Record"]
