"""The trainer: `train_and_evaluate(config, workdir)`."""

from bat_jax.training.loop import NonFiniteError
from bat_jax.training.run import train_and_evaluate

__all__ = ["NonFiniteError", "train_and_evaluate"]
