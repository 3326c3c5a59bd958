"""The trainer: `train_and_evaluate(config, workdir)`."""

from bat_jax.training.checkpoints import CheckpointError
from bat_jax.training.loop import NonFiniteError
from bat_jax.training.run import train_and_evaluate

__all__ = ["CheckpointError", "NonFiniteError", "train_and_evaluate"]
